#pragma once

#include <string>

#include "media/libav/libav_api.h"
#include "rfseg/error.h"

namespace rfseg::libav {

/// Levels of core/log.h.
inline constexpr int kLogWarning = 1, kLogDebug = 3;
void log(int level, const std::string& message);

/// Sends FFmpeg's own messages to `host`: all of them as debug messages, since what matters of them
/// is said once by an Error or a warning of ours.
void route_logging(const Host* host);

/// Forgets, and returns, the last error line that FFmpeg logged on this thread, "" if none.
void clear_last_error_line();
std::string last_error_line();

/// FFmpeg's text for an error number, with the last line that it logged where there is one.
std::string describe(int av_error);

/// Throws Error(code): "name: what: FFmpeg's text".
[[noreturn]] void fail(ErrorCode code, const std::string& name, const std::string& what,
                       int av_error);

}  // namespace rfseg::libav
