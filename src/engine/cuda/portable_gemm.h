#pragma once

#include "core/cuda/launch.h"
#include "engine/cuda/arithmetic.h"
#include "engine/cuda/portable.h"

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
// with the eight consecutive columns 8 t .. 8 t + 7 of a row: 16 bytes of halves, stored at once.
//
// The first stages of a B that no kernel writes are requested before the previous kernel is
// awaited.
//
// kNormed: the whole normalised rows lie in shared memory before the first step (kMaxNormed
// floats of a row at most); only B is walked in stages.
//
// kNormRows (gemm_norm): kCols is n; row sums cross the warps in shared memory.

namespace rfseg::cuda::portable {

struct ProductArguments {
  GemmArguments product;
  // gemm_norm
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float norm_eps = 0;
  Activation norm_activation = Activation::kNone;
  float* norm_float = nullptr;
  int64_t ld_norm_float = 0;
  void* norm_out = nullptr;
  int64_t ld_norm_out = 0;
  const float* plus = nullptr;
  void* norm_plus = nullptr;
  // found by the host
  int col_tiles = 0;
  bool vector = false;  ///< out and residual take 16-byte accesses at every multiple of 8 columns
};

template <Math kMathT, int kRowsT, int kColsT, int kWarpsMT, int kWarpsNT, int kWarpsKT,
          int kSlabsT, int kStagesT, int kMinBlocksT = 1, bool kNormRowsT = false>
struct GemmTile {
  static constexpr bool kNormRows = kNormRowsT;
  static constexpr Math kMath = kMathT;
  static constexpr int kRows = kRowsT, kCols = kColsT;
  static constexpr int kWarpsM = kWarpsMT, kWarpsN = kWarpsNT, kWarpsK = kWarpsKT;
  static constexpr int kSlabs = kSlabsT, kStages = kStagesT, kMinBlocks = kMinBlocksT;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpsK * 32;
  static constexpr int kTilesM = kRows / kWarpsM / 16;  ///< 16-row tiles of a warp
  static constexpr int kGroups = kCols / kWarpsN / 32;  ///< 32-column groups of a warp
  static constexpr int kSteps = kSlabs * 4 / kWarpsK;   ///< of a warp in a stage
  static constexpr int kChunkElements = 16 / Arithmetic<kMath>::kBytes;
  /// kNormed: lanes that share a row, and the quads of it that each keeps in registers.
  static constexpr int kNormLanes = kRows <= 32 ? 16 : 8;
  static constexpr int kNormQuads = kRows <= 16 ? 16 : 12;
  static constexpr int kMaxNormed = kNormLanes * kNormQuads * 4;
  static constexpr int kPasses = kThreads / 8;  ///< rows that the block copies at once
  static constexpr int kBytesA = kSlabs * kRows * 128, kBytesB = kSlabs * kCols * 128;
  static constexpr int kVectorBytes = kCols * 8;  ///< bias and scale of the block's columns
  /// Partial sums of kWarpsK groups, or row sums of gemm_norm; take the place of the stages.
  static constexpr int kReduceBytes = kWarpsK > 1 ? kWarpsK* kRows* kCols * 4 : 0;
  static constexpr int kRowSumBytes = kNormRows ? kRows * kWarpsN * kWarpsK * 4 * 2 : 0;
  static constexpr int kStagedBytes = kStages * (kBytesA + kBytesB);
  static constexpr int kSharedBytes =
      kVectorBytes + kRowSumBytes + (kStagedBytes > kReduceBytes ? kStagedBytes : kReduceBytes);
  static_assert(kRows == kTilesM * kWarpsM * 16 && kCols == kGroups * kWarpsN * 32);
  static_assert(kSteps * kWarpsK == kSlabs * 4 && kStages >= 2);

