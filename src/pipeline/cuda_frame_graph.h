#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>
#include <vector>

#include "core/cuda/device.h"

namespace rfseg {

/// A captured graph that begins with copies to the device whose places and lengths may change from
/// launch to launch.
class FrameGraph {
 public:
  struct Copy {
    void* to = nullptr;          ///< device memory, another for each copy
    const void* from = nullptr;  ///< pinned host memory
    std::size_t bytes = 0;       ///< more than 0
    bool operator==(const Copy&) const = default;
  };

  FrameGraph() = default;
  ~FrameGraph() { reset(); }
  FrameGraph(const FrameGraph&) = delete;
  FrameGraph& operator=(const FrameGraph&) = delete;
  bool empty() const { return exec_ == nullptr; }
  void reset();

  /// Records the copies, then what `work` enqueues on `stream`.
  template <class Work>
  void capture(cudaStream_t stream, std::span<const Copy> copies, Work&& work) {
    reset();
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                "starting a capture");
    try {
      enqueue(stream, copies);
      work();
    } catch (...) {
      end(stream);
      reset();
      throw;
    }
    cuda::check(end(stream), "capturing a frame");
    finish(copies);
  }
  /// As many copies as were captured.
  void launch(cudaStream_t stream, std::span<const Copy> copies);

  /// The copies without a graph.
  static void enqueue(cudaStream_t stream, std::span<const Copy> copies);

 private:
  cudaError_t end(cudaStream_t stream);
  void finish(std::span<const Copy> copies);

  cudaGraph_t graph_ = nullptr;  ///< kept: its nodes name those of exec_
  cudaGraphExec_t exec_ = nullptr;
  std::vector<cudaGraphNode_t> nodes_;
  std::vector<Copy> in_force_;
};

}  // namespace rfseg
