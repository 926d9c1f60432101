#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "engine/cuda/cuda_engine.h"
#include "pipeline/batch_runner.h"

namespace rfseg {

/// A batch runner on the engine's GPU. Pictures are uploaded as they come; resizing, network,
/// selection and masks of the batch are one CUDA graph launch, whose results kernels write into
/// pinned memory; then the host waits once. Nothing on the GPU is shared between runners but the
/// weights: each has a stream, buffers and a workspace of the network of its own, so that batches
/// of several runners run beside each other and none waits for another.
class CudaBatchRunner : public BatchRunner {
 public:
  struct Counters {
    uint64_t launches = 0;  ///< of graphs
    uint64_t captures = 0;
    uint64_t alone = 0;    ///< batches that ran without a graph: the first of their size
    uint64_t uploads = 0;  ///< of parameters, beside the graphs
  };
  virtual const Counters& counters() const = 0;
  /// Launches the graph of the last infer() again, and does not wait. Its pictures must be on the
  /// GPU (HeldPixels::Place::kDevice), and it must have run as a graph: not the first of its size.
  virtual void enqueue_replay() = 0;
  /// Until all replays are done.
  virtual void wait() = 0;
};

/// Throws Error(kDevice) in a build without CUDA, and where the GPU has no memory for one.
std::vector<std::unique_ptr<CudaBatchRunner>> make_cuda_batch_runners(
    CudaEngine& engine, const ResolvedOptions& resolved, const RunnerOptions& options);

/// Pinned host memory.
std::function<std::shared_ptr<std::byte>(std::size_t)> pinned_allocator(int device);
/// Bytes of the GPU's memory in use, whoever uses them.
std::size_t device_memory_used(int device);
/// Smallest step of the GPU's clock that GpuInterval is told by, in nanoseconds.
uint64_t gpu_clock_step_ns(int device);

/// Planes on GPU `held.device` as RGB on the host.
Image fetch_rgb(const ImageView& picture, const HeldPixels& held);

}  // namespace rfseg
