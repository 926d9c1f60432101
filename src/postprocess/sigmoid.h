#pragma once

#include <cstdint>
#include <cstring>

#include "core/cuda/host_device.h"

// The one sigmoid of the project. It is built from IEEE single-precision multiply, add, fused
// multiply-add and divide alone, so that every processor that has them gives the same bits; no
// libm is involved. It may be compiled as CUDA, where it needs the compiler's defaults
// -prec-div=true and -ftz=false, and -fmad=false.

namespace rfseg {

/// 1 / (1 + exp(-x)): within 2 ulp of the correctly rounded value for every float, monotone (a
/// larger x never gives a smaller result), 1 from x = 17.4 on, 0 below -104, subnormal results
/// included; NaN gives NaN. Both properties were checked over all floats; the tests repeat a part.
///
/// exp(-x) = 2^n * (hi + lo) with hi + lo = exp(r), |r| <= ln(2)/2. Both sides of the quotient are
/// scaled by 2^-64, so that nothing overflows and the one division rounds straight to a subnormal.
RFSEG_HOST_DEVICE float sigmoid(float x) {
  if (x != x) return x;
  float z = -x;
  z = z > 104.0f ? 104.0f : z;
  z = z < -30.0f ? -30.0f : z;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = fused(z, 0x1.715476p+0f, kRounder) - kRounder;
  float r = fused(n, -0x1.62e43p-1f, z);
  r = fused(n, 0x1.05c61p-29f, r);
  // exp(r) = 1 + r + r^2 q(r); q by a minimax fit, relative error 1.1e-9
  float q = 0x1.9f085ap-13f;
  q = fused(q, r, 0x1.6d8d52p-10f);
  q = fused(q, r, 0x1.111272p-7f);
  q = fused(q, r, 0x1.55548ep-5f);
  q = fused(q, r, 0x1.555554p-3f);
  q = fused(q, r, 0.5f);
  const float u = fused(r * r, q, r);
  const float hi = 1.0f + u;
  const float lo = u - (hi - 1.0f);
  const int32_t exponent = static_cast<int32_t>(n) + (127 - 64);
  const uint32_t bits = static_cast<uint32_t>(exponent) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof(scale));
  const float denominator = fused(hi, scale, fused(lo, scale, 0x1p-64f));
  return 0x1p-64f / denominator;
}

}  // namespace rfseg
