#pragma once

// What happens to the accumulators of a 64-row tile: bias, activation, LayerScale, residual, and
// the way out (into the residual stream: epilogue_residual.h). One warpgroup (128 threads) a tile.

#include "engine/cuda/hopper/device.h"
#include "engine/cuda/hopper/gemm_task.h"

namespace rfseg::cuda::hopper {

#if RFSEG_HOPPER

/// x * Phi(x). erfc / 2 by the form of Abramowitz and Stegun 7.1.28, a polynomial to the power of
/// -16, because it needs one special function (a reciprocal) where forms with exp need two. Of
/// degree 4 with coefficients of its own: |error| < 2.3e-5, below half a unit of a half from 0.09
/// on.
RFSEG_DEVICE float gelu(float x) {
  const float z = fabsf(x);
  float p = fused(z, 5.47561121e-04f, 2.08953544e-03f);
  p = fused(z, p, 2.35007943e-02f);
  p = fused(z, p, 5.14624158e-02f);
  p = fused(z, p, 1.04435317f);
  p *= p;
  p *= p;
  p *= p;
  p *= p;
  float half_erfc;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(half_erfc) : "f"(p));
  return fused(-z, half_erfc, fmaxf(x, 0.0f));
}

template <Activation kActivation>
RFSEG_DEVICE float activate(float x) {
  if constexpr (kActivation == Activation::kGelu) return gelu(x);
  if constexpr (kActivation == Activation::kRelu) return fmaxf(x, 0.0f);
  if constexpr (kActivation == Activation::kSilu) return __fdividef(x, 1.0f + __expf(-x));
  return x;
}

/// Keeps the compiler from loading everything first, for which there are no registers.
RFSEG_DEVICE void loads_end_here() { asm volatile("" ::: "memory"); }

/// Where a warpgroup works.
struct TilePlace {
  int row, column, picture;  ///< first row and column of the tile, and which product of the batch
  int thread;                ///< in the warpgroup
  int barrier;               ///< a named barrier of this warpgroup alone
};

/// Copies this tile's biases, scales (kNorm: gammas) and betas (else: row sums) to shared memory,
/// [3][kColumns], absent ones as 0, 1 and 0. To be followed by a barrier of the warpgroup.
template <int kColumns, int kThreads>
RFSEG_DEVICE void stage_vectors(const EpilogueArguments& e, int column, int thread,
                                float* vectors) {
  for (int i = thread; i < kColumns; i += kThreads) {
    const bool inside = column + i < e.n;
    vectors[i] = e.bias && inside ? e.bias[column + i] : 0.0f;
    const float* scale = e.gamma ? e.gamma : e.scale;
    vectors[kColumns + i] = scale && inside ? scale[column + i] : 1.0f;
    const float* third = e.gamma ? e.beta : e.row_sums;
    vectors[2 * kColumns + i] = third && inside ? third[column + i] : 0.0f;
  }
}

/// What makes a thread's two rows of sums those of normalised rows: sum * scale + row_sum * shift.
struct RowNorms {
  float scale[2] = {1.0f, 1.0f}, shift[2] = {0.0f, 0.0f};
};
RFSEG_DEVICE RowNorms row_norms(const EpilogueArguments& e, const TilePlace& place) {
  RowNorms norms;
  if (!e.norm_of) return norms;
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = place.row + place.thread / 32 * 16 + place.thread % 32 / 4 + 8 * h;
    const float2* shares = reinterpret_cast<const float2*>(e.norm_of) +
                           static_cast<int64_t>(row < e.m ? row : 0) * e.norm_shares;
    // Each of 128 columns: (mean, squared distances from it).
    float2 share[kMostNormShares];
    float mean = 0, squares = 0;
    RFSEG_UNROLL
    for (int i = 0; i < kMostNormShares; ++i) {
      share[i] = i < e.norm_shares ? shares[i] : make_float2(0.0f, 0.0f);
      mean += share[i].x;
    }
    const float part = 1.0f / static_cast<float>(e.norm_shares);
    mean *= part;
    RFSEG_UNROLL
    for (int i = 0; i < kMostNormShares; ++i) {
      const float off = share[i].x - mean;
      squares += i < e.norm_shares ? fused(off * off, 128.0f, share[i].y) : 0.0f;
    }
    norms.scale[h] = rsqrtf(fused(squares, part / 128.0f, e.norm_eps));
    norms.shift[h] = -mean * norms.scale[h];
  }
  return norms;
}

