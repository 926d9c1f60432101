#pragma once

// The softmax of attention.cu on scores in wgmma's registers: a thread has kKeys / 4 of each of two
// rows, which it shares with its three neighbours.

#include "engine/cuda/hopper/device.h"

#if RFSEG_HOPPER

namespace rfseg::cuda::hopper {

RFSEG_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kMinusInfinity = -__builtin_huge_valf();

/// The running softmax of the two rows that a thread shares with its three neighbours.
struct Rows {
  float maximum[2] = {kMinusInfinity, kMinusInfinity};  // of scores times scale; may lag by kLag
  float sum[2] = {0, 0};                                // of this thread's columns
};

/// A row's maximum is only raised, and what was summed so far rescaled, when it is off by more than
/// this power of two: weights then reach 2^8, far below the largest half.
constexpr float kLag = 8.0f;

/// Turns scores to weights. `factor`: what earlier sums and outputs must be multiplied by; whether
/// any lane has one that is not 1.
template <int kCount>
RFSEG_DEVICE bool weigh(float (&s)[kCount], Rows& rows, float scale, float (&factor)[2]) {
  // Two chains a row: a chain's steps wait for one another.
  float highest[2], other[2];
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    highest[h] = fmaxf(s[2 * h], s[2 * h + 1]);
    other[h] = fmaxf(s[4 + 2 * h], s[5 + 2 * h]);
  }
  RFSEG_UNROLL
  for (int i = 8; i < kCount; i += 4) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      float& chain = i % 8 == 0 ? highest[h] : other[h];
      chain = fmaxf(chain, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
    }
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) highest[h] = fmaxf(highest[h], other[h]);
  bool raise = false;
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    highest[h] = fmaxf(highest[h], __shfl_xor_sync(kAllLanes, highest[h], 1));
    highest[h] = fmaxf(highest[h], __shfl_xor_sync(kAllLanes, highest[h], 2));
    highest[h] *= scale;
    raise = raise || highest[h] > rows.maximum[h] + kLag;
  }
  raise = warp_ballot(raise) != 0;
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    factor[h] = 1.0f;
    if (raise) {
      const float maximum = fmaxf(rows.maximum[h], highest[h]);
      factor[h] = exp2_approximate(rows.maximum[h] - maximum);
      rows.maximum[h] = maximum;
      rows.sum[h] *= factor[h];
    }
  }
  float sum[4] = {0, 0, 0, 0};
  RFSEG_UNROLL
  for (int i = 0; i < kCount; ++i) {
    s[i] = exp2_approximate(fused(s[i], scale, -rows.maximum[i / 2 % 2]));
    sum[i % 4] += s[i];
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) rows.sum[h] += sum[2 * h] + sum[2 * h + 1];
  return raise;
}

template <int kKeys, int kWords>
RFSEG_DEVICE void pack_weights(const float (&s)[kKeys / 2], uint32_t (&p)[kWords]) {
  static_assert(kKeys / 4 <= kWords);
  RFSEG_UNROLL
  for (int i = 0; i < kKeys / 4; ++i) p[i] = pack_halves(s[2 * i], s[2 * i + 1]);
}

/// Keys from `left` on do not exist.
template <int kKeys>
RFSEG_DEVICE void mask(float (&s)[kKeys / 2], int left, int lane) {
  RFSEG_UNROLL
  for (int i = 0; i < kKeys / 2; ++i) {
    const int key = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (key >= left) s[i] = kMinusInfinity;
  }
}

}  // namespace rfseg::cuda::hopper

#endif  // RFSEG_HOPPER
