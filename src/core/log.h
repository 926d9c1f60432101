#pragma once

#include <string>

namespace rfseg {

enum class LogLevel { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

/// The library never prints: messages go to one sink, which by default drops them. The program sets
/// a sink that writes to stderr. Thread-safe.
using LogSink = void (*)(LogLevel, const std::string& message);
void set_log_sink(LogSink sink);
void log_message(LogLevel level, const std::string& message);
inline void log_warning(const std::string& m) { log_message(LogLevel::kWarning, m); }
inline void log_info(const std::string& m) { log_message(LogLevel::kInfo, m); }
inline void log_debug(const std::string& m) { log_message(LogLevel::kDebug, m); }

}  // namespace rfseg