  /// Of kNormed with this k.
  static constexpr int normed_bytes(int k) {
    const int slabs = (k / kChunkElements + 7) / 8;
    const int staged = slabs * kRows * 128 + kStages * kBytesB;
    return kVectorBytes + kRowSumBytes + (staged > kReduceBytes ? staged : kReduceBytes);
  }
};

RFSEG_DEVICE int a_turn(int row) { return row & 7; }
RFSEG_DEVICE int b_turn(int row) { return (row & 1) | ((row >> 2) & 6); }

/// Copies rows of a slab: thread i takes chunk i % 8 of every kPasses-th row. Where the rows lie is
/// the source's affair.
template <class Tile, RowSource kSource>
class RowsOfA {
 public:
  static constexpr int kCount = (Tile::kRows + Tile::kPasses - 1) / Tile::kPasses;

  RFSEG_DEVICE RowsOfA(const GemmArguments& g, const std::byte* a, int first_row) : g_(g) {
    RFSEG_UNROLL
    for (int i = 0; i < kCount; ++i) {
      int row = first_row + thread_index() / 8 + i * Tile::kPasses;
      if (row >= g.m) row = g.m - 1;  // computed, but not stored
      if constexpr (kSource == RowSource::kConv3x3) {
        const int cells = g.out_rows * g.out_cols, picture = row / cells;
        const int cell = row - picture * cells, y = cell / g.out_cols;
        top_[i] = y * g.stride - 1;
        left_[i] = (cell - y * g.out_cols) * g.stride - 1;
        start_[i] = a + (static_cast<int64_t>(picture) * g.map_rows * g.map_cols) * g.lda *
                            Arithmetic<Tile::kMath>::kBytes;
      } else {
        if (g.index != nullptr) row = g.index[row];
        start_[i] = a + static_cast<int64_t>(row) * g.lda * Arithmetic<Tile::kMath>::kBytes;
      }
    }
  }

  /// The slab of chunks [8 * slab, 8 * slab + 8) of all rows, to `to`.
  RFSEG_DEVICE void copy(SharedAddress to, int slab) const {
    const int column = thread_index() % 8, chunk = slab * 8 + column;
    const int element = chunk * Tile::kChunkElements;
    bool valid = element < g_.k;
    [[maybe_unused]] int ky = 0, kx = 0, channel = 0;
    if constexpr (kSource == RowSource::kConv3x3) {
      const int tap = element / g_.channels;
      channel = element - tap * g_.channels;
      ky = tap / 3;
      kx = tap - ky * 3;
    }
    RFSEG_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int row = thread_index() / 8 + i * Tile::kPasses;
      if (Tile::kRows % Tile::kPasses != 0 && row >= Tile::kRows) break;
      const std::byte* from = start_[i];
      bool inside = valid;
      if constexpr (kSource == RowSource::kConv3x3) {
        const int y = top_[i] + ky, x = left_[i] + kx;
        inside = valid && y >= 0 && y < g_.map_rows && x >= 0 && x < g_.map_cols;
        if (inside) {
          from += ((static_cast<int64_t>(y) * g_.map_cols + x) * g_.lda + channel) *
                  Arithmetic<Tile::kMath>::kBytes;
        }
      } else if (valid) {
        from += static_cast<int64_t>(chunk) * 16;
      }
      copy_async_16(to + static_cast<uint32_t>(row * 128 + ((column ^ a_turn(row)) << 4)), from,
                    inside);
    }
  }

 private:
  const GemmArguments& g_;
  const std::byte* start_[kCount];
  int top_[kSource == RowSource::kConv3x3 ? kCount : 1];
  int left_[kSource == RowSource::kConv3x3 ? kCount : 1];
};

template <class Tile>
class RowsOfB {
 public:
  static constexpr int kCount = (Tile::kCols + Tile::kPasses - 1) / Tile::kPasses;

  RFSEG_DEVICE RowsOfB(const GemmArguments& g, const std::byte* b, int first_col) : k_(g.k) {
    RFSEG_UNROLL
    for (int i = 0; i < kCount; ++i) {
      int col = first_col + thread_index() / 8 + i * Tile::kPasses;
      if (col >= g.n) col = g.n - 1;
      start_[i] = b + static_cast<int64_t>(col) * g.ldb * Arithmetic<Tile::kMath>::kBytes;
    }
  }

