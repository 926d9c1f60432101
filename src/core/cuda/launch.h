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

/// Lets `kernel` have `bytes` of shared memory. All kernels ask for the same division of a
/// multiprocessor's memory into cache and shared memory: one that wants another division waits
/// until the multiprocessor is empty, so that it can neither start early nor run beside others.
template <class Kernel>
void reserve_shared(Kernel* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "dividing a multiprocessor's memory");
  if (bytes <= 48 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "reserving shared memory");
}

/// How a kernel is launched, beside its arguments.
struct LaunchConfig {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2];

  LaunchConfig(const Queue& queue, Grid grid, int threads, int cluster, std::size_t shared_bytes) {
    config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = queue.stream;
    config.attrs = attributes;
    if (cluster > 1) {
      cudaLaunchAttribute& a = add(cudaLaunchAttributeClusterDimension);
      a.val.clusterDim.x = static_cast<unsigned>(cluster);
      a.val.clusterDim.y = a.val.clusterDim.z = 1;
    }
    if (queue.overlap) {
      add(cudaLaunchAttributeProgrammaticStreamSerialization)
          .val.programmaticStreamSerializationAllowed = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

 private:
  cudaLaunchAttribute& add(cudaLaunchAttributeID id) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a = {};
    a.id = id;
    return a;
  }
};

/// Enqueues kBody on grid.x by grid.y blocks of kThreads threads with `shared_bytes` of shared
/// memory each (16-byte aligned). Throws Error(kDevice) if the launch is refused.
template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch(const Queue& queue, Grid grid, std::size_t shared_bytes, const Arguments& arguments) {
  auto* kernel = rfseg_kernel<kBody, kThreads, kMinBlocks, Arguments>;
  reserve_shared(kernel, shared_bytes);
  const LaunchConfig launch(queue, grid, kThreads, 1, shared_bytes);
  check(cudaLaunchKernelEx(&launch.config, kernel, arguments), "launching a kernel");
}

/// The same in clusters of `cluster` blocks, of which grid.x is a multiple; for GPUs of compute
/// capability 9.0 and newer.
template <auto kBody, int kThreads, int kMinBlocks = 1, class Arguments>
void launch_cluster(const Queue& queue, Grid grid, int cluster, std::size_t shared_bytes,
                    const Arguments& arguments) {
  auto* kernel = rfseg_kernel<kBody, kThreads, kMinBlocks, Arguments>;
  reserve_shared(kernel, shared_bytes);
  const LaunchConfig launch(queue, grid, kThreads, cluster, shared_bytes);
  check(cudaLaunchKernelEx(&launch.config, kernel, arguments), "launching a cluster kernel");
}

#endif

}  // namespace rfseg::cuda
