#pragma once

// Launching kernels whose source also runs on the emulator of tests/cuda. A kernel is a device
// function `void body(const Arguments&, void* shared)`; launch<body, ...> makes a __global__ of it.

#include "core/cuda/device.h"
#include "core/cuda/queue.h"
#include "core/cuda/simt.h"

namespace rfseg::cuda {

struct Grid {
  int x = 1, y = 1;
};

#if defined(RFSEG_SIMT_EMULATION)

template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch(const Queue&, Grid grid, std::size_t shared_bytes, const Arguments& arguments) {
  emulator::launch(grid.x, grid.y, kThreads, 1, shared_bytes,
                   [&](void* shared) { kBody(arguments, shared); });
}

template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch_cluster(const Queue&, Grid grid, int cluster, std::size_t shared_bytes,
                    const Arguments& arguments) {
  emulator::launch(grid.x, grid.y, kThreads, cluster, shared_bytes,
                   [&](void* shared) { kBody(arguments, shared); });
}

#elif defined(__CUDACC__)

template <auto kBody, int kThreads, int kMinBlocks, class Arguments>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    rfseg_kernel(const __grid_constant__ Arguments arguments) {
  extern __shared__ uint4 rfseg_dynamic_shared[];
  kBody(arguments, rfseg_dynamic_shared);
}

/// Enqueues kBody on grid.x by grid.y blocks of kThreads threads with `shared_bytes` of shared
/// memory each (16-byte aligned). Throws Error(kDevice) if the launch is refused.
template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch(const Queue& queue, Grid grid, std::size_t shared_bytes, const Arguments& arguments) {
  auto* kernel = rfseg_kernel<kBody, kThreads, kMinBlocks, Arguments>;
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "reserving shared memory");
  }
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  config.attrs = &attribute;
  config.numAttrs = queue.overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments), "launching a kernel");
}

/// The same in clusters of `cluster` blocks, of which grid.x is a multiple; for GPUs of compute
/// capability 9.0 and newer.
template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch_cluster(const Queue& queue, Grid grid, int cluster, std::size_t shared_bytes,
                    const Arguments& arguments) {
  auto* kernel = rfseg_kernel<kBody, kThreads, kMinBlocks, Arguments>;
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "reserving shared memory");
  }
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  config.blockDim = dim3(static_cast<unsigned>(kThreads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  config.attrs = attributes;
  config.numAttrs = queue.overlap ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments), "launching a cluster kernel");
}

#endif

}  // namespace rfseg::cuda
