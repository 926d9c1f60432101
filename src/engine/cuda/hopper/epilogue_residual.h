#pragma once

// The way out into a residual stream: floats, or pairs of halves (a value rounded, and what that
// took), with the norms that the next product wants. One warpgroup a tile of 64 rows.

#include "engine/cuda/hopper/epilogue.h"

namespace rfseg::cuda::hopper {

#if RFSEG_HOPPER

/// GemmArguments::shares and (unless they left as a pair) halves, of the sums in `d`. Lanes
/// exchange eight columns for two, so that a row's halves leave 16 bytes at a time.
RFSEG_DEVICE void hand_on_norms(const float (&d)[64], const TilePlace& place,
                                const EpilogueArguments& e) {
  const int first = place.row + place.thread / 32 * 16 + place.thread % 32 / 4;
  const int lane = place.thread % 4;
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = first + 8 * h;
    float mean = 0, squares = 0;
    RFSEG_UNROLL
    for (int j = 0; j < 16; ++j) mean += d[4 * j + 2 * h] + d[4 * j + 2 * h + 1];
    mean += __shfl_xor_sync(kAllLanes, mean, 1);
    mean += __shfl_xor_sync(kAllLanes, mean, 2);
    mean *= 1.0f / 128.0f;
    RFSEG_UNROLL
    for (int j = 0; j < 16; ++j) {
      const float x = d[4 * j + 2 * h] - mean, y = d[4 * j + 2 * h + 1] - mean;
      squares = fused(x, x, fused(y, y, squares));
    }
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    squares += __shfl_xor_sync(kAllLanes, squares, 2);
    if (lane == 0 && row < e.m) {
      reinterpret_cast<float2*>(
          e.shares)[static_cast<int64_t>(row) * (e.n / 128) + place.column / 128] =
          make_float2(mean, squares);
    }
    if (e.out_pair) continue;
    __half* out =
        static_cast<__half*>(e.halves) + static_cast<int64_t>(row) * e.n + place.column + lane * 8;
    RFSEG_UNROLL
    for (int four = 0; four < 4; ++four) {  // groups of 8 columns; lane i ends up with the i-th
      uint32_t v[4];
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int j = four * 4 + i;
        v[i] = pack_halves(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
      }
      RFSEG_UNROLL
      for (int step = 1; step < 4; step *= 2) {
        const bool upper = (lane & step) != 0;
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          if ((i & step) != 0) continue;
          const uint32_t sent = upper ? v[i] : v[i + step];
          const uint32_t got = __shfl_xor_sync(kAllLanes, sent, step);
          v[i] = upper ? got : v[i];
          v[i + step] = upper ? v[i + step] : got;
        }
      }
      if (row < e.m) {
        *reinterpret_cast<uint4*>(out + four * 32) = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }
}

/// Where the two columns of group j of a thread's first row are in boxes of 64 rows x 32 floats.
RFSEG_DEVICE uint32_t float_place(uint32_t staging, int row, int pair, int j) {
  return staging + static_cast<uint32_t>(j / 4 * 8192 + row * 128 +
                                         ((j % 4 * 2 + pair / 4) ^ (row % 8)) * 16 + pair % 4 * 4);
}

/// kResidual with floats before. kStore: and after: the sums take the residual's place.
template <int kColumns, bool kStore>
RFSEG_DEVICE void add_floats(float (&d)[kColumns / 2], const TilePlace& place, const float* vectors,
                             uint32_t staging) {
  const int row = place.thread / 32 * 16 + place.thread % 32 / 4, pair = place.thread % 4 * 2;
  RFSEG_UNROLL
  for (int j = 0; j < kColumns / 8; ++j) {
    const float2 bias = *reinterpret_cast<const float2*>(&vectors[j * 8 + pair]);
    const float2 scale = *reinterpret_cast<const float2*>(&vectors[kColumns + j * 8 + pair]);
    const uint32_t at = float_place(staging, row, pair, j);
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      float x, y;
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(at + h * 1024));
      x = fused(d[4 * j + 2 * h] + bias.x, scale.x, x);
      y = fused(d[4 * j + 2 * h + 1] + bias.y, scale.y, y);
      d[4 * j + 2 * h] = x;
      d[4 * j + 2 * h + 1] = y;
      if constexpr (kStore) {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at + h * 1024), "f"(x), "f"(y)
                     : "memory");
      }
    }
  }
}

/// kResidual with floats after alone.
RFSEG_DEVICE void put_floats(const float (&d)[64], const TilePlace& place, uint32_t staging) {
  const int row = place.thread / 32 * 16 + place.thread % 32 / 4, pair = place.thread % 4 * 2;
  RFSEG_UNROLL
  for (int i = 0; i < 32; ++i) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(float_place(staging, row, pair, i / 2) +
                                                          i % 2 * 1024),
                 "f"(d[2 * i]), "f"(d[2 * i + 1])
                 : "memory");
  }
}

