#include "cli/common.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/coco_rle.h"
#include "core/cpu.h"
#include "core/files.h"
#include "core/log.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace rfseg::cli {
namespace {

constexpr const char* kStdout = "/dev/stdout";

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<bool> g_interrupted{false};

// One message is one line, and nothing in it (a file name) may steer the terminal.
std::string printable_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

void print_log(LogLevel level, const std::string& message) {
  if (static_cast<int>(level) > g_level.load()) return;
  static constexpr const char* kPrefix[] = {"error: ", "warning: ", "", "debug: "};
  const std::string line =
      fmt::format("rfseg: {}{}\n", kPrefix[static_cast<int>(level)], printable_line(message));
  // A progress bar may stand on the line: clear it first, it redraws itself.
  if (isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

constexpr int kEndingSignals[] = {SIGINT, SIGTERM, SIGHUP};

void end_at_once(int) {
  remove_temporary_files();
  _exit(static_cast<int>(ErrorCode::kCancelled));
}

// What the caller has set to be ignored (nohup, a script's background job) stays so.
void set_handler(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  for (const int number : kEndingSignals) {
    struct sigaction inherited {};
    if (sigaction(number, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN) continue;
    sigaction(number, &action, nullptr);
  }
}

int64_t monotonic_ms() {
  struct timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

std::atomic<int64_t> g_interrupt_ms{0};

// A second signal does not wait for the work in flight. One that comes at once is the same request:
// some senders signal both the process and its group.
void remember_interrupt(int number) {
  const int64_t now = monotonic_ms();
  if (!g_interrupted.exchange(true)) {
    g_interrupt_ms.store(now);
    if (!is_quiet()) {
      static constexpr char kText[] =
          "\nrfseg: stopping when what is under way is done; asked again, at once\n";
      [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, kText, sizeof(kText) - 1);
    }
  } else if (now - g_interrupt_ms.load() > 500) {
    end_at_once(number);
  }
}

}  // namespace

void log_to_stderr(LogLevel level) {
  g_level = static_cast<int>(level);
  set_log_sink(print_log);
}

bool is_quiet() { return g_level.load() <= static_cast<int>(LogLevel::kError); }

std::pair<int, int> parse_size(const std::string& text, const char* option, int max_side) {
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1 || value > max_side) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: '{}' is not HxW in pixels, each 1 to {}, for example 480x640",
                              option, text, max_side));
    }
    return value;
  };
  const std::size_t x = text.find_first_of("xX");
  const int height = number(std::string_view(text).substr(0, x));
  const int width = x == std::string::npos ? height : number(std::string_view(text).substr(x + 1));
  if (int64_t{height} * width > kMostMaskPixels) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: '{}' is over the limit of {} pixels in all",
                                               option, text, kMostMaskPixels));
  }
  return {height, width};
}

std::vector<int> parse_counts(const std::string& text, const char* option, const char* example,
                              int most) {
  std::vector<int> counts;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    int value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || value < 1 || value > most || (next != end && *next != ',')) {
      refuse_value(option, text, fmt::format("a list such as {} (each 1 to {})", example, most));
    }
    counts.push_back(value);
    if (next == end) return counts;
    at = next + 1;
  }
}

ModelOptions CommonOptions::resolved() const {
  ModelOptions result = model_options;
  if (!shape.empty()) std::tie(result.height, result.width) = parse_size(shape, "--shape");
  return result;
}

std::vector<std::string> read_class_file(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 20);
  std::vector<std::string> names(1);
  const bool has_mark =
      bytes.size() >= 3 && bytes[0] == 0xef && bytes[1] == 0xbb && bytes[2] == 0xbf;
  for (std::size_t i = has_mark ? 3 : 0; i < bytes.size(); ++i) {
    const uint8_t byte = bytes[i];
    if (byte == '\n') {
      names.emplace_back();
    } else if (byte != '\r') {
      names.back() += static_cast<char>(byte);
    }
  }
  if (names.back().empty()) names.pop_back();
  if (names.empty()) throw Error(ErrorCode::kInput, fmt::format("{}: holds no class name", path));
  return names;
}

void check_class_count(std::size_t names, int logits) {
  const auto columns = static_cast<std::size_t>(logits);
  if (names == 0 || names == columns || names + 1 == columns) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("--classes: {} names, but the model has {} classes (one name a line, in "
                          "the order of the class ids, from 0)",
                          names, logits));
}

bool interrupted() { return g_interrupted.load(); }

void install_signal_handlers() {
  set_handler(end_at_once);
  // A closed pipe or a file size limit is an output that cannot be written (exit code 6).
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

void finish_work_on_interrupt() { set_handler(remember_interrupt); }

void guard_standard_streams() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) != -1) continue;
    // For the other direction only: its use fails, as it should. open takes the lowest free number.
    const int direction = descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    if (open("/dev/null", direction) != descriptor) _exit(static_cast<int>(ErrorCode::kOutput));
  }
}

void refuse_value(const std::string& name, const std::string& value, const std::string& accepted) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: '{}' is not {}", name, value, accepted));
}

std::string output_path(const std::string& name) { return name == "-" ? kStdout : name; }

void refuse_dash(const std::string& path, const char* option, const char* expected) {
  if (path != "-") return;
  throw Error(ErrorCode::kUsage, fmt::format("{} -: standard output is not possible here; {} is "
                                             "expected (one that is called so: ./-)",
                                             option, expected));
}

void refuse_missing_folder(const std::string& path, const char* option, const std::string& made) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path parent = fs::path(path).parent_path();
  if (path.empty() || parent.empty() || fs::exists(parent, ignored)) return;
  if (!made.empty()) {
    const fs::path there = fs::weakly_canonical(fs::absolute(made), ignored) / "";
    const fs::path wanted = fs::weakly_canonical(fs::absolute(parent), ignored);
    const auto ends = std::mismatch(wanted.begin(), wanted.end(), there.begin(), there.end());
    if (ends.first == wanted.end()) return;
  }
  throw Error(ErrorCode::kOutput, fmt::format("{} {}: there is no folder {}; create it first",
                                              option, path, parent.string()));
}

std::size_t peak_rss_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::string human_seconds(double seconds) {
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1000);
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

nlohmann::json runtime_json(const ModelInfo& model, int threads) {
  return {{"version", RFSEG_VERSION},
          {"device", model.device},
          {"backend", model.backend},
          {"precision", model.precision},
          {"threads", threads > 0 ? threads : available_cpus()}};
}

void create_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error || !std::filesystem::is_directory(path)) {
    throw Error(ErrorCode::kOutput,
                fmt::format("{}: cannot create the folder: {}", path,
                            error ? error.message() : "a file of that name exists"));
  }
  if (access(path.c_str(), W_OK | X_OK) != 0) {
    throw Error(ErrorCode::kOutput,
                fmt::format("{}: cannot write into the folder: {}", path, std::strerror(errno)));
  }
}

}  // namespace rfseg::cli