template <int kColumns>
RFSEG_DEVICE constexpr int box_columns() {
  return kColumns % 64 == 0 ? 64 : 32;
}

/// kHalf and kHalfPlus; kRaw: the accumulators as they are (no bias). `staging`: kBoxes boxes of 64
/// rows x box_columns, each aligned to 1024 bytes. With a box for each part of the tile all are
/// written and sent at once; else they are used in turn over all calls, which `turn` counts.
/// kHalfPlus: the residual lies in them (fetch_residual) when `arrived` ends the phase of `parity`.
template <int kColumns, Activation kActivation, int kBoxes, bool kPlus = false, bool kRaw = false>
RFSEG_DEVICE void leave_as_halves(float (&d)[kColumns / 2], const TilePlace& place,
                                  const float* vectors, uint32_t staging, int& turn,
                                  const CUtensorMap* out, uint32_t arrived = 0, int parity = 0,
                                  const RowNorms& norms = RowNorms()) {
  constexpr int kBox = box_columns<kColumns>();
  constexpr int kBoxBytes = 64 * kBox * 2;
  constexpr bool kWhole = kBoxes == kColumns / kBox;
  static_assert(kWhole || !kPlus);
  const int lane = place.thread % 32, warp = place.thread / 32;
  // stmatrix: lane i gives the address of row i % 8 of matrix i / 8; matrices 0 and 1 are rows 0..7
  // and 8..15 of one group of 8 columns, 2 and 3 those of the next.
  const int row = warp * 16 + lane % 16, second = lane / 16;
  const int swizzle = kBox == 64 ? row % 8 : row / 2 % 4;
  if constexpr (kPlus) {
    barrier_wait(arrived, parity);
  } else if constexpr (kWhole) {
    if (place.thread == 0) store_wait_read<0>();
    named_sync(place.barrier, 128);
  }
  RFSEG_UNROLL
  for (int box = 0; box < kColumns / kBox; ++box) {
    const int at_box = kWhole ? box : turn++ % kBoxes;
    const uint32_t base = staging + static_cast<uint32_t>(at_box) * kBoxBytes;
    if constexpr (!kWhole) {
      if (place.thread == 0) store_wait_read<kBoxes - 1>();
      named_sync(place.barrier, 128);
    }
    RFSEG_UNROLL
    for (int pair = 0; pair < kBox / 16; ++pair) {
      const uint32_t at =
          base + static_cast<uint32_t>(row * kBox * 2 + ((pair * 2 + second) ^ swizzle) * 16);
      uint32_t old[4] = {};
      if constexpr (kPlus) load_matrices(at, old[0], old[1], old[2], old[3]);
      uint32_t halves[4];
      RFSEG_UNROLL
      for (int g = 0; g < 2; ++g) {
        const int j = box * (kBox / 8) + pair * 2 + g;
        const int column = j * 8 + place.thread % 4 * 2;
        float2 bias = make_float2(0.0f, 0.0f), row_sum = bias;
        if constexpr (!kRaw) {
          bias = *reinterpret_cast<const float2*>(&vectors[column]);
          if constexpr (!kPlus) {
            row_sum = *reinterpret_cast<const float2*>(&vectors[2 * kColumns + column]);
          }
        }
        RFSEG_UNROLL
        for (int h = 0; h < 2; ++h) {
          float v[2] = {d[4 * j + 2 * h], d[4 * j + 2 * h + 1]};
          if constexpr (!kRaw && !kPlus) {
            v[0] = fused(v[0], norms.scale[h], fused(norms.shift[h], row_sum.x, bias.x));
            v[1] = fused(v[1], norms.scale[h], fused(norms.shift[h], row_sum.y, bias.y));
          } else if constexpr (!kRaw) {
            v[0] += bias.x;
            v[1] += bias.y;
          }
          if constexpr (!kRaw) {
            v[0] = activate<kActivation>(v[0]);
            v[1] = activate<kActivation>(v[1]);
          }
          if constexpr (kPlus) {
            const float2 plus = __half22float2(reinterpret_cast<const __half2&>(old[g * 2 + h]));
            v[0] += plus.x;
            v[1] += plus.y;
          }
          halves[g * 2 + h] = pack_halves(v[0], v[1]);
        }
      }
      store_matrices(at, halves[0], halves[1], halves[2], halves[3]);
    }
    if constexpr (!kWhole) {
      fence_async();
      named_sync(place.barrier, 128);
      if (place.thread == 0) {
        store_tile(out, base, place.column + box * kBox, place.row, place.picture);
      }
    }
  }
  if constexpr (kWhole) {
    fence_async();
    named_sync(place.barrier, 128);
    if (place.thread == 0) {
      for (int box = 0; box < kColumns / kBox; ++box) {
        store_tile(out, staging + static_cast<uint32_t>(box) * kBoxBytes, place.column + box * kBox,
                   place.row, place.picture);
      }
    }
  }
}