/// For each 16 of 128 columns: work(address of a thread's row in the box of halves, groups of 8
/// columns done). What it took from the halves lies two boxes on.
template <class Work>
RFSEG_DEVICE void for_pairs(const TilePlace& place, uint32_t staging, Work&& work) {
  const int row = place.thread / 32 * 16 + place.thread % 16, second = place.thread % 32 / 16;
  RFSEG_UNROLL
  for (int j = 0; j < 16; j += 2) {
    work(staging +
             static_cast<uint32_t>(j / 8 * 8192 + row * 128 + ((j % 8 + second) ^ (row % 8)) * 16),
         j);
  }
}
[[maybe_unused]] constexpr uint32_t kRestBoxes = 2 * 8192;

/// kResidual with a pair of halves before.
RFSEG_DEVICE void add_pairs(float (&d)[64], const TilePlace& place, const float* vectors,
                            uint32_t staging) {
  const int pair = place.thread % 4 * 2;
  for_pairs(place, staging, [&](uint32_t at, int j) {
    uint32_t halves[4], rest[4];
    load_matrices(at, halves[0], halves[1], halves[2], halves[3]);
    load_matrices(at + kRestBoxes, rest[0], rest[1], rest[2], rest[3]);
    RFSEG_UNROLL
    for (int g = 0; g < 2; ++g) {
      const int column = (j + g) * 8 + pair;
      const float2 bias = *reinterpret_cast<const float2*>(&vectors[column]);
      const float2 scale = *reinterpret_cast<const float2*>(&vectors[128 + column]);
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float2 big = __half22float2(reinterpret_cast<const __half2&>(halves[2 * g + h]));
        const float2 small = __half22float2(reinterpret_cast<const __half2&>(rest[2 * g + h]));
        float& x = d[4 * (j + g) + 2 * h];
        float& y = d[4 * (j + g) + 2 * h + 1];
        x = fused(x + bias.x, scale.x, big.x + small.x);
        y = fused(y + bias.y, scale.y, big.y + small.y);
      }
    }
  });
}

/// kResidual with a pair of halves after.
RFSEG_DEVICE void put_pairs(const float (&d)[64], const TilePlace& place, uint32_t staging) {
  for_pairs(place, staging, [&](uint32_t at, int j) {
    uint32_t halves[4], rest[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float x = d[4 * j + 2 * i], y = d[4 * j + 2 * i + 1];
      halves[i] = pack_halves(x, y);
      const float2 big = __half22float2(reinterpret_cast<const __half2&>(halves[i]));
      rest[i] = pack_halves(x - big.x, y - big.y);
    }
    store_matrices(at, halves[0], halves[1], halves[2], halves[3]);
    store_matrices(at + kRestBoxes, rest[0], rest[1], rest[2], rest[3]);
  });
}

/// kResidual. The residual lies in `staging`, boxes of 64 rows x 32 floats or (pairs) 64 halves,
/// when `arrived` ends the phase of `parity`; the sums take its place and leave from there. A row
/// has the same bytes of each box either way, so that warps stay among themselves.
template <int kColumns>
RFSEG_DEVICE void leave_with_residual(float (&d)[kColumns / 2], const TilePlace& place,
                                      const GemmTask& task, const float* vectors, uint32_t staging,
                                      uint32_t arrived, int parity) {
  const EpilogueArguments& e = task.exit;
  barrier_wait(arrived, parity);
  if constexpr (kColumns == 128) {
    if (e.residual_pair) {
      add_pairs(d, place, vectors, staging);
    } else if (e.out_pair) {
      add_floats<kColumns, false>(d, place, vectors, staging);
    } else {
      add_floats<kColumns, true>(d, place, vectors, staging);
    }
    __syncwarp();
    if (e.out_pair) {
      put_pairs(d, place, staging);
    } else if (e.residual_pair) {
      put_floats(d, place, staging);
    }
  } else {
    add_floats<kColumns, true>(d, place, vectors, staging);
  }
  fence_async();
  named_sync(place.barrier, 128);
  if (place.thread == 0) {
    const bool pair = kColumns == 128 && e.out_pair;
    for (int box = 0; box < kColumns / 32; ++box) {
      store_tile(pair && box >= 2 ? &task.out_rest : &task.out,
                 staging + static_cast<uint32_t>(box) * 8192,
                 place.column + (pair ? box % 2 * 64 : box * 32), place.row, place.picture);
    }
  }
  if constexpr (kColumns == 128) {
    if (e.shares) hand_on_norms(d, place, e);
  }
}

#endif  // RFSEG_HOPPER

}  // namespace rfseg::cuda::hopper
