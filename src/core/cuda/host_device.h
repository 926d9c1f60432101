#pragma once

// Marks functions that host code and CUDA kernels share. They keep to IEEE operations in one order,
// so that both give the same bits; a fused multiply-add is written as fused(), never left to the
// compiler (-ffp-contract=off, -fmad=false).

#if defined(__CUDACC__)
#define RFSEG_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RFSEG_HOST_DEVICE [[gnu::always_inline]] inline
#endif

namespace rfseg {

/// a * b + c with one rounding.
RFSEG_HOST_DEVICE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

}  // namespace rfseg
