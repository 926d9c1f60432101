#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "core/weights.h"
#include "rfseg/options.h"

namespace rfseg {

/// What the network gives for a batch.
struct EngineOutputs {
  Tensor boxes;   ///< [B, Q, 4] cx,cy,w,h, normalised to the picture, unclamped
  Tensor logits;  ///< [B, Q, K] raw
  Tensor masks;   ///< [B, Q, H/4, W/4] raw logits; empty for detection models
};

/// Receives every named intermediate point, in the order of computation. `name` is embed, block0..,
/// tap0.., memory0.., enc_score, topk, ref, decoder0.., hs or mask_features (the cuda backend has
/// none of the last: it is folded into the queries); values are one picture's, with a leading batch
/// axis when B > 1. "topk" is given as float values of the indices.
using TraceSink = std::function<void(const std::string& name, const Tensor& value)>;

struct ForwardOptions {
  const int32_t* forced_topk =
      nullptr;      ///< [B, Q] two-stage selection to use instead of the own one
  TraceSink trace;  ///< the cpu backend has no such points and throws Error(kUsage)
};

struct EngineOptions {
  Backend backend = Backend::kAuto;        ///< kAuto: RFSEG_BACKEND of the environment, else kCpu
  int threads = 0;                         ///< 0 = the cores that this process may use
  int cuda_device = 0;                     ///< which GPU, for kCuda
  Precision precision = Precision::kAuto;  ///< of kCuda, kAuto: fp16; the others run in fp32
  std::string weights_cache;               ///< of kCuda: a folder, see ModelOptions
};

/// The network: normalised pixels in, raw heads out. The contract of every backend.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  /// "reference", "cpu" or "cuda": which implementation runs, as `info` and `--stats` report it.
  virtual const char* backend_name() const = 0;
  /// "fp32", "fp16" or "tf32".
  virtual const char* precision() const { return "fp32"; }
  /// Bytes of weights and workspace held.
  virtual std::size_t memory_bytes() const = 0;
  /// Runs the network on `input`, float32 [batch, 3, H, W], normalised (mean and std of ImageNet).
  /// `out` is resized and fully written; buffers of the right size are reused. The same input twice
  /// gives the same bytes. Not thread-safe: one call at a time on one engine.
  virtual void forward(const float* input, int batch, EngineOutputs& out,
                       const ForwardOptions& options = {}) = 0;
};

/// The name of the backend that `backend` stands for in this build and environment.
const char* engine_backend_name(Backend backend);
/// Backends that this build has.
std::vector<std::string> available_engine_backends();

/// Reads and packs the weights; `weights` is not used afterwards. Throws Error(kModel) naming the
/// first tensor that is missing or does not fit, with the expected and the found shape.
std::unique_ptr<Engine> create_engine(const ModelConfig& config, const WeightSource& weights,
                                      const EngineOptions& options = {});

}  // namespace rfseg
