#pragma once

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

/// Weights of 8 output columns; `held` steps of 32 inputs stay in registers.
template <int held>
struct ColumnWeights {
  const Words2* table = nullptr;
  Words2 words[held > 0 ? held* kDigits : 1];

  RFSEG_DEVICE void load(const Words2* from, int steps) {
    table = from;
    RFSEG_UNROLL
    for (int i = 0; i < held * kDigits; ++i) {
      words[i] = i < steps * kDigits ? load_constant(from + i * kWarp) : Words2{};
    }
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

/// sums += pixels * weights, for the steps [from, end) of 32 inputs. `pixels`: of row lane / 4 of
/// the round, at 8 times lane % 4 from the group's first.
template <int held>
RFSEG_DEVICE void multiply_rows(const uint8_t* pixels, int pitch,
                                const ColumnWeights<held>& weights, int from, int end,
                                DigitSums& sums) {
  constexpr int kStepBytes = 32 * kChannels;
  const auto step = [&](const uint8_t* p, const Words2* w) {
    uint32_t a[kChannels][4];
    take_pixels(p, 0, a);
    take_pixels(p + 8 * pitch, 1, a);
    RFSEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      RFSEG_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        const uint32_t b[2] = {w[d].w[0], w[d].w[1]};
        multiply_bytes_32(sums[c][d], a[c], b);
      }
    }
  };
  if constexpr (held > 0) {
    RFSEG_UNROLL
    for (int s = 0; s < held; ++s) {
      if (s < end) step(pixels + kStepBytes * s, weights.words + s * kDigits);
    }
  } else {
    RFSEG_NO_UNROLL
    for (int s = from; s < end; ++s) {
      Words2 w[kDigits];
      RFSEG_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        w[d] = load_constant(weights.table + (s * kDigits + d) * kWarp);
      }
      step(pixels + kStepBytes * s, w);
    }
  }
}

/// Weights of up to 16 output rows for 16 source rows.
struct RowWeights {
  Words2 digits[kDigits];

  RFSEG_DEVICE void load(const Words2* from) {
    RFSEG_UNROLL
    for (int d = 0; d < kDigits; ++d) digits[d] = load_constant(from + d * kWarp);
  }
};

/// totals += weights * the bytes of `narrow`.
RFSEG_DEVICE void multiply_columns(const DigitSums& narrow, const RowWeights& weights,
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
      const uint32_t a[2] = {weights.digits[d].w[0], weights.digits[d].w[1]};
      multiply_bytes_16(products[d], a, b);
    }
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) totals[c].w[i] += add_digits(products, i);
  }
}

}  // namespace rfseg::cuda
