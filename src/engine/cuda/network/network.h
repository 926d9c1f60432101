#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/cuda/device.h"
#include "core/model_config.h"
#include "core/tensor.h"
#include "engine/cuda/network/buffers.h"
#include "engine/cuda/network/steps.h"
#include "engine/cuda/products.h"
#include "engine/cuda/small/small_kernels.h"
#include "engine/cuda/weights.h"

// The network as a sequence of enqueued kernels: the four parts of engine/reference/network.h, for
// a batch, on two streams.

namespace rfseg::cuda {

/// Called with every named point (engine.h's TraceSink) right after it was enqueued: its rows are
/// [B, shape...], pictures `pitch` values apart.
enum class PointType { kElement, kFloat, kInt32 };
using Probe = std::function<void(const std::string& name, const Shape& shape, const void* data,
                                 PointType type, int64_t pitch)>;

/// What run_network needs beside buffers and weights.
struct Lanes {
  cudaStream_t main = nullptr;
  cudaStream_t side = nullptr;  ///< may be `main`
  cudaEvent_t fork = nullptr, values = nullptr, spatial = nullptr;
  cudaEvent_t decoded = nullptr, heads = nullptr;
  bool overlap = false;                    ///< Queue::overlap
  bool portable = false;                   ///< Queue::portable
  const StepObserver* observer = nullptr;  ///< gets the steps; both lanes are one stream then
  bool few_rows = true;                    ///< Queue::few_rows
};

/// Enqueues the whole network for buffers.pictures. `forced`: the two-stage order is
/// buffers.forced. `probe` may be null; with one, both lanes should be the same stream.
void run_network(const ModelConfig& config, const Proposals& proposals, const Weights& weights,
                 const Buffers& buffers, Math math, int batch, bool forced, const Lanes& lanes,
                 const Probe& probe);

}  // namespace rfseg::cuda
