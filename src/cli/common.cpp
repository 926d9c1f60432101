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
#include <optional>

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

void set_handler(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  for (const int number : kEndingSignals) sigaction(number, &action, nullptr);
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
  } else if (now - g_interrupt_ms.load() > 500) {
    end_at_once(number);
  }
}

std::optional<double> parse_number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

bool is_quiet() { return g_level.load() <= static_cast<int>(LogLevel::kError); }

void add_log_options(CLI::App& app) {
  set_log_sink(print_log);
  app.add_flag_callback(
      "-q,--quiet", [] { g_level = static_cast<int>(LogLevel::kError); }, "Errors only on stderr");
  app.add_flag_callback(
      "-v,--verbose", [] { g_level = static_cast<int>(LogLevel::kDebug); }, "Everything on stderr");
  app.add_option_function<std::string>(
         "--log-level",
         [](const std::string& name) {
           g_level = name == "error" ? 0 : name == "warning" ? 1 : name == "info" ? 2 : 3;
         },
         "What goes to stderr (info)")
      ->type_name("{error,warning,info,debug}")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}).description(""));
}

void add_runtime_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--device", options.model_options.device, "auto, cpu or cuda[:N]")
      ->type_name("DEVICE")
      ->capture_default_str();
  add_choice<Precision>(
      app, "--precision",
      {{"fp32", Precision::kFp32}, {"fp16", Precision::kFp16}, {"tf32", Precision::kTf32}},
      [&options](Precision value) { options.model_options.precision = value; },
      "Default: fp32 on the CPU, which has no other, fp16 on a GPU");
  add_choice<Backend>(
      app, "--backend",
      {{"auto", Backend::kAuto},
       {"reference", Backend::kReference},
       {"cpu", Backend::kCpu},
       {"cuda", Backend::kCuda}},
      [&options](Backend value) { options.model_options.backend = value; },
      "Forces the implementation: cpu is the fast one of the CPU, reference the plain one");
  app.add_option("--weights-cache", options.model_options.weights_cache,
                 "Folder for weights packed for a GPU, so that the next start is faster")
      ->type_name("DIR");
  add_integer(app, "--threads", 1, 1024, options.model_options.threads,
              "CPU threads; default: the cores that this process may use");
}

void add_model_options(CLI::App& app, CommonOptions& options) {
  app.add_option("-m,--model", options.model,
                 "Checkpoint (.pth, .pt, .ckpt, .safetensors), or the name of a downloaded variant")
      ->type_name("MODEL")
      ->required();
  app.add_option("--variant", options.model_options.variant,
                 "Decides the variant where the file does not")
      ->type_name("NAME");
  app.add_option("--shape", options.shape, "Network input HxW other than the checkpoint's")
      ->type_name("HxW");
  add_runtime_options(app, options);
  app.add_option("--stats", options.stats, "Write times, backend and counts as JSON to this file")
      ->type_name("FILE");
}

void add_convention_options(CLI::App& app, PredictOptions& options) {
  add_choice<Convention>(
      app, "--like",
      {{"rfdetr", Convention::kRfdetr},
       {"rfdetr-eval", Convention::kRfdetrEval},
       {"inference", Convention::kInference}},
      [&options](Convention value) { options.like = value; }, "Whose conventions hold (rfdetr)");
  add_choice<ResizeMode>(
      app, "--resize",
      {{"bilinear", ResizeMode::kBilinear},
       {"pil", ResizeMode::kPil},
       {"pil13", ResizeMode::kPil13},
       {"antialias", ResizeMode::kAntialias}},
      [&options](ResizeMode value) { options.resize = value; },
      "pil13: passes ordered as in Pillow 13; default: as --like says");
}

