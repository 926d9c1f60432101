#pragma once

#include "engine/cuda/portable/finish.h"
#include "engine/cuda/portable/rows.h"

// The matrix product of products.h on mma.sync.
//
// A block computes kRows x kCols of the result; k is walked in stages of kSlabs slabs of 128 bytes
// (64 halves or 32 floats), of which kStages - 1 are on their way while one is multiplied. In
// shared memory a slab is a row of eight 16-byte chunks for each row of A or B; chunk c of row r
// lies at c ^ a_turn(r) or c ^ b_turn(r), so that every ldmatrix and every copy touches all banks.
//
// kWarpsM x kWarpsN warps share the result; kWarpsK such groups share the steps of each stage (a
// step is 32 bytes of k) and add up their sums in shared memory at the end, in a fixed order.
//
// A thread's columns: tensor core columns may stand for any columns of B. In each group of 32, tile
// j's column c stands for 8 * (c / 2) + 2 * j + c % 2, so that a thread of quad position t ends up
// with the eight consecutive columns 8 t .. 8 t + 7 of a row. The sums go through shared memory, so
// that the end of the product is code (and fetched) once, whatever a warp holds.
//
// The first stages of a B that no kernel writes are requested before the previous kernel is
// awaited.
//
// kNormed: the whole normalised rows lie in shared memory before the first step (kMaxNormed
// floats of a row at most); only B is walked in stages.
//
// gemm_norm() is a product into memory and a kernel of norms: in one kernel, whole rows in a block,
// too few blocks read too many weights each. On GPUs with clusters the blocks of a row tile are
// one, and tell each other their rows' statistics (kNorm).

namespace rfseg::cuda::portable {

template <class Tile>
class GemmWarp {
 public:
  using Core = Arithmetic<Tile::kMath>;
  static constexpr int kTilesM = Tile::kTilesM, kGroups = Tile::kGroups;
  /// A stage's products begin at zero, the small ones have sums of their own (arithmetic.h).
  static constexpr bool kSplit = Tile::kMath == Math::kFp32;

  RFSEG_DEVICE GemmWarp() {
    const int warp = thread_index() / kWarp;
    lane_ = thread_index() % kWarp;
    part_ = warp / (Tile::kWarpsM * Tile::kWarpsN);
    const int place = warp % (Tile::kWarpsM * Tile::kWarpsN);
    row_ = place / Tile::kWarpsN * (Tile::kRows / Tile::kWarpsM);
    col_ = place % Tile::kWarpsN * (Tile::kCols / Tile::kWarpsN);
    RFSEG_UNROLL
    for (int i = 0; i < kTilesM; ++i) {
      RFSEG_UNROLL
      for (int j = 0; j < kGroups * 4; ++j) {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) {
          sums_[i][j][e] = 0;
          if constexpr (kSplit) corrections_[i][j][e] = 0;
        }
      }
    }
    const int a_row = row_ + lane_ % 16;
    a_offset_ = static_cast<uint32_t>(a_row * 128);
    a_chunk_ = static_cast<uint32_t>((lane_ / 16) ^ a_turn(a_row)) << 4;
    // Matrix q of a load: tile q / 2 of a pair, chunk q % 2 of a step.
    const int q = lane_ / 8, c = lane_ % 8, b_row = col_ + 8 * (c / 2) + c % 2 + 2 * (q / 2);
    b_offset_ = static_cast<uint32_t>(b_row * 128);
    b_chunk_ = static_cast<uint32_t>((q % 2) ^ c) << 4;
  }

