#pragma once

#include "core/cuda/simt_matrix.h"

#if !defined(RFSEG_SIMT_EMULATION)
#include <cuda_fp16.h>
#else
#include "core/half.h"
#endif

namespace rfseg::cuda {

/// Writes values to a tensor of float32, or of float16 rounded to nearest even.
template <bool half>
struct TensorWriter {
  void* tensor;

  /// Of the elements from `first` on.
  RFSEG_DEVICE TensorWriter from(int64_t first) const {
    if constexpr (half) return {static_cast<uint16_t*>(tensor) + first};
    return {static_cast<float*>(tensor) + first};
  }
  RFSEG_DEVICE void one(int64_t i, float value) const {
    if constexpr (half) {
      static_cast<uint16_t*>(tensor)[i] = bits(value);
    } else {
      static_cast<float*>(tensor)[i] = value;
    }
  }
  /// Elements i and i + 1, i even.
  RFSEG_DEVICE void two(int64_t i, float first, float second) const {
    if constexpr (half) {
      reinterpret_cast<uint32_t*>(tensor)[i / 2] =
          static_cast<uint32_t>(bits(second)) << 16 | bits(first);
    } else {
      reinterpret_cast<Words2*>(tensor)[i / 2] = {{float_bits(first), float_bits(second)}};
    }
  }

 private:
  RFSEG_DEVICE static uint16_t bits(float value) {
#if defined(RFSEG_SIMT_EMULATION)
    return float_to_half(value);
#else
    return __half_as_ushort(__float2half_rn(value));
#endif
  }
};

}  // namespace rfseg::cuda
