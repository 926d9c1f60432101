#include "media/libav/support.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

extern "C" {
#include <libavutil/avutil.h>
#include <libavutil/error.h>
#include <libavutil/log.h>
}

namespace rfseg::libav {
namespace {

std::atomic<const Host*> g_host{nullptr};
thread_local std::string t_last_error;
thread_local int t_print_prefix = 1;

/// What FFmpeg says of a connection, without options that it adds and a length that nobody told.
std::string without_innards(std::string text) {
  const std::size_t url = text.find("://"), options = text.find('?', url);
  if (text.rfind("Connection to ", 0) == 0 && url != std::string::npos &&
      options != std::string::npos) {
    text.erase(options, text.find(' ', options) - options);
  }
  constexpr const char* kUnknown = ", should be 18446744073709551615";
  const std::size_t length = text.find(kUnknown);
  if (length != std::string::npos) text.erase(length);
  return text;
}

void on_av_log(void* context, int level, const char* format, va_list arguments) {
  if (level > AV_LOG_WARNING) return;
  char line[512];
  av_log_format_line2(context, level, format, arguments, line, sizeof line, &t_print_prefix);
  std::string text = line;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  if (text.empty()) return;
  if (level <= AV_LOG_ERROR) {
    // Without "[mov,mp4 @ 0x55...] ", which means nothing to a reader of our message.
    std::size_t start = 0;
    while (start < text.size() && text[start] == '[') {
      const std::size_t end = text.find("] ", start);
      if (end == std::string::npos) break;
      start = end + 2;
    }
    // This one says nothing beyond the line before it.
    if (text.compare(start, 23, "Failed setup for format") != 0 || t_last_error.empty()) {
      t_last_error = without_innards(text.substr(start));
    }
  }
  log(kLogDebug, "FFmpeg: " + text);
}

}  // namespace

void log(int level, const std::string& message) {
  const Host* host = g_host.load(std::memory_order_acquire);
  if (host != nullptr && host->log != nullptr) host->log(level, message.c_str());
}

void route_logging(const Host* host) {
  g_host.store(host, std::memory_order_release);
  av_log_set_callback(on_av_log);
}

void clear_last_error_line() { t_last_error.clear(); }
std::string last_error_line() { return t_last_error; }

std::string describe(int av_error) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(av_error, text, sizeof text);
  std::string message = text;
  if (!t_last_error.empty() && t_last_error != message) message += " (" + t_last_error + ")";
  return message;
}

void fail(ErrorCode code, const std::string& name, const std::string& what, int av_error) {
  throw Error(code, name + ": " + what + ": " + describe(av_error));
}

}  // namespace rfseg::libav