  /// The steps of this warp in a stage whose slabs of A and B begin at `a` and `b`. What has to be
  /// requested meanwhile, `request()` does once the first fragments are on their way.
  template <class Request>
  RFSEG_DEVICE void multiply(SharedAddress a, SharedAddress b, Request&& request) {
    a += a_offset_;
    b += b_offset_;
    const auto slab_of = [&](int i, SharedAddress slabs, int rows, uint32_t chunk) {
      const int step = Tile::kWarpsK == 1 ? i : part_ * Tile::kSteps + i;
      return slabs + static_cast<uint32_t>(step / 4 * rows * 128) +
             ((static_cast<uint32_t>(step % 4) << 5) ^ chunk);
    };
    const auto load_rows = [&](uint32_t(&raw)[kTilesM][4], int i) {
      const SharedAddress from = slab_of(i, a, Tile::kRows, a_chunk_);
      RFSEG_UNROLL
      for (int m = 0; m < kTilesM; ++m) {
        load_matrices(raw[m], from + static_cast<uint32_t>(m * 16 * 128));
      }
    };
    const auto load_pair = [&](uint32_t(&raw)[4], int i, int pair) {
      load_matrices(raw, slab_of(i, b, Tile::kCols, b_chunk_) +
                             static_cast<uint32_t>((pair / 2 * 32 + pair % 2 * 4) * 128));
    };
    float stage[kSplit ? kTilesM : 1][kGroups * 4][4] = {};
    const auto multiply_pair = [&](const typename Core::A(&fragments)[kTilesM],
                                   const uint32_t(&raw)[4], int pair) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename Core::B other;
        Core::take_b(other, raw[2 * half], raw[2 * half + 1]);
        RFSEG_UNROLL
        for (int m = 0; m < kTilesM; ++m) {
          const int tile = pair * 2 + half;
          if constexpr (kSplit) {
            Core::multiply(stage[m][tile], corrections_[m][tile], fragments[m], other);
          } else {
            Core::multiply(sums_[m][tile], fragments[m], other);
          }
        }
      }
    };
    constexpr int kSets = Tile::kAhead ? 2 : 1;
    uint32_t rows[kSets][kTilesM][4], pairs[kSets][kGroups * 2][4];
    const auto load = [&](int i) {
      load_rows(rows[i % kSets], i);
      RFSEG_UNROLL
      for (int pair = 0; pair < kGroups * 2; ++pair) load_pair(pairs[i % kSets][pair], i, pair);
    };
    if constexpr (Tile::kAhead) load(0);
    request();
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kSteps; ++i) {
      if constexpr (Tile::kAhead) {
        if (i + 1 < Tile::kSteps) load(i + 1);
      } else {
        load_rows(rows[0], i);
      }
      typename Core::A fragments[kTilesM];
      RFSEG_UNROLL
      for (int m = 0; m < kTilesM; ++m) Core::take_a(fragments[m], rows[i % kSets][m]);
      RFSEG_UNROLL
      for (int pair = 0; pair < kGroups * 2; ++pair) {
        if constexpr (!Tile::kAhead) load_pair(pairs[0][pair], i, pair);
        multiply_pair(fragments, pairs[i % kSets][pair], pair);
      }
    }
    if constexpr (kSplit) add(stage);
  }

  /// The sums to `to` [kWarpsK][kRows][kPitch].
  RFSEG_DEVICE void store(float* to) {
    if constexpr (kSplit) add(corrections_);
    to += (part_ * Tile::kRows + row_ + lane_ / 4) * Tile::kPitch + col_ + lane_ % 4 * 8;
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        RFSEG_UNROLL
        for (int j = 0; j < kGroups * 4; j += 2) {
          const float(&left)[4] = sums_[m][j];
          const float(&right)[4] = sums_[m][j + 1];
          store_quad(to + (m * 16 + half * 8) * Tile::kPitch + j / 4 * 32 + j % 4 * 2,
                     {{float_bits(left[2 * half]), float_bits(left[2 * half + 1]),
                       float_bits(right[2 * half]), float_bits(right[2 * half + 1])}});
        }
      }
    }
  }

 private:
  using Sums = float[kTilesM][kGroups * 4][4];

  RFSEG_DEVICE void add(const Sums& more) {
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int j = 0; j < kGroups * 4; ++j) {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) sums_[m][j][e] += more[m][j][e];
      }
    }
  }

  int lane_, part_, row_, col_;
  uint32_t a_offset_, a_chunk_, b_offset_, b_chunk_;
  Sums sums_;
  float corrections_[kSplit ? kTilesM : 1][kGroups * 4][4];
};

/// A block's part of a row: the mean of its columns, and the sum of their squared distances from
/// it.
struct RowShare {
  float mean, squares;
};
constexpr int kMostShares = 8;  ///< blocks of a cluster

