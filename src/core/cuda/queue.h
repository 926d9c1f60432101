#pragma once

#include <cuda_runtime_api.h>

namespace rfseg::cuda {

/// Where kernels are enqueued.
struct Queue {
  cudaStream_t stream = nullptr;
  /// Programmatic dependent launch: a kernel may start before its predecessor has ended, and waits
  /// for it in await_previous_kernel(). Only for GPUs from compute capability 9.0 on. Every kernel
  /// launched through core/cuda/launch.h calls await_previous_kernel() in every thread before it
  /// touches memory that another kernel writes or reads; what never changes (weights) may be read
  /// before.
  bool overlap = false;
  /// Only kernels that run on every GPU, though this one may have faster units of its own.
  bool portable = false;
  /// Kernels that are made for few rows may be taken.
  bool few_rows = true;
};

}  // namespace rfseg::cuda
