#pragma once

#include <atomic>
#include <cstdint>

namespace rfseg::libav {

/// Interrupts blocking calls of libavformat: when the caller asks to stop, or when a network or a
/// device gives nothing for too long. `on_interrupt` may be called from any thread.
class Watch {
 public:
  Watch(bool (*cancelled)(void*), void* context) : cancelled_(cancelled), context_(context) {}
  /// Calls that begin now must return within `seconds`; 0 is for ever.
  void arm(double seconds);
  bool expired() const;
  bool cancelled() const { return cancelled_ != nullptr && cancelled_(context_); }
  static int on_interrupt(void* watch);

 private:
  bool (*cancelled_)(void*);
  void* context_;
  std::atomic<int64_t> deadline_us_{INT64_MAX};  // of the steady clock
};

}  // namespace rfseg::libav