/// The end of gemm_norm() for the block's tile: eight columns a thread. `shares`: [kMostShares]
/// [kRows], written by the cluster.
template <class Tile>
RFSEG_DEVICE void finish_norm(const ProductArguments& arguments, const float* vectors,
                              const EarlyResidual& early, const float* sums, RowShare* shares,
                              int first_row, int first_col) {
  const GemmArguments& g = arguments.product;
  constexpr Math kMath = Tile::kMath;
  constexpr int kEights = Tile::kCols / 8;
  static_assert(Tile::kRows * kEights <= Tile::kThreads && kWarp % kEights == 0);
  const int item = thread_index(), local = item / kEights, local_col = item % kEights * 8;
  const int row = first_row + local, col = first_col + local_col;
  const bool active = item < Tile::kRows * kEights;  // whole warps
  float v[8] = {}, gamma[8], beta[8], plus[8] = {};
  const auto load_floats = [&](float(&to)[8], const float* from, float absent) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      const uint32_t none = float_bits(absent);
      const Quad q = from != nullptr ? load_quad(from + 4 * h) : Quad{{none, none, none, none}};
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) to[4 * h + e] = float_of_bits(q.word[e]);
    }
  };
  if (active) {
    load_floats(gamma, arguments.gamma != nullptr ? arguments.gamma + col : nullptr, 1.0f);
    load_floats(beta, arguments.beta != nullptr ? arguments.beta + col : nullptr, 0.0f);
    if (arguments.norm_plus != nullptr && row < g.m) {
      load_floats(plus, arguments.plus + element_at(row, g.n, col), 0.0f);
    }
    add_parts<Tile>(v, sums, local, local_col);
    float r[8] = {};
    if (g.residual != nullptr && row < g.m) take_residual<kMath>(r, early, g.residual_float);
    float own = 0, squares = 0;
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) {
      const float scale = g.scale != nullptr ? vectors[Tile::kCols + local_col + e] : 1.0f;
      v[e] = fused(v[e] + vectors[local_col + e], scale, r[e]);
      own += v[e];
    }
    RFSEG_UNROLL
    for (int d = 1; d < kEights; d *= 2) own += warp_read(own, (item % kWarp) ^ d);
    own /= static_cast<float>(Tile::kCols);
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) squares = fused(v[e] - own, v[e] - own, squares);
    RFSEG_UNROLL
    for (int d = 1; d < kEights; d *= 2) squares += warp_read(squares, (item % kWarp) ^ d);
    cluster_wait();  // all have begun
    for (int peer = item % kEights; peer < cluster_size(); peer += kEights) {
      cluster_peer(shares, peer)[cluster_rank() * Tile::kRows + local] = {own, squares};
    }
  } else {
    cluster_wait();
  }
  cluster_sync();
  if (!active || row >= g.m) return;
  const int count = cluster_size();
  float mean = 0, squares = 0;
  for (int i = 0; i < count; ++i) mean += shares[i * Tile::kRows + local].mean;
  mean /= static_cast<float>(count);
  for (int i = 0; i < count; ++i) {
    const RowShare share = shares[i * Tile::kRows + local];
    const float off = share.mean - mean;
    squares += fused(off * off, static_cast<float>(Tile::kCols), share.squares);
  }
  const float scale = 1.0f / exact_sqrt(squares / static_cast<float>(g.n) + arguments.norm_eps);
  if (arguments.norm_sum != nullptr) {
    store_eight<kMath>(v, arguments.norm_sum, true, element_at(row, arguments.ld_norm_sum, col), 8,
                       true);
  }
  RFSEG_UNROLL
  for (int e = 0; e < 8; ++e) {
    v[e] = activate(fused((v[e] - mean) * scale, gamma[e], beta[e]), arguments.norm_activation);
  }
  if (arguments.norm_float != nullptr) {
    store_eight<kMath>(v, arguments.norm_float, true, element_at(row, arguments.ld_norm_float, col),
                       8, true);
  }
  if (arguments.norm_out != nullptr) {
    store_eight<kMath>(v, arguments.norm_out, false, element_at(row, arguments.ld_norm_out, col), 8,
                       true);
  }
  if (arguments.norm_plus != nullptr) {
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += plus[e];
    store_eight<kMath>(v, arguments.norm_plus, false, element_at(row, g.n, col), 8, true);
  }
}