void add_selection_options(CLI::App& app, PredictOptions& options,
                           std::vector<std::string>& files) {
  add_number(
      app, "--threshold", 0, 1,
      [&options](double value) { options.threshold = static_cast<float>(value); },
      "Keep scores above T (0..1); default 0.5, or as --like says");
  app.add_option_function<std::vector<std::string>>(
         "--class-threshold",
         [&options](const std::vector<std::string>& pairs) {
           for (const std::string& pair : pairs) {
             const std::size_t equals = pair.rfind('=');
             const std::optional<double> value =
                 equals == std::string::npos ? std::nullopt : parse_number(pair.substr(equals + 1));
             if (!value || equals == 0 || *value < 0 || *value > 1) {
               refuse_value("--class-threshold", pair,
                            "NAME=T with T in 0..1, for example cat=0.3");
             }
             options.class_thresholds[pair.substr(0, equals)] = static_cast<float>(*value);
           }
         },
         "Threshold of one class, NAME=T (repeatable)")
      ->type_name("NAME=T")
      ->allow_extra_args(false);
  add_integer(app, "--max-detections", 1, 1000000, options.max_detections,
              "At most N results a picture (default 300)");
  add_integer(app, "--num-select", 1, 100000000, options.num_select,
              "Pairs of query and class considered; default: the variant's");
  app.add_option_function<std::string>(
         "--classes",
         [&options, &files](const std::string& path) {
           options.class_names = read_class_file(path);
           files.push_back(path);
         },
         "File of class names, one a line; default: the checkpoint's")
      ->type_name("FILE");
  app.add_option("--keep", options.keep, "Keep only this class (repeatable)")
      ->type_name("CLASS")
      ->allow_extra_args(false);
  app.add_option("--drop", options.drop, "Leave out this class (repeatable)")
      ->type_name("CLASS")
      ->allow_extra_args(false);
}

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
  if (x == std::string::npos) return {number(text), number(text)};
  return {number(std::string_view(text).substr(0, x)),
          number(std::string_view(text).substr(x + 1))};
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
    // Reading only: what is written to it fails, as it should. open takes the lowest free number.
    if (open("/dev/null", O_RDONLY) != descriptor) _exit(static_cast<int>(ErrorCode::kOutput));
  }
}

void refuse_value(const std::string& name, const std::string& value, const std::string& accepted) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: '{}' is not {}", name, value, accepted));
}

CLI::Option* add_number(CLI::App& app, const std::string& name, double low, double high,
                        std::function<void(double)> set, const std::string& description) {
  return app
      .add_option_function<std::string>(
          name,
          [=, set = std::move(set)](const std::string& text) {
            const std::optional<double> value = parse_number(text);
            if (!value || *value < low || *value > high) {
              refuse_value(name, text,
                           high < 1e18 ? fmt::format("a number from {} to {}", low, high)
                                       : fmt::format("a number of at least {}", low));
            }
            set(*value);
          },
          description)
      ->type_name("FLOAT");
}

CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high, int& value,
                         const std::string& description) {
  return app
      .add_option_function<std::string>(
          name,
          [name, low, high, &value](const std::string& text) {
            int parsed = 0;
            const char* end = text.data() + text.size();
            const auto [at, error] = std::from_chars(text.data(), end, parsed);
            if (error != std::errc() || at != end || parsed < low || parsed > high) {
              refuse_value(name, text, fmt::format("a whole number from {} to {}", low, high));
            }
            value = parsed;
          },
          description)
      ->type_name("INT");
}

std::string output_path(const std::string& name) { return name == "-" ? kStdout : name; }

void refuse_dash(const std::string& path, const char* option, const char* expected) {
  if (path != "-") return;
  throw Error(ErrorCode::kUsage, fmt::format("{} -: standard output is not possible here; {} is "
                                             "expected (one that is called so: ./-)",
                                             option, expected));
}

void refuse_equal_outputs(const std::vector<std::pair<std::string, std::string>>& outputs) {
  std::map<std::string, std::string> seen;
  for (const auto& [option, path] : outputs) {
    const bool standard = path == "-" || path == kStdout;
    if (path.empty() || (!standard && path.starts_with("/dev/"))) continue;
    std::error_code ignored;
    std::string name = kStdout;
    if (!standard) {
      name = std::filesystem::weakly_canonical(std::filesystem::absolute(path), ignored).string();
    }
    const auto [other, is_new] = seen.emplace(ignored ? path : name, option);
    if (!is_new) {
      throw Error(ErrorCode::kUsage, fmt::format("{} and {}: both would write {}", other->second,
                                                 option, standard ? "standard output" : path));
    }
  }
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

void refuse_overwriting_input(const std::string& output, const std::vector<std::string>& inputs,
                              const char* option) {
  std::error_code ignored;
  if (output.empty() || !std::filesystem::is_regular_file(output, ignored)) return;
  for (const std::string& input : inputs) {
    if (std::filesystem::equivalent(output, input, ignored)) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} {}: would overwrite the input {}", option, output, input));
    }
  }
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
