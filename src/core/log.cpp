#include "core/log.h"

#include <atomic>

namespace rfseg {
namespace {
std::atomic<LogSink> g_sink{nullptr};
}

void set_log_sink(LogSink sink) { g_sink.store(sink); }

void log_message(LogLevel level, const std::string& message) {
  if (LogSink sink = g_sink.load()) sink(level, message);
}

}  // namespace rfseg
