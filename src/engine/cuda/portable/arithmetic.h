#pragma once

#include "core/cuda/tensor_core.h"
#include "engine/cuda/products.h"

// The three arithmetics of products.h as one step of a tensor core: 16 x 8 results, 32 bytes of
// each row along K. All see the same fragments (core/cuda/tensor_core.h), so that the kernels do
// not know what a word holds.

namespace rfseg::cuda {

template <Math kMath>
struct Arithmetic;

template <>
struct Arithmetic<Math::kFp16> {
  static constexpr int kBytes = 2;
  using A = uint32_t[4];
  using B = uint32_t[2];
  static RFSEG_DEVICE void take_a(A& a, const uint32_t (&raw)[4]) {
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = raw[i];
  }
  static RFSEG_DEVICE void take_b(B& b, uint32_t x, uint32_t y) {
    b[0] = x;
    b[1] = y;
  }
  static RFSEG_DEVICE void multiply(float (&c)[4], const A& a, const B& b) { mma_f16(c, a, b); }
};

template <>
struct Arithmetic<Math::kTf32> {
  static constexpr int kBytes = 4;
  using A = uint32_t[4];
  using B = uint32_t[2];
  static RFSEG_DEVICE void take_a(A& a, const uint32_t (&raw)[4]) {
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = round_to_tf32(float_of_bits(raw[i]));
  }
  static RFSEG_DEVICE void take_b(B& b, uint32_t x, uint32_t y) {
    b[0] = round_to_tf32(float_of_bits(x));
    b[1] = round_to_tf32(float_of_bits(y));
  }
  static RFSEG_DEVICE void multiply(float (&c)[4], const A& a, const B& b) { mma_tf32(c, a, b); }
};

/// Each factor is split in two TF32 numbers; of the four products the smallest is left out. The
/// tensor core cuts its sums instead of rounding them, so what it adds up begins at zero every few
/// steps and is added in fp32, the small products apart: the error stays below that of a plain fp32
/// loop.
template <>
struct Arithmetic<Math::kFp32> {
  static constexpr int kBytes = 4;
  struct A {
    uint32_t large[4], small[4];
  };
  struct B {
    uint32_t large[2], small[2];
  };
  /// What the tensor core does not read of a float, and half of that.
  static constexpr uint32_t kCut = 0x1fffu, kHalfCut = 0x1000u;
  /// Three instructions where round_to_tf32() twice takes seven: the tensor core cuts the small
  /// part itself, whose sign is random. NaN and infinity give a small part of NaN.
  static RFSEG_DEVICE void split(uint32_t raw, uint32_t& large, uint32_t& small) {
    large = (raw + kHalfCut) & ~kCut;
    small = float_bits(float_of_bits(raw) - float_of_bits(large));
  }
  static RFSEG_DEVICE void take_a(A& a, const uint32_t (&raw)[4]) {
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) split(raw[i], a.large[i], a.small[i]);
  }
  static RFSEG_DEVICE void take_b(B& b, uint32_t x, uint32_t y) {
    split(x, b.large[0], b.small[0]);
    split(y, b.large[1], b.small[1]);
  }
  /// `c` may take those of a stage, `corrections` any number.
  static RFSEG_DEVICE void multiply(float (&c)[4], float (&corrections)[4], const A& a,
                                    const B& b) {
    mma_tf32(corrections, a.small, b.large);
    mma_tf32(corrections, a.large, b.small);
    mma_tf32(c, a.large, b.large);
  }
  static RFSEG_DEVICE void multiply(float (&c)[4], const A& a, const B& b) {
    float sum[4] = {0, 0, 0, 0};
    mma_tf32(sum, a.small, b.large);
    mma_tf32(sum, a.large, b.small);
    mma_tf32(sum, a.large, b.large);
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) c[i] += sum[i];
  }
};

/// GELU with erf by Abramowitz and Stegun, 7.1.26 (error below 2e-7), half the work of erff: with
/// erf(z) = 1 - r(z) for z >= 0 it is max(v, 0) - |v| / 2 * r(|v| / sqrt 2).
RFSEG_DEVICE float short_gelu(float v) {
  const float z = v < 0 ? -v : v;
  const float t = approximate_reciprocal(fused(0.3275911f * 0.70710678f, z, 1.0f));
  float p = fused(1.061405429f, t, -1.453152027f);
  p = fused(p, t, 1.421413741f);
  p = fused(p, t, -0.284496736f);
  p = fused(p, t, 0.254829592f);
  const float e = approximate_exp2(v * v * (-0.5f * 1.44269504f));
  return fused(-0.5f * z, p * t * e, v > 0 ? v : 0.0f);
}

/// To a few units in the last place of an fp32 of the result's size, or of 1 where that is larger.
RFSEG_DEVICE float activate(float v, Activation activation) {
  if (activation == Activation::kNone) return v;
  if (activation == Activation::kRelu) return v > 0 ? v : (v <= 0 ? 0.0f : v);
  if (activation == Activation::kGelu) return short_gelu(v);
  // SiLU. Where exp overflows the quotient is 0, as it should be.
  return v * approximate_reciprocal(1.0f + approximate_exp2(v * -1.44269504f));
}

}  // namespace rfseg::cuda
