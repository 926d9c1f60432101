#include "core/cuda/device.h"

namespace rfseg::cuda {
namespace {

__global__ void probe() {}

}  // namespace

bool has_hopper_code() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, probe) == cudaSuccess) return attributes.ptxVersion >= 90;
  static_cast<void>(cudaGetLastError());
  return false;
}

std::size_t most_shared_memory() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for a device's shared memory");
  return static_cast<std::size_t>(bytes);
}

}  // namespace rfseg::cuda
