#include "cli/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>

#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

std::optional<double> parse_number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

void add_log_options(CLI::App& app) {
  log_to_stderr(LogLevel::kInfo);
  app.add_flag_callback(
      "-q,--quiet", [] { log_to_stderr(LogLevel::kError); }, "Errors only on stderr");
  app.add_flag_callback(
      "-v,--verbose", [] { log_to_stderr(LogLevel::kDebug); }, "Everything on stderr");
  app.add_option_function<std::string>(
         "--log-level",
         [](const std::string& name) {
           log_to_stderr(name == "error"     ? LogLevel::kError
                         : name == "warning" ? LogLevel::kWarning
                         : name == "info"    ? LogLevel::kInfo
                                             : LogLevel::kDebug);
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
      "Forces the implementation: cpu is the fast one of the CPU, reference the plain one; default "
      "(auto): RFSEG_BACKEND of the environment, else what --device says");
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
  app.add_option("--weights-cache", options.model_options.weights_cache,
                 "Folder for weights packed for a GPU, so that the next start is faster")
      ->type_name("DIR");
  app.add_option("--stats", options.stats, "Write times, backend and counts as JSON to this file")
      ->type_name("FILE");
}

void add_like_option(CLI::App& app, PredictOptions& options) {
  add_choice<Convention>(
      app, "--like",
      {{"rfdetr", Convention::kRfdetr},
       {"rfdetr-eval", Convention::kRfdetrEval},
       {"inference", Convention::kInference}},
      [&options](Convention value) { options.like = value; }, "Whose conventions hold (rfdetr)");
}

void add_convention_options(CLI::App& app, PredictOptions& options) {
  add_like_option(app, options);
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
             const std::string name = pair.substr(0, equals);
             if (!options.class_thresholds.emplace(name, static_cast<float>(*value)).second) {
               throw Error(ErrorCode::kUsage,
                           fmt::format("--class-threshold: '{}' is given twice", name));
             }
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

void refuse_options(const CLI::App& verb, std::initializer_list<const char*> names,
                    const std::string& why) {
  for (const char* name : names) {
    if (verb.count(name) > 0) throw Error(ErrorCode::kUsage, fmt::format("{}: {}", name, why));
  }
}

void refuse_beside(const CLI::App& verb, std::initializer_list<const char*> names,
                   const char* other) {
  if (verb.count(other) == 0) return;
  for (const char* name : names) {
    if (verb.count(name) == 0) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("{} and {}: only one of them is accepted", name, other));
  }
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

CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high,
                         std::function<void(int)> set, const std::string& description) {
  return app
      .add_option_function<std::string>(
          name,
          [=, set = std::move(set)](const std::string& text) {
            int parsed = 0;
            const char* end = text.data() + text.size();
            const auto [at, error] = std::from_chars(text.data(), end, parsed);
            if (error != std::errc() || at != end || parsed < low || parsed > high) {
              refuse_value(name, text, fmt::format("a whole number from {} to {}", low, high));
            }
            set(parsed);
          },
          description)
      ->type_name("INT");
}

CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high, int& value,
                         const std::string& description) {
  return add_integer(
      app, name, low, high, [&value](int parsed) { value = parsed; }, description);
}

}  // namespace rfseg::cli
