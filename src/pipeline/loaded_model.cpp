#include "pipeline/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "checkpoint/download.h"
#include "core/cuda/usable.h"
#include "core/log.h"
#include "core/nearest_word.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// As the engine takes it: empty is unset.
bool environment_chooses_backend() {
  const char* name = std::getenv("RFSEG_BACKEND");
  return name != nullptr && *name != '\0';
}

}  // namespace

DeviceChoice choose_device(const ModelOptions& options) {
  const std::string_view device = options.device;
  const bool cuda = device.starts_with("cuda");
  DeviceChoice choice;
  const std::string_view number = cuda && device.size() > 4 ? device.substr(5) : "";
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), choice.cuda_device);
  const bool numbered = device.size() > 5 && device[4] == ':' && error == std::errc() &&
                        end == number.data() + number.size() && choice.cuda_device >= 0;
  if (device != "auto" && device != "cpu" && device != "cuda" && !(cuda && numbered)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--device {}: not known; auto, cpu and cuda[:N] are", device));
  }
  if (!numbered) choice.cuda_device = 0;

  Backend asked = options.backend;
  if (asked == Backend::kAuto && environment_chooses_backend()) {
    const std::string name = engine_backend_name(Backend::kAuto);
    asked = name == "reference" ? Backend::kReference
            : name == "cuda"    ? Backend::kCuda
                                : Backend::kCpu;
  }
  std::string why;
  if (asked == Backend::kAuto) {
    const bool gpu = cuda || (device == "auto" && cuda::usable());
    choice.backend = gpu ? Backend::kCuda : Backend::kCpu;
  } else {
    if (cuda && asked != Backend::kCuda) {
      throw Error(ErrorCode::kUsage, fmt::format("--device {}: the backend '{}' runs on the CPU",
                                                 device, engine_backend_name(asked)));
    }
    if (device == "cpu" && asked == Backend::kCuda) {
      throw Error(ErrorCode::kUsage, "--device cpu: the backend 'cuda' runs on a GPU");
    }
    choice.backend = asked;
  }
  if (choice.backend == Backend::kCuda) {
    if (!cuda::usable(&why)) {
      throw Error(ErrorCode::kDevice, cuda ? fmt::format("--device {}: {}", device, why)
                                           : "the backend 'cuda': " + why);
    }
    choice.precision = options.precision == Precision::kAuto ? Precision::kFp16 : options.precision;
  } else if (options.precision != Precision::kAuto && options.precision != Precision::kFp32) {
    throw Error(ErrorCode::kDevice, fmt::format("--precision {}: the CPU runs in fp32 only",
                                                precision_name(options.precision)));
  }
  return choice;
}

DeviceChoice choose_device_on_request(ModelOptions options) {
  const bool asked = options.backend != Backend::kAuto || environment_chooses_backend();
  if (options.device == "auto" && !asked) options.device = "cpu";
  return choose_device(options);
}

std::string device_name(const DeviceChoice& choice) {
  return choice.backend == Backend::kCuda ? fmt::format("cuda:{}", choice.cuda_device) : "cpu";
}

const char* precision_name(Precision precision) {
  return precision == Precision::kFp16 ? "fp16" : precision == Precision::kTf32 ? "tf32" : "fp32";
}

std::string resolve_model_path(const std::string& name) {
  const auto& variants = stock_variants();
  std::error_code ignored;
  const bool known = std::find(variants.begin(), variants.end(), name) != variants.end();
  if (std::filesystem::exists(name, ignored)) return name;
  if (!known) {
    const std::string meant = did_you_mean(name, variants);
    if (meant.empty() || name.find('/') != std::string::npos) return name;
    throw Error(ErrorCode::kModel, fmt::format("{}: no such file, and no variant{}", name, meant));
  }
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
  const DeviceChoice choice = choose_device(options);
  if (!options.weights_cache.empty() && choice.backend != Backend::kCuda) {
    log_warning("--weights-cache: only a GPU's weights are kept, and this runs on the CPU");
  }
  const auto start = std::chrono::steady_clock::now();
  const Checkpoint checkpoint = open_checkpoint(resolve_model_path(path), options);
  model.config = checkpoint.config;
  model.open_ms = milliseconds_since(start);
  const auto pack_start = std::chrono::steady_clock::now();
  EngineOptions engine_options;
  engine_options.backend = choice.backend;
  engine_options.cuda_device = choice.cuda_device;
  engine_options.precision = choice.precision;
  engine_options.threads = options.threads;
  engine_options.weights_cache = options.weights_cache;
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
  info.device = device_name(choice);
  info.backend = model.engine->backend_name();
  info.precision = model.engine->precision();
  info.memory_bytes = model.engine->memory_bytes();
}

}  // namespace rfseg
