#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

namespace rfseg::libav {

/// Numbers the frames of a stream in the order of presentation, from 0, counting those that fail to
/// decode. A decoder gives out frames in the order of their time stamps, so that the frames before
/// one of time t are those whose packets were seen with a smaller time. Without time stamps frames
/// are counted as they come.
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
  void packet(int64_t pts) {
    if (pts == kNoTime || waiting_.size() >= kMostWaiting) by_time_ = false;
    if (by_time_) waiting_.push(pts);
  }
  /// Number of the frame that the decoder gave out.
  int64_t frame(int64_t pts) {
    if (!by_time_ || pts == kNoTime) {
      by_time_ = false;
      return next_++;
    }
    int64_t passed = 0;
    for (; !waiting_.empty() && waiting_.top() <= pts; ++passed) waiting_.pop();
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
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> waiting_;
  int64_t next_ = 0;
  bool by_time_ = true;
};

}  // namespace rfseg::libav
