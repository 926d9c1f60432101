#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cli/common.h"

namespace rfseg::cli {

Progress::Progress(std::string unit)
    : unit_(std::move(unit)),
      enabled_(!is_quiet() && isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()) {
  const char* term = std::getenv("TERM");
  if (term != nullptr && std::strcmp(term, "dumb") == 0) enabled_ = false;
}

Progress::~Progress() { clear(); }

void Progress::update(int64_t done, int64_t total) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - last_ < std::chrono::milliseconds(100) && done != total) return;
  last_ = now;
  drawn_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double rate = elapsed > 0 ? static_cast<double>(done) / elapsed : 0;
  std::string line;
  if (total > 0) {
    static constexpr int kWidth = 30;
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const int filled = static_cast<int>(share * kWidth);
    line = fmt::format("[{}{}] {:3.0f}%  {}/{} {}", std::string(filled, '='),
                       std::string(kWidth - filled, ' '), share * 100, done, total, unit_);
    if (rate > 0 && done < total) {
      line += fmt::format("  {:.1f}/s  {} left", rate,
                          human_seconds(static_cast<double>(total - done) / rate));
    }
  } else {
    line = fmt::format("{} {}  {:.1f}/s  {}", done, unit_, rate, human_seconds(elapsed));
  }
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace rfseg::cli
