#include "cli/common.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "core/cpu.h"
#include "core/files.h"
#include "core/log.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace rfseg::cli {
namespace {

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<bool> g_interrupted{false};

void print_log(LogLevel level, const std::string& message) {
  if (static_cast<int>(level) > g_level.load()) return;
  static constexpr const char* kPrefix[] = {"error: ", "warning: ", "", "debug: "};
  const std::string line = fmt::format("rfseg: {}{}\n", kPrefix[static_cast<int>(level)], message);
  // A progress bar may stand on the line: clear it first, it redraws itself.
  if (isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void on_signal(int) { g_interrupted.store(true); }

}  // namespace

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
         "error, warning, info (default) or debug")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}));
}

void add_runtime_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--device", options.model_options.device, "auto, cpu or cuda[:N]")
      ->capture_default_str();
  const std::map<std::string, Precision> precisions = {
      {"fp32", Precision::kFp32}, {"fp16", Precision::kFp16}, {"tf32", Precision::kTf32}};
  app.add_option("--precision", options.model_options.precision, "fp32 (the CPU's), fp16 or tf32")
      ->transform(CLI::CheckedTransformer(precisions).description(""));
  const std::map<std::string, Backend> backends = {
      {"auto", Backend::kAuto}, {"reference", Backend::kReference}, {"cpu", Backend::kCpu}};
  app.add_option("--backend", options.model_options.backend,
                 "auto, cpu (fast) or reference (plain): forces the implementation")
      ->transform(CLI::CheckedTransformer(backends).description(""));
  app.add_option("--threads", options.model_options.threads,
                 "CPU threads; default: the cores that this process may use")
      ->check(CLI::Range(1, 1024).description(""));
}

void add_model_options(CLI::App& app, CommonOptions& options) {
  app.add_option("-m,--model", options.model,
                 "Checkpoint (.pth, .pt, .ckpt, .safetensors), or the name of a downloaded variant")
      ->required();
  app.add_option("--variant", options.model_options.variant,
                 "Decides the variant where the file does not");
  app.add_option("--shape", options.shape, "Network input HxW other than the checkpoint's");
  add_runtime_options(app, options);
  app.add_option("--stats", options.stats, "Write times, backend and counts as JSON to this file");
}

void add_convention_options(CLI::App& app, PredictOptions& options) {
  const std::map<std::string, Convention> conventions = {{"rfdetr", Convention::kRfdetr},
                                                         {"rfdetr-eval", Convention::kRfdetrEval},
                                                         {"inference", Convention::kInference}};
  app.add_option("--like", options.like,
                 "Whose conventions: rfdetr (default), rfdetr-eval, inference")
      ->transform(CLI::CheckedTransformer(conventions).description(""));
  const std::map<std::string, ResizeMode> modes = {{"bilinear", ResizeMode::kBilinear},
                                                   {"pil", ResizeMode::kPil},
                                                   {"pil13", ResizeMode::kPil13},
                                                   {"antialias", ResizeMode::kAntialias}};
  app.add_option_function<ResizeMode>(
         "--resize", [&options](const ResizeMode& mode) { options.resize = mode; },
         "bilinear, pil, pil13 (passes ordered as Pillow 13) or antialias; default: as --like says")
      ->transform(CLI::CheckedTransformer(modes).description(""));
}

void add_selection_options(CLI::App& app, PredictOptions& options) {
  app.add_option_function<float>(
      "--threshold", [&options](float value) { options.threshold = value; },
      "Keep scores above T (0..1); default 0.5, or as --like says");
  app.add_option_function<std::vector<std::string>>(
      "--class-threshold",
      [&options](const std::vector<std::string>& pairs) {
        for (const std::string& pair : pairs) {
          const std::size_t equals = pair.rfind('=');
          float value = 0;
          const char* begin = pair.data() + equals + 1;
          const char* end = pair.data() + pair.size();
          if (equals == std::string::npos || equals == 0 ||
              std::from_chars(begin, end, value).ptr != end || begin == end) {
            throw Error(
                ErrorCode::kUsage,
                fmt::format("--class-threshold: '{}' is not NAME=T, for example cat=0.3", pair));
          }
          options.class_thresholds[pair.substr(0, equals)] = value;
        }
      },
      "Threshold of one class, NAME=T (repeatable)");
  app.add_option("--max-detections", options.max_detections, "At most N results a picture")
      ->capture_default_str();
  app.add_option("--num-select", options.num_select,
                 "Pairs of query and class considered; default: the variant's");
  app.add_option_function<std::string>(
      "--classes",
      [&options](const std::string& path) { options.class_names = read_class_file(path); },
      "File of class names, one a line; default: the checkpoint's");
  app.add_option("--keep", options.keep, "Keep only this class (repeatable)");
  app.add_option("--drop", options.drop, "Leave out this class (repeatable)");
}

std::pair<int, int> parse_size(const std::string& text, const char* option) {
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1 || value > 65535) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: '{}' is not HxW in pixels, for example 480x640", option, text));
    }
    return value;
  };
  const std::size_t x = text.find_first_of("xX");
  if (x == std::string::npos) return {number(text), number(text)};
  return {number(std::string_view(text).substr(0, x)),
          number(std::string_view(text).substr(x + 1))};
}

ModelOptions CommonOptions::resolved() const {
  ModelOptions result = model_options;
  if (!shape.empty()) std::tie(result.height, result.width) = parse_size(shape, "--shape");
  return result;
}

std::vector<std::string> read_class_file(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 20);
  std::vector<std::string> names(1);
  for (const uint8_t byte : bytes) {
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
  // The first Ctrl-C finishes the frame in flight; the second ends the program at once.
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A closed pipe is an output that cannot be written (exit code 6), not a death.
  signal(SIGPIPE, SIG_IGN);
}

std::size_t peak_rss_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::string human_seconds(double seconds) {
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1000);
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<long long>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

nlohmann::json runtime_json(const std::string& backend, int threads) {
  return {{"version", RFSEG_VERSION},
          {"device", "cpu"},
          {"backend", backend},
          {"precision", "fp32"},
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
}

}  // namespace rfseg::cli
