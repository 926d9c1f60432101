#pragma once

#include "core/cuda/simt.h"
#include "postprocess/cuda/records.h"

#if !defined(RFSEG_SIMT_EMULATION)
#include <cuda_fp16.h>
#else
#include "core/half.h"
#endif

namespace rfseg::cuda {

/// Element `i` of an input array, as float32 (exact).
RFSEG_DEVICE float read_number(const void* data, Number type, int64_t i) {
  if (type == Number::kFloat32) return static_cast<const float*>(data)[i];
#if defined(RFSEG_SIMT_EMULATION)
  return half_to_float(static_cast<const uint16_t*>(data)[i]);
#else
  return __half2float(static_cast<const __half*>(data)[i]);
#endif
}

}  // namespace rfseg::cuda