  RFSEG_DEVICE void copy(SharedAddress to, int slab) const {
    const int column = thread_index() % 8, chunk = slab * 8 + column;
    const bool valid = chunk * Tile::kChunkElements < k_;
    RFSEG_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int row = thread_index() / 8 + i * Tile::kPasses;
      if (Tile::kCols % Tile::kPasses != 0 && row >= Tile::kCols) break;
      copy_async_16(to + static_cast<uint32_t>(row * 128 + ((column ^ b_turn(row)) << 4)),
                    start_[i] + (valid ? static_cast<int64_t>(chunk) * 16 : 0), valid);
    }
  }

 private:
  int k_;
  const std::byte* start_[kCount];
};

/// kNormed: brings the block's rows to mean 0 and variance 1 and lays them out as slabs. kNormLanes
/// lanes share a row; its values stay in registers between the passes.
template <class Tile>
RFSEG_DEVICE void normalise_rows(const GemmArguments& g, const float* a, int first_row,
                                 std::byte* to) {
  constexpr int kLanes = Tile::kNormLanes, kRowsAtOnce = kWarp / kLanes;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, part = lane % kLanes;
  constexpr int kWarps = Tile::kThreads / kWarp;
  const int slabs = (g.k / Tile::kChunkElements + 7) / 8;
  const int whole = slabs * 8 * Tile::kChunkElements;  // with the zeros behind k
  for (int local = warp * kRowsAtOnce; local < Tile::kRows; local += kWarps * kRowsAtOnce) {
    const int row = local + lane / kLanes;
    int source = first_row + row;
    if (source >= g.m) source = g.m - 1;
    const float* from = a + static_cast<int64_t>(source) * g.lda;
    float v[Tile::kNormQuads][4];
    float sum = 0;
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kNormQuads; ++i) {
      const int k = (i * kLanes + part) * 4;
      Quad q = {};
      if (k < g.k) q = load_quad(from + k);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] = float_of_bits(q.word[e]);
    }
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kNormQuads; ++i) sum += (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
    RFSEG_UNROLL
    for (int d = 1; d < kLanes; d *= 2) sum += warp_read(sum, lane ^ d);
    const float mean = sum / static_cast<float>(g.k);
    float squares = 0;
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kNormQuads; ++i) {
      const bool inside = (i * kLanes + part) * 4 < g.k;
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[i][e] = inside ? v[i][e] - mean : 0.0f;
        squares = fused(v[i][e], v[i][e], squares);
      }
    }
    RFSEG_UNROLL
    for (int d = 1; d < kLanes; d *= 2) squares += warp_read(squares, lane ^ d);
    const float scale = 1.0f / exact_sqrt(squares / static_cast<float>(g.k) + g.eps);
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kNormQuads; ++i) {
      const int k = (i * kLanes + part) * 4;
      if (k >= whole) break;
      const int chunk = k / Tile::kChunkElements;
      std::byte* p =
          to + (chunk / 8 * Tile::kRows + row) * 128 + (((chunk % 8) ^ a_turn(row)) << 4);
      if constexpr (Tile::kMath == Math::kFp16) {
        uint32_t* halves = reinterpret_cast<uint32_t*>(p) + k / 4 % 2 * 2;
        halves[0] = pack_halves(v[i][0] * scale, v[i][1] * scale);
        halves[1] = pack_halves(v[i][2] * scale, v[i][3] * scale);
      } else {
        Quad q;
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) q.word[e] = float_bits(v[i][e] * scale);
        store_quad(p, q);
      }
    }
  }
}

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

/// The end of gemm() for eight sums of a row.
template <Math kMath>
RFSEG_DEVICE void finish_eight(const ProductArguments& arguments, const float* vectors, int cols,
                               float (&v)[8], int batch, int row, int local_col, int col) {
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
    for (int e = 0; e < 8; ++e) v[e] = activate<kMath>(v[e], g.activation);
  }
  if (g.scale != nullptr) {
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] *= bias[cols + e];
  }
  int64_t to = row;
  if (g.out_group != 0) to += static_cast<int64_t>(row / g.out_group) * g.out_skip + g.out_first;
  if (g.residual != nullptr) {
    float r[8];
    load_eight<kMath>(r, g.residual, g.residual_float, batch * g.out_step + to * g.ldr + col, count,
                      arguments.vector);
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += r[e];
  }
  store_eight<kMath>(v, g.out, g.out_float, batch * g.out_step + to * g.ldo + col, count,
                     arguments.vector);
}