/// By thread 0 of a warpgroup: fetches the residual of its next tile to the boxes of kHalfPlus, or
/// (kFloat) of kResidual; there a stream in pairs has its halves in the first two boxes.
template <int kColumns, bool kFloat>
RFSEG_DEVICE void fetch_residual(const TilePlace& place, uint32_t staging, const GemmTask& task,
                                 uint32_t arrived) {
  constexpr int kBox = kFloat ? 32 : box_columns<kColumns>();
  constexpr int kBytes = 64 * kBox * (kFloat ? 4 : 2);
  store_wait_read<0>();
  barrier_expect(arrived, kColumns / kBox * kBytes);
  const bool pair = kFloat && task.exit.residual_pair;
  for (int box = 0; box < kColumns / kBox; ++box) {
    load_tile(staging + static_cast<uint32_t>(box) * kBytes,
              pair && box >= 2 ? &task.residual_rest : &task.residual, arrived,
              place.column + (pair ? box % 2 * 64 : box * kBox), place.row, place.picture);
  }
}

/// kNorm: the norm of whole rows, each held by four neighbouring lanes.
template <int kColumns, Activation kActivation>
RFSEG_DEVICE void leave_normed(float (&d)[kColumns / 2], const TilePlace& place,
                               const EpilogueArguments& e, const float* vectors, uint32_t staging,
                               int& turn, const CUtensorMap* out) {
  const int first = place.thread / 32 * 16 + place.thread % 32 / 4, pair = place.thread % 4 * 2;
  const int64_t rows[2] = {place.row + first, place.row + first + 8};
  if (e.residual) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (rows[h] >= e.m) continue;
      const float* residual = static_cast<const float*>(e.residual) + rows[h] * e.ldr + pair;
      RFSEG_UNROLL
      for (int j = 0; j < kColumns / 8; ++j) {
        const float2 old = *reinterpret_cast<const float2*>(residual + j * 8);
        d[4 * j + 2 * h] += old.x;
        d[4 * j + 2 * h + 1] += old.y;
        if (j % 8 == 7) loads_end_here();
      }
    }
  }
  float sum[2] = {0, 0}, squares[2] = {0, 0}, mean[2], factor[2];
  RFSEG_UNROLL
  for (int j = 0; j < kColumns / 8; ++j) {
    const float2 bias = *reinterpret_cast<const float2*>(&vectors[j * 8 + pair]);
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      d[4 * j + 2 * h] += bias.x;
      d[4 * j + 2 * h + 1] += bias.y;
      sum[h] += d[4 * j + 2 * h] + d[4 * j + 2 * h + 1];
    }
    if (j % 8 == 7) loads_end_here();
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 1);
    sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 2);
    mean[h] = sum[h] * (1.0f / kColumns);
  }
  RFSEG_UNROLL
  for (int i = 0; i < kColumns / 2; ++i) {
    const float off = d[i] - mean[i / 2 % 2];
    squares[i / 2 % 2] = fused(off, off, squares[i / 2 % 2]);
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 1);
    squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 2);
    factor[h] = rsqrtf(fused(squares[h], 1.0f / kColumns, e.eps));
  }
  RFSEG_UNROLL
  for (int j = 0; j < kColumns / 8; ++j) {
    const float2 gamma = *reinterpret_cast<const float2*>(&vectors[kColumns + j * 8 + pair]);
    const float2 beta = *reinterpret_cast<const float2*>(&vectors[2 * kColumns + j * 8 + pair]);
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      float& x = d[4 * j + 2 * h];
      float& y = d[4 * j + 2 * h + 1];
      x = activate<kActivation>(fused((x - mean[h]) * factor[h], gamma.x, beta.x));
      y = activate<kActivation>(fused((y - mean[h]) * factor[h], gamma.y, beta.y));
    }
    if (j % 4 == 3) loads_end_here();
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    if (rows[h] >= e.m) continue;
    if (e.norm_out) {
      float* out = e.norm_out + rows[h] * e.ldo_norm + pair;
      RFSEG_UNROLL
      for (int j = 0; j < kColumns / 8; ++j) {
        *reinterpret_cast<float2*>(out + j * 8) =
            make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
      }
    }
    if (e.out_plus) {
      const float* plus = e.plus + rows[h] * kColumns + pair;
      __half* out = static_cast<__half*>(e.out_plus) + rows[h] * kColumns + pair;
      RFSEG_UNROLL
      for (int j = 0; j < kColumns / 8; ++j) {
        const float2 add = *reinterpret_cast<const float2*>(plus + j * 8);
        *reinterpret_cast<uint32_t*>(out + j * 8) =
            pack_halves(d[4 * j + 2 * h] + add.x, d[4 * j + 2 * h + 1] + add.y);
        if (j % 8 == 7) loads_end_here();
      }
    }
  }
  if (e.norm_half) {
    leave_as_halves<kColumns, Activation::kNone, 1, false, true>(d, place, vectors, staging, turn,
                                                                 out);
  }
}

