#include "engine/engine.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "core/cpu.h"
#include "core/cuda/usable.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/model_weights.h"
#include "engine/reference/reference_engine.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

/// What kAuto means: the environment variable RFSEG_BACKEND if set, else the CPU.
Backend resolve(Backend asked) {
  if (asked != Backend::kAuto) return asked;
  const char* text = std::getenv("RFSEG_BACKEND");
  const std::string_view forced = text == nullptr ? "" : text;
  if (forced == "reference") return Backend::kReference;
  if (forced == "cpu") return Backend::kCpu;
  if (forced == "cuda") return Backend::kCuda;
  if (!forced.empty()) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("RFSEG_BACKEND is '{}'; accepted are 'reference', 'cpu' and 'cuda'", forced));
  }
  return Backend::kCpu;
}

}  // namespace

const char* engine_backend_name(Backend backend) {
  switch (resolve(backend)) {
    case Backend::kReference:
      return "reference";
    case Backend::kCuda:
      return "cuda";
    default:
      return "cpu";
  }
}

std::vector<std::string> available_engine_backends() {
  std::vector<std::string> backends = {"reference", "cpu"};
  if (cuda::usable()) backends.push_back("cuda");
  return backends;
}

std::unique_ptr<Engine> create_engine(const ModelConfig& config, const WeightSource& weights,
                                      const EngineOptions& options) {
  check_config(config);
  check_weights(config, weights);
  const int threads = options.threads > 0 ? options.threads : available_cpus();
  switch (resolve(options.backend)) {
    case Backend::kReference:
      return create_reference_engine(config, weights, threads);
    case Backend::kCuda: {
      CudaEngineOptions cuda;
      cuda.device = options.cuda_device;
      cuda.precision = options.precision;
      cuda.threads = threads;
      cuda.weights_cache = options.weights_cache;
      return create_cuda_engine(config, weights, cuda);
    }
    default:
      return create_cpu_engine(config, weights, threads);
  }
}

}  // namespace rfseg
