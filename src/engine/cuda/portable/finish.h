#pragma once

#include "engine/cuda/portable/tile.h"

// The end of gemm(): eight columns of a row at a time, from the sum to the stored result.

namespace rfseg::cuda::portable {

/// Eight consecutive elements of a row from (or to) column `col`, those from `count` on left alone.
template <Math kMath>
RFSEG_DEVICE void load_eight(float (&v)[8], const void* row, bool is_float, int64_t col, int count,
                             bool vector) {
  if (is_float || kMath != Math::kFp16) {
    const float* p = static_cast<const float*>(row) + col;
    if (vector && count >= 8) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        const Quad q = load_quad(p + 4 * h);
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) v[4 * h + e] = float_of_bits(q.word[e]);
      }
    } else {
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) v[e] = e < count ? p[e] : 0.0f;
    }
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(row) + col;
    if (vector && count >= 8) {
      const Quad q = load_quad(p);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[2 * e] = low_half(q.word[e]);
        v[2 * e + 1] = high_half(q.word[e]);
      }
    } else {
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) v[e] = e < count ? low_half(p[e]) : 0.0f;
    }
  }
}
template <Math kMath>
RFSEG_DEVICE void store_eight(const float (&v)[8], void* row, bool is_float, int64_t col, int count,
                              bool vector) {
  if (is_float || kMath != Math::kFp16) {
    float* p = static_cast<float*>(row) + col;
    if (vector && count >= 8) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        Quad q;
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) q.word[e] = float_bits(v[4 * h + e]);
        store_quad(p + 4 * h, q);
      }
    } else {
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) {
        if (e < count) p[e] = v[e];
      }
    }
  } else {
    uint16_t* p = static_cast<uint16_t*>(row) + col;
    if (vector && count >= 8) {
      Quad q;
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) q.word[e] = pack_halves(v[2 * e], v[2 * e + 1]);
      store_quad(p, q);
    } else {
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) {
        if (e < count) p[e] = half_of(v[e]);
      }
    }
  }
}

/// Where row m of the result and of the residual lies.
RFSEG_DEVICE int place_of_row(const GemmArguments& g, int row) {
  return g.out_group == 0 ? row : row + row / g.out_group * g.out_skip + g.out_first;
}
RFSEG_DEVICE int residual_row(const GemmArguments& g, int to) {
  return g.residual_period == 0 ? to : to % g.residual_period;
}
RFSEG_DEVICE int64_t element_at(int row, int64_t ld, int col) {
  return static_cast<int64_t>(row) * static_cast<int>(ld) + col;
}

/// Eight elements of the residual as they lie in memory; halves leave the second quad unused.
struct EarlyResidual {
  Quad quad[2];
};
template <Math kMath>
RFSEG_DEVICE bool residual_is_early(const ProductArguments& arguments, int row, int col) {
  const GemmArguments& g = arguments.product;
  return g.residual != nullptr && arguments.vector && row < g.m && col + 8 <= g.n;
}
template <Math kMath>
RFSEG_DEVICE void request_residual(EarlyResidual& early, const ProductArguments& arguments,
                                   int batch, int row, int col) {
  const GemmArguments& g = arguments.product;
  if (!residual_is_early<kMath>(arguments, row, col)) return;
  const bool is_float = g.residual_float || kMath != Math::kFp16;
  const std::byte* p = static_cast<const std::byte*>(g.residual) +
                       (batch * g.out_step + residual_row(g, place_of_row(g, row)) * g.ldr + col) *
                           (is_float ? 4 : 2);
  early.quad[0] = load_quad(p);
  if (is_float) early.quad[1] = load_quad(p + 16);
}
template <Math kMath>
RFSEG_DEVICE void take_residual(float (&r)[8], const EarlyResidual& early, bool is_float) {
  RFSEG_UNROLL
  for (int e = 0; e < 8; ++e) {
    const uint32_t half = early.quad[0].word[e / 2];
    r[e] = is_float || kMath != Math::kFp16 ? float_of_bits(early.quad[e / 4].word[e % 4])
           : e % 2 == 0                     ? low_half(half)
                                            : high_half(half);
  }
}

/// The end of gemm() for eight sums of a row.
template <Math kMath>
RFSEG_DEVICE void finish_eight(const ProductArguments& arguments, const float* vectors, int cols,
                               const EarlyResidual& early, float (&v)[8], int batch, int row,
                               int local_col, int col) {
  const GemmArguments& g = arguments.product;
  const int count = g.n - col;
  if (row >= g.m || count <= 0) return;
  const float* bias = vectors + local_col;
  RFSEG_UNROLL
  for (int e = 0; e < 8; ++e) v[e] += bias[e];
  if (g.row_bias != nullptr) {
    const float shift = g.row_bias[batch * g.row_bias_step + row];
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += shift;
  }
  if (g.activation != Activation::kNone) {
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] = activate(v[e], g.activation);
  }
  if (g.scale != nullptr) {
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] *= bias[cols + e];
  }
  const int to = place_of_row(g, row);
  if (g.residual != nullptr) {
    float r[8];
    if (residual_is_early<kMath>(arguments, row, col)) {
      take_residual<kMath>(r, early, g.residual_float);
    } else {
      load_eight<kMath>(r, g.residual, g.residual_float,
                        batch * g.out_step + element_at(residual_row(g, to), g.ldr, col), count,
                        arguments.vector);
    }
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += r[e];
  }
  store_eight<kMath>(v, g.out, g.out_float, batch * g.out_step + element_at(to, g.ldo, col), count,
                     arguments.vector);
}