/// kAny.
template <int kColumns, Activation kActivation>
RFSEG_DEVICE void leave(float (&d)[kColumns / 2], const TilePlace& place,
                        const EpilogueArguments& e, const float* vectors) {
  const int first = place.thread / 32 * 16 + place.thread % 32 / 4, pair = place.thread % 4 * 2;
  const int columns = e.n - place.column - pair;  // of the tile, from this thread's first on
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = place.row + first + 8 * h;
    if (row >= e.m) continue;
    const float row_bias = e.row_bias ? e.row_bias[place.picture * e.row_bias_step + row] : 0.0f;
    const int64_t to =
        e.out_group ? row + static_cast<int64_t>(row / e.out_group) * e.out_skip + e.out_first
                    : row;
    const int64_t from = e.residual_period ? to % e.residual_period : to;
    const int64_t start = place.picture * e.out_step + place.column + pair;
    const int64_t residual_at = start + from * e.ldr, out_at = start + to * e.ldo;
    // Eight loads of the residual are under way at a time: it may be `out`, so that no load passes
    // a store by itself.
    constexpr int kAhead = 8;
    RFSEG_UNROLL
    for (int ahead = 0; ahead < kColumns / 8; ahead += kAhead) {
      float2 old[kAhead];
      RFSEG_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        old[i] = make_float2(0.0f, 0.0f);
        const int column = (ahead + i) * 8;
        if (ahead + i >= kColumns / 8 || !e.residual || column >= columns) continue;
        const int64_t at = residual_at + column;
        if (e.residual_float) {
          const float* residual = static_cast<const float*>(e.residual) + at;
          if (e.pairs) {
            old[i] = *reinterpret_cast<const float2*>(residual);
          } else {
            old[i].x = residual[0];
            if (column + 1 < columns) old[i].y = residual[1];
          }
        } else {
          const __half* residual = static_cast<const __half*>(e.residual) + at;
          old[i].x = __half2float(residual[0]);
          if (column + 1 < columns) old[i].y = __half2float(residual[1]);
        }
      }
      RFSEG_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int j = ahead + i, column = j * 8;
        if (j >= kColumns / 8 || column >= columns) continue;
        const float2 bias = *reinterpret_cast<const float2*>(&vectors[column + pair]);
        const float2 scale = *reinterpret_cast<const float2*>(&vectors[kColumns + column + pair]);
        const float x =
            fused(activate<kActivation>(d[4 * j + 2 * h] + bias.x + row_bias), scale.x, old[i].x);
        const float y = fused(activate<kActivation>(d[4 * j + 2 * h + 1] + bias.y + row_bias),
                              scale.y, old[i].y);
        if (e.out_float) {
          float* out = static_cast<float*>(e.out) + out_at + column;
          if (e.pairs) {
            *reinterpret_cast<float2*>(out) = make_float2(x, y);
          } else {
            out[0] = x;
            if (column + 1 < columns) out[1] = y;
          }
        } else {
          __half* out = static_cast<__half*>(e.out) + out_at + column;
          if (e.pairs) {
            *reinterpret_cast<uint32_t*>(out) = pack_halves(x, y);
          } else {
            out[0] = __float2half_rn(x);
            if (column + 1 < columns) out[1] = __float2half_rn(y);
          }
        }
      }
    }
  }
}

#endif  // RFSEG_HOPPER

}  // namespace rfseg::cuda::hopper