/// The end of gemm_norm() for a row whose mean and 1 / deviation are known.
template <Math kMath>
RFSEG_DEVICE void finish_normed_eight(const ProductArguments& arguments, float (&v)[8], float mean,
                                      float scale, int64_t row, int col) {
  float factor[8], shift[8];
  load_eight<kMath>(factor, arguments.gamma, true, col, 8, false);
  load_eight<kMath>(shift, arguments.beta, true, col, 8, false);
  RFSEG_UNROLL
  for (int e = 0; e < 8; ++e) {
    v[e] = activate<kMath>(fused((v[e] - mean) * scale, factor[e], shift[e]),
                           arguments.norm_activation);
  }
  if (arguments.norm_float != nullptr) {
    store_eight<kMath>(v, arguments.norm_float, true, row * arguments.ld_norm_float + col, 8,
                       arguments.vector);
  }
  if (arguments.norm_out != nullptr) {
    store_eight<kMath>(v, arguments.norm_out, false, row * arguments.ld_norm_out + col, 8,
                       arguments.vector);
  }
  if (arguments.norm_plus != nullptr) {
    float p[8];
    const int64_t at = row * arguments.product.n + col;
    load_eight<kMath>(p, arguments.plus, true, at, 8, arguments.vector);
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += p[e];
    store_eight<kMath>(v, arguments.norm_plus, false, at, 8, arguments.vector);
  }
}

template <class Tile>
class GemmWarp {
 public:
  using Core = Arithmetic<Tile::kMath>;
  static constexpr int kTilesM = Tile::kTilesM, kGroups = Tile::kGroups;

