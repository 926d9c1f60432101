#pragma once

#include <cstddef>

#include "core/cuda/simt_matrix.h"
#include "preprocess/cuda/records.h"

// Pillow's two passes as products of 8-bit matrices, by one warp and without shared memory between
// them. A weight has 22 bits and a pixel 8: four times the weight has three bytes, which are three
// matrices ("digits"), and the sums of the three products, shifted and added in 32 bits, are four
// times Pillow's sums. Their highest byte is Pillow's byte, since they begin with its half. (A
// weight of 1 becomes 2^24 - 1, one too few: beside it there is none, and 255 is less than the
// half. Sums stay below 2^32: plan_tables.cpp checks it.)
//
// A unit is 16 rows of source pixels times 8 output columns, in all three channels. Its rows come
// as pixels of three bytes. A lane takes 8 consecutive pixels of a row at once and sorts their
// bytes by channel, in an order that the tables of weights share (see kColumnOrder). What the first
// pass leaves has its rows where the second needs columns; one transposition of byte pairs turns
// it, in the order kRowOrder.

namespace rfseg::cuda {

/// Sums of the digits' products.
using DigitSums = int32_t[kChannels][kDigits][4];

/// Begins them with the half.
RFSEG_DEVICE void begin_sums(DigitSums& sums) {
  RFSEG_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    RFSEG_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) sums[c][d][i] = d == 0 ? kHalfOfByte : 0;
    }
  }
}

RFSEG_DEVICE uint32_t add_digits(const int32_t (&sums)[kDigits][4], int i) {
  return static_cast<uint32_t>(sums[0][i]) + (static_cast<uint32_t>(sums[1][i]) << 8) +
         (static_cast<uint32_t>(sums[2][i]) << 16);
}

/// This lane's words of a matrix of weights. Few loads: the seventh would wait for the first.
struct Weights {
  Words4 low;   ///< of two digits
  Words2 high;  ///< of the third

  RFSEG_DEVICE void load(const std::byte* matrix, int lane) {
    low = load_constant(reinterpret_cast<const Words4*>(matrix) + lane);
    high = load_constant(reinterpret_cast<const Words2*>(matrix + kWarp * sizeof(Words4)) + lane);
  }
  RFSEG_DEVICE void digit(int d, uint32_t (&words)[2]) const {
    words[0] = d < 2 ? low.w[2 * d] : high.w[0];
    words[1] = d < 2 ? low.w[2 * d + 1] : high.w[1];
  }
};

/// Weights of 8 output columns. Either all of them, `held` steps of 32 inputs, stay in registers,
/// or with 0 none.
template <int held>
struct ColumnWeights {
  const std::byte* table = nullptr;
  int lane = 0;
  Weights steps[held > 0 ? held : 1];

  RFSEG_DEVICE void load(const std::byte* from, int this_lane) {
    table = from;
    lane = this_lane;
    RFSEG_UNROLL
    for (int s = 0; s < held; ++s) steps[s].load(from + s * kMatrixBytes, lane);
  }
};

/// 8 pixels of row lane / 4 (`half` 0) or lane / 4 + 8 (1) of the round, by channels.
RFSEG_DEVICE void take_pixels(const uint8_t* p, int half, uint32_t (&a)[kChannels][4]) {
  uint32_t w[6];
  RFSEG_UNROLL
  for (int i = 0; i < 3; ++i) {
    const Words2 two = reinterpret_cast<const Words2*>(p)[i];
    w[2 * i] = two.w[0];
    w[2 * i + 1] = two.w[1];
  }
  const uint32_t p0 = permute_bytes(w[0], w[1], 0x5241);  // green 0 1, blue 0 1
  const uint32_t p1 = permute_bytes(w[3], w[4], 0x5241);  // green 4 5, blue 4 5
  const uint32_t q0 = permute_bytes(w[1], w[2], 0x6352);  // red 2 3, green 2 3
  const uint32_t q1 = permute_bytes(w[4], w[5], 0x6352);  // red 6 7, green 6 7
  a[0][half] = permute_bytes(w[0], w[3], 0x7430);
  a[0][half + 2] = permute_bytes(q0, q1, 0x5410);
  a[1][half] = permute_bytes(p0, p1, 0x5410);
  a[1][half + 2] = permute_bytes(q0, q1, 0x7632);
  a[2][half] = permute_bytes(p0, p1, 0x7632);
  a[2][half + 2] = permute_bytes(w[2], w[5], 0x7430);
}

/// sums += pixels * weights, for all that are held, or the steps [from, end) of 32 inputs.
/// `pixels`: of row lane / 4 of the round, at 8 times lane % 4 from the group's first.
template <int held>
RFSEG_DEVICE void multiply_rows(const uint8_t* pixels, int pitch,
                                const ColumnWeights<held>& weights, int from, int end,
                                DigitSums& sums) {
  constexpr int kStepBytes = 32 * kChannels;
  const auto step = [&](const uint8_t* p, const Weights& w) {
    uint32_t a[kChannels][4];
    take_pixels(p, 0, a);
    take_pixels(p + 8 * pitch, 1, a);
    RFSEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      RFSEG_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        uint32_t b[2];
        w.digit(d, b);
        multiply_bytes_32(sums[c][d], a[c], b);
      }
    }
  };
  if constexpr (held > 0) {
    RFSEG_UNROLL
    for (int s = 0; s < held; ++s) step(pixels + kStepBytes * s, weights.steps[s]);
  } else {
    RFSEG_NO_UNROLL
    for (int s = from; s < end; ++s) {
      Weights w;
      w.load(weights.table + s * kMatrixBytes, weights.lane);
      step(pixels + kStepBytes * s, w);
    }
  }
}

/// totals += weights of up to 16 output rows for 16 source rows * the bytes of `narrow`.
RFSEG_DEVICE void multiply_columns(const DigitSums& narrow, const Weights& weights,
                                   Words4 (&totals)[kChannels]) {
  RFSEG_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    uint32_t u[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) u[i] = add_digits(narrow[c], i);
    const uint32_t bytes =
        permute_bytes(permute_bytes(u[0], u[2], 0x0073), permute_bytes(u[1], u[3], 0x0073), 0x5410);
    const uint32_t b[1] = {transpose_pairs(bytes)};
    int32_t products[kDigits][4] = {};
    RFSEG_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      uint32_t a[2];
      weights.digit(d, a);
      multiply_bytes_16(products[d], a, b);
    }
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) totals[c].w[i] += add_digits(products, i);
  }
}

}  // namespace rfseg::cuda
