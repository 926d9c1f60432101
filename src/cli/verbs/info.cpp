#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "core/cpu.h"
#include "core/cuda/usable.h"
#include "engine/engine.h"
#include "media/video_io.h"
#include "pipeline/loaded_model.h"

namespace rfseg::cli {
namespace {

struct InfoArguments {
  std::string model;
  CommonOptions common;
  bool json = false;
};

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBf16:
      return "BF16";
    case DType::kF64:
      return "F64";
    case DType::kBool:
      return "BOOL";
    case DType::kU8:
      return "U8";
    case DType::kI8:
      return "I8";
    case DType::kI16:
      return "I16";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
  }
  return "?";
}

const char* level_name(Level level) {
  return level == Level::kP3 ? "P3" : level == Level::kP4 ? "P4" : "P5";
}

nlohmann::ordered_json describe_cuda() {
  const std::vector<std::string> architectures = cuda::architectures();
  std::string why;
  const bool usable = cuda::usable(&why);
  nlohmann::ordered_json json = {
      {"built_in", !architectures.empty()}, {"architectures", architectures}, {"usable", usable}};
  if (!usable) json["why_not"] = why;
  return json;
}

std::string cuda_line(const nlohmann::ordered_json& cuda) {
  if (!cuda["built_in"].get<bool>()) return "not built in";
  return fmt::format("built in for the architectures {}; {}",
                     fmt::join(cuda["architectures"].get<std::vector<std::string>>(), ", "),
                     cuda["usable"].get<bool>() ? "usable" : cuda["why_not"].get<std::string>());
}

nlohmann::ordered_json describe_program(const DeviceChoice& choice, int threads) {
  ModelInfo runs;
  runs.device = device_name(choice);
  runs.backend = engine_backend_name(choice.backend);
  runs.precision = precision_name(choice.precision);
  nlohmann::ordered_json json = runtime_json(runs, threads);
  json["backends"] = available_engine_backends();
  json["cuda"] = describe_cuda();
  json["video"] = video_backend_version();
  return json;
}

nlohmann::ordered_json describe_model(const Checkpoint& checkpoint, const std::string& path) {
  const ModelConfig& config = checkpoint.config;
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const TensorInfo& tensor : checkpoint.weights->tensors()) {
    tensors.push_back(
        {{"name", tensor.name}, {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}});
  }
  std::vector<std::string> levels;
  for (const Level level : config.levels) levels.emplace_back(level_name(level));
  return {{"file", path},
          {"format", checkpoint.format},
          {"variant", config.variant},
          {"height", config.height},
          {"width", config.width},
          {"queries", config.queries},
          {"num_select", config.num_select},
          {"classes", config.logits},
          {"has_masks", config.seg},
          {"parameters", inference_parameters(config)},
          {"patch", config.patch},
          {"windows", config.windows},
          {"encoder",
           {{"dim", config.enc_dim},
            {"heads", config.enc_heads},
            {"layers", config.enc_layers},
            {"taps", config.taps}}},
          {"decoder",
           {{"dim", config.dim},
            {"layers", config.dec_layers},
            {"points", config.points},
            {"levels", levels}}},
          {"class_names", config.class_names},
          {"metadata", checkpoint.metadata},
          {"tensors", tensors}};
}

std::string as_text(const nlohmann::ordered_json& info) {
  std::string text;
  const auto line = [&](const char* label, const std::string& value) {
    text += fmt::format("{:<16}{}\n", label, value);
  };
  const auto number = [&](const char* key) { return info[key].get<int64_t>(); };
  if (info.contains("file")) {
    line("file", info["file"].get<std::string>());
    line("format", info["format"].get<std::string>());
    line("variant", info["variant"].get<std::string>());
    line("input",
         fmt::format("{} x {} pixels (H x W), patch {}, {} x {} windows", number("height"),
                     number("width"), number("patch"), number("windows"), number("windows")));
    line("queries", fmt::format("{} ({} pairs selected)", number("queries"), number("num_select")));
    line("classes", fmt::format("{} logit columns", number("classes")));
    line("masks", info["has_masks"].get<bool>()
                      ? fmt::format("yes, {} x {}", number("height") / 4, number("width") / 4)
                      : "no (detection model)");
    line("encoder", fmt::format("{} wide, {} blocks", info["encoder"]["dim"].get<int>(),
                                info["encoder"]["layers"].get<int>()));
    line("decoder", fmt::format("{} wide, {} layers", info["decoder"]["dim"].get<int>(),
                                info["decoder"]["layers"].get<int>()));
    line("parameters",
         fmt::format("{:.2f} M used at inference; {} tensors in the file (--json lists them)",
                     static_cast<double>(number("parameters")) / 1e6, info["tensors"].size()));
    std::string names;
    std::size_t count = 0;
    for (const auto& name : info["class_names"]) {
      if (name.get<std::string>().empty()) continue;
      if (++count <= 8) names += (names.empty() ? "" : ", ") + name.get<std::string>();
    }
    line("class names", count == 0  ? "none"
                        : count > 8 ? fmt::format("{}, ... ({})", names, count)
                                    : names);
    for (const auto& [key, value] : info["metadata"].items()) {
      // Lists and settings are for --json; a line of text is for people.
      const std::string words = value.get<std::string>();
      if (key != "format" && words.size() <= 200) line(key.c_str(), words);
    }
  } else {
    line("rfseg", info["version"].get<std::string>());
    const std::string video = info["video"].get<std::string>();
    line("video", video.empty() ? "not available" : video);
    line("CUDA", cuda_line(info["cuda"]));
  }
  line("runs on", fmt::format("{}, {} backend, {}, {} threads", info["device"].get<std::string>(),
                              info["backend"].get<std::string>(),
                              info["precision"].get<std::string>(), number("threads")));
  return text;
}

void run_info(const InfoArguments& arguments) {
  const ModelOptions options = arguments.common.resolved();
  const DeviceChoice choice = choose_device(options);
  nlohmann::ordered_json info;
  if (!arguments.model.empty()) {
    const std::string path = resolve_model_path(arguments.model);
    info = describe_model(open_checkpoint(path, options), path);
  }
  info.update(describe_program(choice, options.threads));
  std::fputs(
      (arguments.json
           ? info.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"
           : as_text(info))
          .c_str(),
      stdout);
}

}  // namespace

void add_info(CLI::App& app) {
  auto arguments = std::make_shared<InfoArguments>();
  CLI::App* verb = app.add_subcommand("info", "Describe a model, or without one this program");
  verb->add_option("model", arguments->model, "Checkpoint or variant name")->type_name("MODEL");
  verb->add_option("--variant", arguments->common.model_options.variant,
                   "Decides the variant where the file does not")
      ->type_name("NAME");
  verb->add_option("--shape", arguments->common.shape,
                   "Network input HxW other than the checkpoint's")
      ->type_name("HxW");
  add_runtime_options(*verb, arguments->common);
  verb->add_flag("--json", arguments->json,
                 "Everything as JSON, with name, dtype and shape of every tensor");
  verb->footer("Example: rfseg info checkpoint_best_total.pth --json");
  verb->callback([arguments, verb] {
    if (arguments->model.empty()) refuse_options(*verb, {"--variant", "--shape"}, "needs a MODEL");
    run_info(*arguments);
  });
}

}  // namespace rfseg::cli