  RFSEG_DEVICE GemmWarp() {
    const int warp = thread_index() / kWarp;
    lane_ = thread_index() % kWarp;
    part_ = warp / (Tile::kWarpsM * Tile::kWarpsN);
    const int place = warp % (Tile::kWarpsM * Tile::kWarpsN);
    row_ = place / Tile::kWarpsN * (Tile::kRows / Tile::kWarpsM);
    slot_ = place % Tile::kWarpsN;
    col_ = slot_ * (Tile::kCols / Tile::kWarpsN);
    RFSEG_UNROLL
    for (int i = 0; i < kTilesM; ++i) {
      RFSEG_UNROLL
      for (int j = 0; j < kGroups * 4; ++j) {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) sums_[i][j][e] = 0;
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

  /// The steps of this warp in a stage whose slabs of A and B begin at `a` and `b`.
  RFSEG_DEVICE void multiply(SharedAddress a, SharedAddress b) {
    a += a_offset_;
    b += b_offset_;
    RFSEG_UNROLL
    for (int i = 0; i < Tile::kSteps; ++i) {
      const int step = Tile::kWarpsK == 1 ? i : part_ * Tile::kSteps + i;
      const uint32_t slab = static_cast<uint32_t>(step / 4);
      const uint32_t turn = static_cast<uint32_t>(step % 4) << 5;
      const SharedAddress a_slab = a + slab * (Tile::kRows * 128) + (turn ^ a_chunk_);
      const SharedAddress b_slab = b + slab * (Tile::kCols * 128) + (turn ^ b_chunk_);
      typename Core::A fragments[kTilesM];
      RFSEG_UNROLL
      for (int m = 0; m < kTilesM; ++m) {
        uint32_t raw[4];
        load_matrices(raw, a_slab + static_cast<uint32_t>(m * 16 * 128));
        Core::take_a(fragments[m], raw);
      }
      RFSEG_UNROLL
      for (int pair = 0; pair < kGroups * 2; ++pair) {
        uint32_t raw[4];
        load_matrices(raw, b_slab + static_cast<uint32_t>((pair / 2 * 32 + pair % 2 * 4) * 128));
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          typename Core::B other;
          Core::take_b(other, raw[2 * half], raw[2 * half + 1]);
          RFSEG_UNROLL
          for (int m = 0; m < kTilesM; ++m) {
            Core::multiply(sums_[m][pair * 2 + half], fragments[m], other);
          }
        }
      }
    }
  }

  /// Whether this warp finishes tile `unit` of its place, of kTilesM * kGroups.
  RFSEG_DEVICE bool owns(int unit) const {
    return Tile::kWarpsK == 1 || unit % Tile::kWarpsK == part_;
  }

  /// Adds up the sums of the kWarpsK groups, each unit at the warp that owns it. All threads.
  RFSEG_DEVICE void reduce(std::byte* scratch) {
    if constexpr (Tile::kWarpsK > 1) {
      constexpr int kUnits = kTilesM * kGroups;
      const int place = thread_index() / kWarp % (Tile::kWarpsM * Tile::kWarpsN);
      const auto at = [&](int part, int unit) {
        return scratch +
               (((part * Tile::kWarpsM * Tile::kWarpsN + place) * kUnits + unit) * 128 + lane_) *
                   16;
      };
      RFSEG_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        if (owns(unit)) continue;
        RFSEG_UNROLL
        for (int j = 0; j < 4; ++j) {
          const float(&s)[4] = sums_[unit / kGroups][unit % kGroups * 4 + j];
          store_quad(at(part_, unit) + j * 512,
                     {{float_bits(s[0]), float_bits(s[1]), float_bits(s[2]), float_bits(s[3])}});
        }
      }
      block_sync();
      RFSEG_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        if (!owns(unit)) continue;
        for (int part = 0; part < Tile::kWarpsK; ++part) {
          if (part == part_) continue;
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) {
            const Quad q = load_quad(at(part, unit) + j * 512);
            RFSEG_UNROLL
            for (int e = 0; e < 4; ++e) {
              sums_[unit / kGroups][unit % kGroups * 4 + j][e] += float_of_bits(q.word[e]);
            }
          }
        }
      }
    }
  }

  /// Calls f(v, row, col, m, half, group) for the eight consecutive columns of each row that this
  /// thread finishes; row and col count within the block.
  template <class F>
  RFSEG_DEVICE void each_eight(F&& f) {
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        if (!owns(m * kGroups + group)) continue;
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          float v[8];
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) {
            v[2 * j] = sums_[m][group * 4 + j][2 * half];
            v[2 * j + 1] = sums_[m][group * 4 + j][2 * half + 1];
          }
          f(v, row_ + m * 16 + half * 8 + lane_ / 4, col_ + group * 32 + lane_ % 4 * 8, m, half);
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) {
            sums_[m][group * 4 + j][2 * half] = v[2 * j];
            sums_[m][group * 4 + j][2 * half + 1] = v[2 * j + 1];
          }
        }
      }
    }
  }

  /// Sums of whole rows: `mine` of this thread's part of each row, to the sum over the block.
  /// `scratch` holds kRows * kWarpsN * kWarpsK floats that are read by no one else now.
  RFSEG_DEVICE void sum_rows(float (&mine)[kTilesM][2], float* scratch) {
    constexpr int kSlots = Tile::kWarpsN * Tile::kWarpsK;
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        float& v = mine[m][half];
        v += warp_read(v, lane_ ^ 1);
        v += warp_read(v, lane_ ^ 2);
        if (lane_ % 4 == 0) {
          scratch[(row_ + m * 16 + half * 8 + lane_ / 4) * kSlots + slot_ * Tile::kWarpsK + part_] =
              v;
        }
      }
    }
    block_sync();
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float* row = scratch + (row_ + m * 16 + half * 8 + lane_ / 4) * kSlots;
        float sum = 0;
        for (int i = 0; i < kSlots; ++i) sum += row[i];
        mine[m][half] = sum;
      }
    }
  }

 private:
  int lane_, part_, row_, col_, slot_;
  uint32_t a_offset_, a_chunk_, b_offset_, b_chunk_;
  float sums_[kTilesM][kGroups * 4][4];
};

