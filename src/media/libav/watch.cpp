#include "media/libav/watch.h"

#include <chrono>

namespace rfseg::libav {
namespace {

int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void Watch::arm(double seconds) {
  deadline_us_ = seconds > 0 ? now_us() + static_cast<int64_t>(seconds * 1e6) : INT64_MAX;
}

bool Watch::expired() const {
  const int64_t deadline = deadline_us_;
  return deadline != INT64_MAX && now_us() > deadline;
}

int Watch::on_interrupt(void* watch) {
  const auto* w = static_cast<const Watch*>(watch);
  return w->cancelled() || w->expired() ? 1 : 0;
}

}  // namespace rfseg::libav