/// kNorm: gemm_norm() by clusters as wide as the rows; `vector` accesses, n a multiple of kCols.
template <class Tile, RowSource kSource, bool kNorm = false>
RFSEG_DEVICE void gemm_body(const ProductArguments& arguments, void* shared) {
  const GemmArguments& g = arguments.product;
  constexpr Math kMath = Tile::kMath;
  constexpr int kBytes = Arithmetic<kMath>::kBytes;
  constexpr bool kNormed = kSource == RowSource::kNormed;
  static_assert(!kNormed || Tile::kSlabs == 1);
  if constexpr (kNorm) cluster_arrive();
  release_next_kernel();
  const TilePlace place = tile_place<Tile>(arguments);
  const int first_row = place.first_row, first_col = place.first_col, batch = place.batch;
  const int k_first = place.k_first, k = place.k;

  float* vectors = static_cast<float*>(shared);
  std::byte* staged = static_cast<std::byte*>(shared) + Tile::kVectorBytes;
  const int slabs = (k / Tile::kChunkElements + 7) / 8;
  const int stages = (slabs + Tile::kSlabs - 1) / Tile::kSlabs;
  // Kept rows of A come first, then the stages.
  constexpr int kStageBytes = (kNormed ? 0 : Tile::kBytesA) + Tile::kBytesB;
  const SharedAddress stage_address =
      shared_address(staged + (kNormed ? slabs * Tile::kRows * 128 : 0));
  const auto stage_at = [&](int place) {
    return stage_address + static_cast<uint32_t>(place * kStageBytes);
  };
  constexpr uint32_t kToB = kStageBytes - Tile::kBytesB;

  // What does not depend on the previous kernel.
  if (!g.b_fixed) await_previous_kernel();
  MatrixRows<Tile, Tile::kCols, true> b(start_of_b<Tile>(g, place), g.ldb, first_col, g.n, k);
  const auto copy_b = [&](int stage, SharedAddress to) {
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kSlabs; ++s) {
      b.copy(to + kToB + static_cast<uint32_t>(s * Tile::kCols * 128), stage * Tile::kSlabs + s);
    }
  };
  RFSEG_ROLLED
  for (int s = 0; s < Tile::kStages - 1 && s < stages; ++s) copy_b(s, stage_at(s));
  static_assert(Tile::kCols <= Tile::kThreads);
  copy_vectors<Tile>(g, first_col, thread_index(), vectors);
  GemmWarp<Tile> warp;
  TileEnd<Tile> end(arguments, place);
  const auto walk = [&](auto&& a_of_stage, auto&& copy_a) {
    int here_at = 0, free = Tile::kStages - 1;  // of this stage, and of the one to be requested
    for (int stage = 0; stage < stages; ++stage) {
      copy_async_wait<Tile::kStages - 2>();
      block_sync();
      const SharedAddress here = stage_at(here_at);
      warp.multiply(a_of_stage(stage, here), here + kToB, [&] {
        const int next = stage + Tile::kStages - 1;
        if (next < stages) {
          copy_b(next, stage_at(free));
          copy_a(next, stage_at(free));
        }
        copy_async_commit();
      });
      free = here_at;
      here_at = here_at + 1 == Tile::kStages ? 0 : here_at + 1;
    }
  };
  if constexpr (kNormed) {
    copy_async_commit();
    await_previous_kernel();
    end.request_before_loop();
    normalise_rows<Tile>(g, static_cast<const float*>(g.a) + batch * g.a_step, first_row, staged);
    RFSEG_UNROLL
    for (int s = 1; s < Tile::kStages - 1; ++s) copy_async_commit();
    walk(
        [&](int stage, SharedAddress) {
          return shared_address(staged) + static_cast<uint32_t>(stage * Tile::kRows * 128);
        },
        [](int, SharedAddress) {});
  } else {
    const std::byte* a = start_of_a<Tile>(g, place);
    const auto multiply_rows = [&](auto&& rows) {
      const auto copy_a = [&](int stage, SharedAddress to) {
        RFSEG_UNROLL
        for (int s = 0; s < Tile::kSlabs; ++s) {
          rows.copy(to + static_cast<uint32_t>(s * Tile::kRows * 128), stage * Tile::kSlabs + s);
        }
      };
      await_previous_kernel();
      rows.look_up(g.index, g.lda);
      RFSEG_ROLLED
      for (int s = 0; s < Tile::kStages - 1; ++s) {
        if (s < stages) copy_a(s, stage_at(s));
        copy_async_commit();
      }
      end.request_before_loop();
      walk([](int, SharedAddress here) { return here; }, copy_a);
    };
    if constexpr (kSource == RowSource::kConv3x3) {
      multiply_rows(ConvolutionRows<Tile>(g, a, first_row, k_first, k));
    } else {
      multiply_rows(
          MatrixRows<Tile, Tile::kRows, false>(a + k_first * kBytes, g.lda, first_row, g.m, k));
    }
  }
  copy_async_wait<0>();
  block_sync();
  // Through shared memory, so that the end is written (and fetched) once, whatever a warp holds.
  float* sums = reinterpret_cast<float*>(staged);
  warp.store(sums);
  end.request_after_loop();
  block_sync();
  if constexpr (kNorm) {
    RowShare* shares =
        reinterpret_cast<RowShare*>(static_cast<std::byte*>(shared) + Tile::kSharedBytes);
    finish_norm<Tile>(arguments, vectors, end.first(), sums, shares, first_row, first_col);
  } else {
    end.finish(vectors, sums);
  }
}

}  // namespace rfseg::cuda::portable