template <class Tile, RowSource kSource>
RFSEG_DEVICE void gemm_body(const ProductArguments& arguments, void* shared) {
  const GemmArguments& g = arguments.product;
  constexpr int kBytes = Arithmetic<Tile::kMath>::kBytes;
  constexpr bool kNormed = kSource == RowSource::kNormed;
  static_assert(!kNormed || Tile::kSlabs == 1);
  const int first_row = block_x() / arguments.col_tiles * Tile::kRows;
  const int first_col = block_x() % arguments.col_tiles * Tile::kCols;
  const int batch = block_y();
  release_next_kernel();

  float* vectors = static_cast<float*>(shared);
  float* row_sums = vectors + Tile::kVectorBytes / 4;
  std::byte* staged = static_cast<std::byte*>(shared) + Tile::kVectorBytes + Tile::kRowSumBytes;
  const int slabs = (g.k / Tile::kChunkElements + 7) / 8;
  const int stages = (slabs + Tile::kSlabs - 1) / Tile::kSlabs;
  // Kept rows of A come first, then the stages.
  std::byte* first_stage = staged + (kNormed ? slabs * Tile::kRows * 128 : 0);
  constexpr int kStageBytes = (kNormed ? 0 : Tile::kBytesA) + Tile::kBytesB;
  const SharedAddress stage_address = shared_address(first_stage);
  const auto stage_a = [&](int stage) {
    return stage_address + static_cast<uint32_t>(stage % Tile::kStages * kStageBytes);
  };
  const auto stage_b = [&](int stage) {
    return stage_a(stage) + static_cast<uint32_t>(kStageBytes - Tile::kBytesB);
  };

  const RowsOfB<Tile> b(g, static_cast<const std::byte*>(g.b) + batch * g.b_step * kBytes,
                        first_col);
  const auto copy_b = [&](int stage) {
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kSlabs; ++s) {
      b.copy(stage_b(stage) + static_cast<uint32_t>(s * Tile::kCols * 128),
             stage * Tile::kSlabs + s);
    }
  };
  // What does not depend on the previous kernel.
  if (!g.b_fixed) await_previous_kernel();
  for (int i = thread_index(); i < Tile::kCols; i += Tile::kThreads) {
    const int col = first_col + i;
    const bool bias = g.bias != nullptr && col < g.n, scale = g.scale != nullptr && col < g.n;
    copy_async_4(shared_address(vectors + i), bias ? g.bias + col : g.b, bias);
    copy_async_4(shared_address(vectors + Tile::kCols + i), scale ? g.scale + col : g.b, scale);
  }
  RFSEG_UNROLL
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < stages) copy_b(s);
  }
  if (kNormed) copy_async_commit();

  await_previous_kernel();
  const std::byte* a =
      static_cast<const std::byte*>(g.split != 0 && first_col >= g.split ? g.a2 : g.a);
  const auto run = [&](auto&& copy_a) {
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kStages - 1; ++s) {
      if (s < stages) copy_a(s);
      if (!kNormed || s > 0) copy_async_commit();
    }
  };
  GemmWarp<Tile> warp;
  const auto walk = [&](auto&& copy_a) {
    run(copy_a);
    for (int stage = 0; stage < stages; ++stage) {
      copy_async_wait<Tile::kStages - 2>();
      block_sync();
      const int next = stage + Tile::kStages - 1;
      if (next < stages) {
        copy_b(next);
        copy_a(next);
      }
      copy_async_commit();
      if constexpr (kNormed) {
        warp.multiply(shared_address(staged) +
                          static_cast<uint32_t>(stage * Tile::kSlabs * Tile::kRows * 128),
                      stage_b(stage));
      } else {
        warp.multiply(stage_a(stage), stage_b(stage));
      }
    }
  };
  if constexpr (kNormed) {
    normalise_rows<Tile>(g, static_cast<const float*>(g.a) + batch * g.a_step, first_row, staged);
    walk([](int) {});
  } else {
    const RowsOfA<Tile, kSource> rows(g, a + batch * g.a_step * kBytes, first_row);
    walk([&](int stage) {
      RFSEG_UNROLL
      for (int s = 0; s < Tile::kSlabs; ++s) {
        rows.copy(stage_a(stage) + static_cast<uint32_t>(s * Tile::kRows * 128),
                  stage * Tile::kSlabs + s);
      }
    });
  }
  copy_async_wait<0>();
  block_sync();
  warp.reduce(staged);

  if constexpr (!Tile::kNormRows) {
    warp.each_eight([&](float(&v)[8], int row, int col, int, int) {
      finish_eight<Tile::kMath>(arguments, vectors, Tile::kCols, v, batch, first_row + row, col,
                                first_col + col);
    });
  } else {
    float sum[Tile::kTilesM][2] = {}, squares[Tile::kTilesM][2] = {};
    warp.each_eight([&](float(&v)[8], int row, int col, int m, int half) {
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) v[e] += vectors[col + e];
      if (g.residual != nullptr && first_row + row < g.m) {
        float r[8];
        load_eight<Tile::kMath>(r, g.residual, g.residual_float,
                                static_cast<int64_t>(first_row + row) * g.ldr + col, 8,
                                arguments.vector);
        RFSEG_UNROLL
        for (int e = 0; e < 8; ++e) v[e] += r[e];
      }
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e) sum[m][half] += v[e];
    });
    warp.sum_rows(sum, row_sums);
    const float share = 1.0f / static_cast<float>(Tile::kCols);
    warp.each_eight([&](float(&v)[8], int, int, int m, int half) {
      const float mean = sum[m][half] * share;
      RFSEG_UNROLL
      for (int e = 0; e < 8; ++e)
        squares[m][half] = fused(v[e] - mean, v[e] - mean, squares[m][half]);
    });
    warp.sum_rows(squares, row_sums + Tile::kRowSumBytes / 8);
    warp.each_eight([&](float(&v)[8], int row, int col, int m, int half) {
      if (first_row + row >= g.m) return;
      finish_normed_eight<Tile::kMath>(
          arguments, v, sum[m][half] * share,
          1.0f / exact_sqrt(squares[m][half] * share + arguments.norm_eps), first_row + row, col);
    });
  }
}

