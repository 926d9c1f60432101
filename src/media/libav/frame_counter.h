#pragma once

#include <algorithm>
#include <cstdint>
#include <set>

namespace rfseg::libav {

/// Numbers the frames of a stream in the order of presentation, from 0, counting those that fail to
/// decode. A decoder gives out frames in the order of their time stamps, so that the frames before
/// one of time t are those whose packets were seen with a smaller time. From the first packet
/// without a time stamp, or with an impossible one, on, frames are counted as they come, after
/// those that were still to come by their time.
class FrameCounter {
 public:
  static constexpr int64_t kNoTime = INT64_MIN;  // AV_NOPTS_VALUE

  /// Starts again after `skipped` frames.
  void restart(int64_t skipped) {
    waiting_ = {};
    latest_ = latest_before_group_ = kNoTime;
    next_ = skipped;
    by_time_ = true;
  }
  /// A packet that holds one frame goes to the decoder.
  void packet(int64_t pts, int64_t dts = kNoTime, bool key = false) {
    if (key) latest_before_group_ = latest_;
    latest_ = std::max(latest_, pts);
    // Times that go back to those of a group before are of another clock; kNoTime is less than all.
    if (pts <= latest_before_group_ || pts == kNoTime) by_time_ = false;
    if (pts == kNoTime) return;
    // None is shown before it is decoded, nor two at once.
    const bool possible = pts >= dts && waiting_.size() < kMostWaiting &&
                          (by_time_ ? waiting_.insert(pts).second : waiting_.count(pts) == 0);
    if (possible) return;
    by_time_ = false;
    waiting_.clear();
  }
  /// Number of the frame that the decoder gave out.
  int64_t frame(int64_t pts) {
    if (pts == kNoTime) by_time_ = false;
    if (!by_time_ && (pts == kNoTime || waiting_.count(pts) == 0)) return next_++;
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
  std::set<int64_t> waiting_;  // to be shown; of packets before the first without a time
  int64_t latest_ = kNoTime, latest_before_group_ = kNoTime;  // of the packets
  int64_t next_ = 0;
  bool by_time_ = true;
};

}  // namespace rfseg::libav
