#include <atomic>

#include "engine/cuda/hopper/device.h"
#include "engine/cuda/hopper/gemm.h"

namespace rfseg::cuda::hopper {
namespace {

// A mark that only code for sm_90a carries.
__global__ void probe(int* out) {
#if RFSEG_HOPPER
  __shared__ volatile int mark[256];
  mark[threadIdx.x] = 1;
  if (out) *out = mark[threadIdx.x ^ 1];
#else
  static_cast<void>(out);
#endif
}

}  // namespace

bool usable() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0: not asked yet
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  if (known[device] == 0) {
    int major = 0;
    cudaFuncAttributes attributes;
    const bool found =
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
        major == 9 && cudaFuncGetAttributes(&attributes, probe) == cudaSuccess;
    if (!found) static_cast<void>(cudaGetLastError());
    known[device] = found && attributes.sharedSizeBytes >= 1024 ? 1 : -1;
  }
  return known[device] > 0;
}

}  // namespace rfseg::cuda::hopper
