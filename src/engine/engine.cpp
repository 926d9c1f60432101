#include "engine/engine.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "core/cpu.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/model_weights.h"
#include "engine/reference/reference_engine.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

/// What kAuto means: the environment variable RFSEG_BACKEND if set, else the fastest one built.
Backend resolve(Backend asked) {
  if (asked != Backend::kAuto) return asked;
  const char* text = std::getenv("RFSEG_BACKEND");
  const std::string_view forced = text == nullptr ? "" : text;
  if (forced == "reference") return Backend::kReference;
  if (forced == "cpu") return Backend::kCpu;
  if (!forced.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("RFSEG_BACKEND is '{}'; accepted are 'reference' and 'cpu'", forced));
  }
  return Backend::kCpu;
}

}  // namespace

const char* engine_backend_name(Backend backend) {
  return resolve(backend) == Backend::kReference ? "reference" : "cpu";
}

std::vector<std::string> available_engine_backends() { return {"reference", "cpu"}; }

std::unique_ptr<Engine> create_engine(const ModelConfig& config, const WeightSource& weights,
                                      const EngineOptions& options) {
  check_config(config);
  check_weights(config, weights);
  const int threads = options.threads > 0 ? options.threads : available_cpus();
  if (resolve(options.backend) == Backend::kReference) {
    return create_reference_engine(config, weights, threads);
  }
  return create_cpu_engine(config, weights, threads);
}

}  // namespace rfseg
