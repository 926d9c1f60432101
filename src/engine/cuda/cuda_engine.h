#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"

struct CUstream_st;  ///< what a cudaStream_t points to

namespace rfseg {

/// What the network leaves in device memory, C order; valid until the next pass of the engine.
struct DeviceHeads {
  const float* boxes = nullptr;   ///< [B, Q, 4]
  const float* logits = nullptr;  ///< [B, Q, K]
  const void* masks = nullptr;    ///< [B, Q, H/4, W/4], __half if masks_half, else float; or null
  bool masks_half = false;
};

/// A kind of step of the network, and how long one of them takes.
struct StepTime {
  std::string kind, shape;
  int count = 0;  ///< in a pass
  double ms = 0;
  double cublaslt_ms = 0;  ///< for the bare product; NaN: none
  double flops = 0;        ///< of products; 0 for a step that has none
  double bytes = 0;        ///< every operand read and every result written once
};

/// What the device could do at most, by its clocks and units.
struct DevicePeaks {
  double flops_per_s = 0;  ///< of products in the engine's precision; 0: not known
  double bytes_per_s = 0;  ///< of device memory
};

/// What a step reaches of the peak of products or of memory, whichever is nearer: 0 to 1.
inline double share_of_peak(const StepTime& step, const DevicePeaks& peaks) {
  const double seconds = step.ms * 1e-3;
  const double products = peaks.flops_per_s > 0 ? step.flops / seconds / peaks.flops_per_s : 0;
  return std::max(products, step.bytes / seconds / peaks.bytes_per_s);
}

/// The network on a GPU: one captured CUDA graph a batch size, one workspace, no allocation and no
/// host synchronisation in a pass once its batch size has been prepared. Named points (`trace`)
/// come from the same kernels, run one by one. Not thread-safe; several engines work side by side.
class CudaEngine : public Engine {
 public:
  struct Counters {
    uint64_t allocations = 0, captures = 0;
  };

  /// Another engine with the same weights, which it does not copy, and a workspace and graphs of
  /// its own: passes of the two run beside each other. Neither needs the other afterwards.
  virtual std::unique_ptr<CudaEngine> share() const = 0;
  virtual int device() const = 0;
  virtual std::string device_name() const = 0;
  /// "hopper" where the large products and attention may run on Hopper's own units, else
  /// "portable".
  virtual const char* kernels() const = 0;
  /// Makes the workspace big enough for batches up to `batch`, and the graph for this one. Throws
  /// Error(kDevice) if the GPU is out of memory; the engine keeps what it had.
  virtual void prepare(int batch) = 0;
  /// Where the pictures of a batch go, float32 [batch, 3, H, W] in device memory. Changes only
  /// when prepare() allocates.
  virtual float* input() = 0;
  /// Enqueues a pass over the first `batch` pictures of input() on `stream`. `batch` has been
  /// prepared. May be captured into another graph.
  virtual DeviceHeads enqueue(int batch, CUstream_st* stream) = 0;
  /// The workspace, input() and the heads included, belongs to one pass at a time. Passes on
  /// several streams bracket its use: `begin` makes `stream` wait until the pass before has ended,
  /// `end` says that what is on `stream` by now was all of this one.
  virtual void begin(CUstream_st* stream) = 0;
  virtual void end(CUstream_st* stream) = 0;
  virtual const Counters& counters() const = 0;
  /// Kernels of a pass over `batch` pictures, which has been prepared; 0 without graphs.
  virtual int launches(int batch) const = 0;
  /// Every kind of step of a pass over `batch` pictures, in order of first use, timed alone.
  virtual std::vector<StepTime> time_steps(int batch) = 0;
  virtual DevicePeaks peaks() const = 0;
};

/// Options beside EngineOptions, for tests.
struct CudaEngineOptions {
  int device = 0;
  Precision precision = Precision::kAuto;  ///< kAuto: fp16
  int threads = 1;                         ///< for reading the weights
  std::string weights_cache;               ///< a folder, see ModelOptions; empty: none
  bool graphs = true;                      ///< off: kernels are launched one by one
  bool overlap = true;                     ///< programmatic dependent launch, where the GPU has it
  bool two_streams = true;
  bool portable = false;  ///< only kernels that run on every GPU
  bool few_rows = true;   ///< kernels made for few rows may be taken
};

/// Throws Error(kDevice) without a GPU of compute capability 8.0 or newer, or in a build without
/// CUDA; Error(kModel) for weights or a geometry that it does not take.
std::unique_ptr<CudaEngine> create_cuda_engine(const ModelConfig& config,
                                               const WeightSource& weights,
                                               const CudaEngineOptions& options);

}  // namespace rfseg
