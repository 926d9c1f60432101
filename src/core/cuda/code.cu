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

}  // namespace rfseg::cuda
