#pragma once

#include <cstdint>
#include <set>

namespace rfseg::libav {

/// Numbers the frames of a stream in the order of presentation, from 0, counting those that fail to
/// decode. A decoder gives out frames in the order of their time stamps, so that the frames before
/// one of time t are those whose packets were seen with a smaller time. Without time stamps, and
/// from the first impossible one on, frames are counted as they come.
class FrameCounter {
 public:
  static constexpr int64_t kNoTime = INT64_MIN;  // AV_NOPTS_VALUE

  /// Starts again after `skipped` frames.
  void restart(int64_t skipped) {
    waiting_ = {};
    next_ = skipped;
    by_time_ = true;
  }
  /// A packet that holds one frame goes to the decoder.
  void packet(int64_t pts, int64_t dts = kNoTime) {
    // None is shown before it is decoded, nor two at once. kNoTime is less than every time.
    if (pts == kNoTime || pts < dts || waiting_.size() >= kMostWaiting) by_time_ = false;
    if (by_time_) by_time_ = waiting_.insert(pts).second;
  }
  /// Number of the frame that the decoder gave out.
  int64_t frame(int64_t pts) {
    if (!by_time_ || pts == kNoTime) {
      by_time_ = false;
      return next_++;
    }
    int64_t passed = 0;
    while (!waiting_.empty() && *waiting_.begin() <= pts) {
      waiting_.erase(waiting_.begin());
      ++passed;
    }
    next_ += passed > 0 ? passed : 1;
    return next_ - 1;
  }
  /// A frame failed to decode.
  void broken() {
    if (!by_time_) ++next_;  // else its packet was counted
  }

 private:
  // More than any decoder holds back, or a stream of two times of which one went backwards.
  static constexpr std::size_t kMostWaiting = 4096;
  std::set<int64_t> waiting_;
  int64_t next_ = 0;
  bool by_time_ = true;
};

}  // namespace rfseg::libav