/// Of one block: its tile, its picture (or part of k) and its part of k.
struct TilePlace {
  int first_row, first_col, batch, k_first, k;
};
template <class Tile>
RFSEG_DEVICE TilePlace tile_place(const ProductArguments& arguments) {
  const GemmArguments& g = arguments.product;
  // Blocks next to each other share rows of A: the larger operand comes from the L2.
  TilePlace place{block_y() * Tile::kRows, block_x() * Tile::kCols, 0, 0, g.k};
  if (g.batch > 1) {
    place.batch = block_y() / arguments.row_tiles;
    place.first_row -= place.batch * arguments.row_tiles * Tile::kRows;
  }
  if (arguments.k_part > 0) {
    place.k_first = place.batch * arguments.k_part;
    const int left = place.k - place.k_first;
    place.k = left < arguments.k_part ? left : arguments.k_part;
  }
  return place;
}

/// Where that block's part of k begins in B, and where its rows' k begins in A.
template <class Tile>
RFSEG_DEVICE const std::byte* start_of_b(const GemmArguments& g, const TilePlace& place) {
  constexpr int kBytes = Arithmetic<Tile::kMath>::kBytes;
  return static_cast<const std::byte*>(g.b) +
         (place.batch > 0 ? (place.batch * g.b_step + place.k_first) * kBytes : 0);
}
template <class Tile>
RFSEG_DEVICE const std::byte* start_of_a(const GemmArguments& g, const TilePlace& place) {
  constexpr int kBytes = Arithmetic<Tile::kMath>::kBytes;
  return static_cast<const std::byte*>(g.split != 0 && place.first_col >= g.split ? g.a2 : g.a) +
         (place.batch > 0 ? place.batch * g.a_step * kBytes : 0);
}

/// Adds eight sums of the tile's row `row`, from its column `col` on, of all kWarpsK parts.
template <class Tile>
RFSEG_DEVICE void add_parts(float (&v)[8], const float* sums, int row, int col) {
  RFSEG_UNROLL
  for (int part = 0; part < Tile::kWarpsK; ++part) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Quad q = load_quad(sums + (part * Tile::kRows + row) * Tile::kPitch + col + 4 * h);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[4 * h + e] += float_of_bits(q.word[e]);
    }
  }
}

/// The end of a tile whose sums lie in shared memory, kWarpsK times [kRows][kPitch]: kThreads
/// threads finish eight columns of a row each, kItems times.
template <class Tile>
class TileEnd {
 public:
  static constexpr int kEights = Tile::kCols / 8, kAll = Tile::kRows * kEights;
  static constexpr int kItems = (kAll + Tile::kThreads - 1) / Tile::kThreads;
  /// Residuals come together: before the product where there is room for all, else after it.
  static constexpr int kAtOnce = kItems < 4        ? kItems
                                 : kItems % 4 == 0 ? 4
                                 : kItems % 3 == 0 ? 3
                                                   : 2;
  static constexpr bool kBeforeLoop = kItems <= 2;
  static_assert(kItems % kAtOnce == 0);

  RFSEG_DEVICE TileEnd(const ProductArguments& arguments, const TilePlace& place)
      : arguments_(arguments), place_(place) {}

  RFSEG_DEVICE void request(int first) {
    RFSEG_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = (first + i) * Tile::kThreads + thread_index();
      if (kAll % Tile::kThreads == 0 || item < kAll) {
        request_residual<Tile::kMath>(early_[i], arguments_, place_.batch,
                                      place_.first_row + item / kEights,
                                      place_.first_col + item % kEights * 8);
      }
    }
  }
  RFSEG_DEVICE void request_before_loop() {
    if (kBeforeLoop) request(0);
  }
  RFSEG_DEVICE void request_after_loop() {
    if (!kBeforeLoop) request(0);
  }
  RFSEG_DEVICE const EarlyResidual& first() const { return early_[0]; }

  /// gemm()'s end. `vectors`: bias and scale of the tile's columns.
  RFSEG_DEVICE void finish(const float* vectors, const float* sums) {
    RFSEG_ROLLED
    for (int first = 0; first < kItems; first += kAtOnce) {
      if (first > 0) request(first);
      RFSEG_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int item = (first + i) * Tile::kThreads + thread_index();
        if (kAll % Tile::kThreads != 0 && item >= kAll) break;
        const int row = item / kEights, col = item % kEights * 8;
        float v[8] = {};
        add_parts<Tile>(v, sums, row, col);
        finish_eight<Tile::kMath>(arguments_, vectors, Tile::kCols, early_[i], v, place_.batch,
                                  place_.first_row + row, col, place_.first_col + col);
      }
    }
  }

 private:
  const ProductArguments& arguments_;
  const TilePlace& place_;
  EarlyResidual early_[kAtOnce];
};

/// Bias and scale of the tile's columns on their way to `vectors`, by the first kCols of the
/// threads `thread`.
template <class Tile>
RFSEG_DEVICE void copy_vectors(const GemmArguments& g, int first_col, int thread, float* vectors) {
  if (thread >= Tile::kCols) return;
  const int col = first_col + thread;
  const bool bias = g.bias != nullptr && col < g.n, scale = g.scale != nullptr && col < g.n;
  const SharedAddress to = shared_address(vectors + thread);
  copy_async_4(to, bias ? g.bias + col : g.b, bias);
  copy_async_4(to + Tile::kCols * 4, scale ? g.scale + col : g.b, scale);
}

}  // namespace rfseg::cuda::portable