/// The norms of gemm_norm() alone, of the sums in product.out (float, ldo); a warp a row.
constexpr int kNormThreads = 128;
template <Math kMath>
RFSEG_DEVICE void norm_body(const ProductArguments& arguments, void*) {
  const GemmArguments& g = arguments.product;
  const int lane = thread_index() % kWarp;
  const int row = block_x() * (kNormThreads / kWarp) + thread_index() / kWarp;
  release_next_kernel();
  await_previous_kernel();
  if (row >= g.m) return;
  constexpr int kParts = 4;
  float v[kParts][8];
  float sum = 0;
  RFSEG_UNROLL
  for (int i = 0; i < kParts; ++i) {
    const int col = (i * kWarp + lane) * 8;
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[i][e] = 0;
    if (col < g.n) load_eight<kMath>(v[i], g.out, true, row * g.ldo + col, 8, arguments.vector);
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) sum += v[i][e];
  }
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) sum += warp_read(sum, lane ^ d);
  const float mean = sum / static_cast<float>(g.n);
  float squares = 0;
  RFSEG_UNROLL
  for (int i = 0; i < kParts; ++i) {
    if ((i * kWarp + lane) * 8 >= g.n) continue;
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) squares = fused(v[i][e] - mean, v[i][e] - mean, squares);
  }
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) squares += warp_read(squares, lane ^ d);
  const float scale = 1.0f / exact_sqrt(squares / static_cast<float>(g.n) + arguments.norm_eps);
  RFSEG_UNROLL
  for (int i = 0; i < kParts; ++i) {
    const int col = (i * kWarp + lane) * 8;
    if (col < g.n) finish_normed_eight<kMath>(arguments, v[i], mean, scale, row, col);
  }
}

}  // namespace rfseg::cuda::portable
