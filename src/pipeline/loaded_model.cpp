#include "pipeline/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "checkpoint/download.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace

void check_device(const ModelOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    const bool cuda = options.device.starts_with("cuda");
    const std::string number = cuda ? options.device.substr(4) : "";
    const bool numbered = number.size() > 1 && number[0] == ':' &&
                          number.find_first_not_of("0123456789", 1) == std::string::npos;
    if (cuda && (number.empty() || numbered)) {
      throw Error(ErrorCode::kDevice,
                  fmt::format("--device {}: the network runs on the CPU only in this version "
                              "(rfseg postprocess has a CUDA backend)",
                              options.device));
    }
    throw Error(ErrorCode::kUsage,
                fmt::format("--device {}: not known; auto, cpu and cuda[:N] are", options.device));
  }
  if (options.precision != Precision::kAuto && options.precision != Precision::kFp32) {
    throw Error(ErrorCode::kDevice, "--precision: the CPU runs in fp32 only");
  }
}

std::string resolve_model_path(const std::string& name) {
  const auto& variants = stock_variants();
  std::error_code ignored;
  const bool known = std::find(variants.begin(), variants.end(), name) != variants.end();
  if (!known || std::filesystem::exists(name, ignored)) return name;
  std::optional<std::string> path = find_downloaded(name);
  if (!path) {
    throw Error(
        ErrorCode::kModel,
        fmt::format("{}: the official weights are not downloaded yet; run 'rfseg download {}', "
                    "or give the path of a checkpoint",
                    name, name));
  }
  return *std::move(path);
}

void load_model(const std::string& path, const ModelOptions& options, LoadedModel& model) {
  check_device(options);
  const auto start = std::chrono::steady_clock::now();
  const Checkpoint checkpoint = open_checkpoint(resolve_model_path(path), options);
  model.config = checkpoint.config;
  model.open_ms = milliseconds_since(start);
  const auto pack_start = std::chrono::steady_clock::now();
  EngineOptions engine_options;
  engine_options.backend = options.backend;
  engine_options.threads = options.threads;
  model.engine = create_engine(checkpoint.config, *checkpoint.weights, engine_options);
  model.pack_ms = milliseconds_since(pack_start);

  ModelInfo& info = model.info;
  const ModelConfig& config = model.config;
  info.variant = config.variant;
  info.format = checkpoint.format;
  info.height = config.height;
  info.width = config.width;
  info.queries = config.queries;
  info.classes = config.logits;
  info.has_masks = config.seg;
  info.class_names = config.class_names;
  info.parameters = inference_parameters(config);
  info.device = "cpu";
  info.backend = model.engine->backend_name();
  info.precision = "fp32";
  info.memory_bytes = model.engine->memory_bytes();
}

}  // namespace rfseg
