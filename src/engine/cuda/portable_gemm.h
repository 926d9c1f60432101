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
// gemm_norm() is a product into memory and a kernel of norms: in one kernel, whole rows in a block,
// too few blocks read too many weights each.

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
  float* norm_sum = nullptr;
  int64_t ld_norm_sum = 0;
  int parts = 1;  ///< sums to be added, each product.out_step behind the other
  // found by the host
  int row_tiles = 0;
  int k_part = 0;       ///< not 0: `batch` counts parts of k of this length
  bool vector = false;  ///< out and residual take 16-byte accesses at every multiple of 8 columns
};

template <Math kMathT, int kRowsT, int kColsT, int kWarpsMT, int kWarpsNT, int kWarpsKT,
          int kSlabsT, int kStagesT, int kMinBlocksT = 1>
struct GemmTile {
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
  /// Whether a warp reads the next step's fragments while it multiplies: what registers allow.
  static constexpr bool kAhead = kTilesM * kGroups * kMinBlocks <= 4;
  static constexpr int kVectorBytes = kCols * 8;  ///< bias and scale of the block's columns
  /// Sums of the kWarpsK groups, rows of kPitch floats (so that a store touches all banks); they
  /// take the place of the stages.
  static constexpr int kPitch = kCols + 4;
  static constexpr int kReduceBytes = kWarpsK * kRows * kPitch * 4;
  static constexpr int kStagedBytes = kStages * (kBytesA + kBytesB);
  static constexpr int kSharedBytes =
      kVectorBytes + (kStagedBytes > kReduceBytes ? kStagedBytes : kReduceBytes);
  static_assert(kRows == kTilesM * kWarpsM * 16 && kCols == kGroups * kWarpsN * 32);
  static_assert(kSteps * kWarpsK == kSlabs * 4 && kStages >= 2);

  /// Of kNormed with this k.
  static constexpr int normed_bytes(int k) {
    const int slabs = (k / kChunkElements + 7) / 8;
    const int staged = slabs * kRows * 128 + kStages * kBytesB;
    return kVectorBytes + (staged > kReduceBytes ? staged : kReduceBytes);
  }
};

RFSEG_DEVICE int a_turn(int row) { return row & 7; }
RFSEG_DEVICE int b_turn(int row) { return (row & 1) | ((row >> 2) & 6); }

/// Copies slabs of kCount rows to shared memory: thread i takes chunk i % 8 of every kPasses-th
/// row. What does not change from slab to slab is computed once, for at batch 1 the time of a
/// product is that of its instructions one after the other.
template <class Tile, int kCount, bool kOfB>
class SlabCopier {
 public:
  static constexpr int kPasses = Tile::kPasses;
  static constexpr int kTurns = (kCount + kPasses - 1) / kPasses;
  static constexpr bool kEven = kCount % kPasses == 0;
  static_assert(kPasses % 8 == 0);

  RFSEG_DEVICE SlabCopier() {
    row_ = thread_index() / 8;
    column_ = thread_index() % 8;
    RFSEG_UNROLL
    for (int i = 0; i < kTurns; ++i) {
      const int row = row_ + i * kPasses;
      to_[i] =
          static_cast<uint32_t>(row * 128 + ((column_ ^ (kOfB ? b_turn(row) : a_turn(row))) << 4));
    }
  }
  /// Whether row_ + i * kPasses is one of the rows.
  RFSEG_DEVICE bool has(int i) const {
    return kEven || i + 1 < kTurns || row_ + i * kPasses < kCount;
  }

  int row_, column_;
  uint32_t to_[kTurns];
};

/// Rows of a matrix, one behind the other or by an index.
template <class Tile, int kCount, bool kOfB>
class MatrixRows {
 public:
  using Copier = SlabCopier<Tile, kCount, kOfB>;
  static constexpr int kBytes = Arithmetic<Tile::kMath>::kBytes;

  /// Rows from `first` on; rows from `limit` on are copies of the last one, computed, but not
  /// stored.
  RFSEG_DEVICE MatrixRows(const std::byte* from, int64_t ld, int first, int limit, int k)
      : from_(from), k_(k) {
    const int row_bytes = static_cast<int>(ld) * kBytes;
    RFSEG_UNROLL
    for (int i = 0; i < Copier::kTurns; ++i) {
      int row = first + copier_.row_ + i * Copier::kPasses;
      row_[i] = row = row < limit ? row : limit - 1;
      start_[i] = static_cast<int64_t>(row) * row_bytes + copier_.column_ * 16;
    }
  }
  RFSEG_DEVICE void look_up(const int32_t* index, int64_t ld) {
    if (index == nullptr) return;
    const int row_bytes = static_cast<int>(ld) * kBytes;
    RFSEG_UNROLL
    for (int i = 0; i < Copier::kTurns; ++i) {
      start_[i] = static_cast<int64_t>(index[row_[i]]) * row_bytes + copier_.column_ * 16;
    }
  }

  /// Zeros behind k.
  RFSEG_DEVICE void copy(SharedAddress to, int slab) {
    const bool valid = (slab * 8 + copier_.column_) * Tile::kChunkElements < k_;
    const std::byte* from = from_ + (valid ? slab * 128 : 0);
    RFSEG_UNROLL
    for (int i = 0; i < Copier::kTurns; ++i) {
      if (copier_.has(i)) copy_async_16(to + copier_.to_[i], from + start_[i], valid);
    }
  }

 private:
  Copier copier_;
  const std::byte* from_;
  int k_;
  int row_[Copier::kTurns];
  int64_t start_[Copier::kTurns];
};

/// The neighbourhoods of cells of a map. Slabs are copied in order.
template <class Tile>
class ConvolutionRows {
 public:
  using Copier = SlabCopier<Tile, Tile::kRows, false>;
  static constexpr int kBytes = Arithmetic<Tile::kMath>::kBytes;

  RFSEG_DEVICE ConvolutionRows(const GemmArguments& g, const std::byte* a, int first_row,
                               int k_first, int k)
      : from_(a), left_(k), channels_(g.channels), map_cols_(g.map_cols) {
    cell_bytes_ = static_cast<int>(g.lda) * kBytes;
    tap_ = 0;
    channel_ = k_first + copier_.column_ * Tile::kChunkElements;
    left_ -= copier_.column_ * Tile::kChunkElements;
    find_tap();
    RFSEG_UNROLL
    for (int i = 0; i < Copier::kTurns; ++i) {
      int row = first_row + copier_.row_ + i * Copier::kPasses;
      row = row < g.m ? row : g.m - 1;
      const int line = row / g.out_cols, x = (row - line * g.out_cols) * g.stride;
      const int picture = line / g.out_rows, y = (line - picture * g.out_rows) * g.stride;
      start_[i] = static_cast<int64_t>((picture * g.map_rows + y) * g.map_cols + x) * cell_bytes_;
      // Bit `tap`: inside of the map.
      const uint32_t columns = (x > 0 ? 1u : 0u) | 2u | (x + 1 < g.map_cols ? 4u : 0u);
      inside_[i] = (y > 0 ? columns : 0u) | columns << 3 | (y + 1 < g.map_rows ? columns << 6 : 0u);
    }
  }
  RFSEG_DEVICE void look_up(const int32_t*, int64_t) {}

  RFSEG_DEVICE void copy(SharedAddress to, int) {
    const int shift = ((tap_ / 3 - 1) * map_cols_ + tap_ % 3 - 1) * cell_bytes_ + channel_ * kBytes;
    const uint32_t bit = left_ > 0 ? 1u << tap_ : 0u;
    RFSEG_UNROLL
    for (int i = 0; i < Copier::kTurns; ++i) {
      if (!copier_.has(i)) break;
      const bool valid = (inside_[i] & bit) != 0;
      copy_async_16(to + copier_.to_[i], from_ + (valid ? start_[i] + shift : 0), valid);
    }
    channel_ += 8 * Tile::kChunkElements;
    left_ -= 8 * Tile::kChunkElements;
    find_tap();
  }

 private:
  RFSEG_DEVICE void find_tap() {
    while (channel_ >= channels_) {
      channel_ -= channels_;
      ++tap_;
    }
  }

  Copier copier_;
  const std::byte* from_;
  int left_;  ///< of k, from this thread's next chunk on
  int channels_, map_cols_, cell_bytes_;
  int tap_, channel_;  ///< of this thread's chunk of the next slab
  int64_t start_[Copier::kTurns];
  uint32_t inside_[Copier::kTurns];
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

/// Where row m of the result and of the residual lies.
RFSEG_DEVICE int place_of_row(const GemmArguments& g, int row) {
  return g.out_group == 0 ? row : row + row / g.out_group * g.out_skip + g.out_first;
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
  const std::byte* p =
      static_cast<const std::byte*>(g.residual) +
      (batch * g.out_step + place_of_row(g, row) * g.ldr + col) * (is_float ? 4 : 2);
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
    for (int e = 0; e < 8; ++e) v[e] = activate<kMath>(v[e], g.activation);
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
                        batch * g.out_step + element_at(to, g.ldr, col), count, arguments.vector);
    }
    RFSEG_UNROLL
    for (int e = 0; e < 8; ++e) v[e] += r[e];
  }
  store_eight<kMath>(v, g.out, g.out_float, batch * g.out_step + element_at(to, g.ldo, col), count,
                     arguments.vector);
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
    col_ = place % Tile::kWarpsN * (Tile::kCols / Tile::kWarpsN);
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
    const auto multiply_pair = [&](const typename Core::A(&fragments)[kTilesM],
                                   const uint32_t(&raw)[4], int pair) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename Core::B other;
        Core::take_b(other, raw[2 * half], raw[2 * half + 1]);
        RFSEG_UNROLL
        for (int m = 0; m < kTilesM; ++m) {
          Core::multiply(sums_[m][pair * 2 + half], fragments[m], other);
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
  }

  /// The sums to `to` [kWarpsK][kRows][kPitch].
  RFSEG_DEVICE void store(float* to) const {
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
  int lane_, part_, row_, col_;
  uint32_t a_offset_, a_chunk_, b_offset_, b_chunk_;
  float sums_[kTilesM][kGroups * 4][4];
};

template <class Tile, RowSource kSource>
RFSEG_DEVICE void gemm_body(const ProductArguments& arguments, void* shared) {
  const GemmArguments& g = arguments.product;
  constexpr Math kMath = Tile::kMath;
  constexpr int kBytes = Arithmetic<kMath>::kBytes;
  constexpr bool kNormed = kSource == RowSource::kNormed;
  static_assert(!kNormed || Tile::kSlabs == 1);
  release_next_kernel();
  // Blocks next to each other share rows of A: the larger operand comes from the L2.
  const int first_col = block_x() * Tile::kCols;
  int first_row = block_y() * Tile::kRows, batch = 0;
  if (g.batch > 1) {
    batch = block_y() / arguments.row_tiles;
    first_row -= batch * arguments.row_tiles * Tile::kRows;
  }

  float* vectors = static_cast<float*>(shared);
  std::byte* staged = static_cast<std::byte*>(shared) + Tile::kVectorBytes;
  int k = g.k, k_first = 0;
  if (arguments.k_part > 0) {
    k_first = batch * arguments.k_part;
    k = k - k_first < arguments.k_part ? k - k_first : arguments.k_part;
  }
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
  MatrixRows<Tile, Tile::kCols, true> b(
      static_cast<const std::byte*>(g.b) + (batch > 0 ? (batch * g.b_step + k_first) * kBytes : 0),
      g.ldb, first_col, g.n, k);
  const auto copy_b = [&](int stage, SharedAddress to) {
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kSlabs; ++s) {
      b.copy(to + kToB + static_cast<uint32_t>(s * Tile::kCols * 128), stage * Tile::kSlabs + s);
    }
  };
  RFSEG_ROLLED
  for (int s = 0; s < Tile::kStages - 1 && s < stages; ++s) copy_b(s, stage_at(s));
  static_assert(Tile::kCols <= Tile::kThreads);
  if (thread_index() < Tile::kCols) {
    const int col = first_col + thread_index();
    const bool bias = g.bias != nullptr && col < g.n, scale = g.scale != nullptr && col < g.n;
    const SharedAddress to = shared_address(vectors + thread_index());
    copy_async_4(to, bias ? g.bias + col : g.b, bias);
    copy_async_4(to + Tile::kCols * 4, scale ? g.scale + col : g.b, scale);
  }
  GemmWarp<Tile> warp;
  // What this thread finishes: eight columns of a row, kItems times.
  constexpr int kEights = Tile::kCols / 8, kAll = Tile::kRows * kEights;
  constexpr int kItems = (kAll + Tile::kThreads - 1) / Tile::kThreads;
  const auto row_of = [&](int item) { return item / kEights; };
  const auto col_of = [&](int item) { return item % kEights * 8; };
  // Residuals come together: before the loop where there is room for all, else after it.
  constexpr int kAtOnce = kItems < 4 ? kItems : 4;
  constexpr bool kBeforeLoop = kItems <= 2;
  EarlyResidual early[kAtOnce];
  const auto request_from = [&](int first) {
    RFSEG_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = (first + i) * Tile::kThreads + thread_index();
      if (kAll % Tile::kThreads == 0 || item < kAll) {
        request_residual<kMath>(early[i], arguments, batch, first_row + row_of(item),
                                first_col + col_of(item));
      }
    }
  };
  const auto walk = [&](auto&& a_of_stage, auto&& copy_a) {
    int place = 0, free = Tile::kStages - 1;  // of this stage, and of the one to be requested
    for (int stage = 0; stage < stages; ++stage) {
      copy_async_wait<Tile::kStages - 2>();
      block_sync();
      const SharedAddress here = stage_at(place);
      warp.multiply(a_of_stage(stage, here), here + kToB, [&] {
        const int next = stage + Tile::kStages - 1;
        if (next < stages) {
          copy_b(next, stage_at(free));
          copy_a(next, stage_at(free));
        }
        copy_async_commit();
      });
      free = place;
      place = place + 1 == Tile::kStages ? 0 : place + 1;
    }
  };
  if constexpr (kNormed) {
    copy_async_commit();
    await_previous_kernel();
    if (kBeforeLoop) request_from(0);
    normalise_rows<Tile>(g, static_cast<const float*>(g.a) + batch * g.a_step, first_row, staged);
    RFSEG_UNROLL
    for (int s = 1; s < Tile::kStages - 1; ++s) copy_async_commit();
    walk(
        [&](int stage, SharedAddress) {
          return shared_address(staged) + static_cast<uint32_t>(stage * Tile::kRows * 128);
        },
        [](int, SharedAddress) {});
  } else {
    const std::byte* a =
        static_cast<const std::byte*>(g.split != 0 && first_col >= g.split ? g.a2 : g.a) +
        (batch > 0 ? batch * g.a_step * kBytes : 0);
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
      if (kBeforeLoop) request_from(0);
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
  if (!kBeforeLoop) request_from(0);
  block_sync();
  RFSEG_ROLLED
  for (int first = 0; first < kItems; first += kAtOnce) {
    if (first > 0) request_from(first);
    RFSEG_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = (first + i) * Tile::kThreads + thread_index();
      if (kAll % Tile::kThreads != 0 && item >= kAll) break;
      const int row = row_of(item), col = col_of(item);
      float v[8] = {};
      RFSEG_UNROLL
      for (int part = 0; part < Tile::kWarpsK; ++part) {
        RFSEG_UNROLL
        for (int h = 0; h < 2; ++h) {
          const Quad q = load_quad(sums + (part * Tile::kRows + row) * Tile::kPitch + col + 4 * h);
          RFSEG_UNROLL
          for (int e = 0; e < 4; ++e) v[4 * h + e] += float_of_bits(q.word[e]);
        }
      }
      finish_eight<kMath>(arguments, vectors, Tile::kCols, early[i], v, batch, first_row + row, col,
                          first_col + col);
    }
  }
}

/// The rest of gemm_norm(), of the partial sums in product.out (float, ldo): a warp a row, four
/// columns of each 128 a lane; kNormParts * 128 columns at most.
constexpr int kNormThreads = 128;
RFSEG_DEVICE Quad load_four(const float* p, bool vector) {
  if (vector) return load_quad(p);
  return {{float_bits(p[0]), float_bits(p[1]), float_bits(p[2]), float_bits(p[3])}};
}
template <Math kMath, int kNormParts>
RFSEG_DEVICE void norm_body(const ProductArguments& arguments, void*) {
  const GemmArguments& g = arguments.product;
  const int lane = thread_index() % kWarp;
  const int row = block_x() * (kNormThreads / kWarp) + thread_index() / kWarp;
  const bool vector = arguments.vector;
  release_next_kernel();
  const auto each_part = [&](auto&& f) {
    RFSEG_UNROLL
    for (int i = 0; i < kNormParts; ++i) {
      const int col = (i * kWarp + lane) * 4;
      if (i * kWarp * 4 >= g.n) break;
      if (col < g.n) f(i, col);
    }
  };
  constexpr uint32_t kOne = 0x3f800000u;
  Quad gamma[kNormParts], beta[kNormParts], bias[kNormParts], scales[kNormParts];
  each_part([&](int i, int col) {
    gamma[i] = {{kOne, kOne, kOne, kOne}};
    beta[i] = {};
    bias[i] = {};
    scales[i] = {{kOne, kOne, kOne, kOne}};
    if (arguments.gamma != nullptr) gamma[i] = load_four(arguments.gamma + col, vector);
    if (arguments.beta != nullptr) beta[i] = load_four(arguments.beta + col, vector);
    if (g.bias != nullptr) bias[i] = load_four(g.bias + col, vector);
    if (g.scale != nullptr) scales[i] = load_four(g.scale + col, vector);
  });
  await_previous_kernel();
  if (row >= g.m) return;
  float v[kNormParts][4];
  Quad residual[kNormParts], plus[kNormParts];
  each_part([&](int i, int col) {
    const Quad q =
        load_four(static_cast<const float*>(g.out) + element_at(row, g.ldo, col), vector);
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) v[i][e] = float_of_bits(q.word[e]);
    residual[i] = {};
    if (g.residual != nullptr) {
      const int64_t at = element_at(row, g.ldr, col);
      if (g.residual_float || kMath != Math::kFp16) {
        residual[i] = load_four(static_cast<const float*>(g.residual) + at, vector);
      } else {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) {
          residual[i].word[e] =
              float_bits(low_half(static_cast<const uint16_t*>(g.residual)[at + e]));
        }
      }
    }
    if (arguments.norm_plus != nullptr) {
      plus[i] = load_four(arguments.plus + element_at(row, g.n, col), vector);
    }
  });
  for (int part = 1; part < arguments.parts; ++part) {
    each_part([&](int i, int col) {
      const Quad q = load_four(
          static_cast<const float*>(g.out) + part * g.out_step + element_at(row, g.ldo, col),
          vector);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] += float_of_bits(q.word[e]);
    });
  }
  float sum = 0;
  each_part([&](int i, int) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) {
      v[i][e] = fused(v[i][e] + float_of_bits(bias[i].word[e]), float_of_bits(scales[i].word[e]),
                      float_of_bits(residual[i].word[e]));
      sum += v[i][e];
    }
  });
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) sum += warp_read(sum, lane ^ d);
  const float mean = sum / static_cast<float>(g.n);
  float squares = 0;
  each_part([&](int i, int) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) squares = fused(v[i][e] - mean, v[i][e] - mean, squares);
  });
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) squares += warp_read(squares, lane ^ d);
  const float scale = 1.0f / exact_sqrt(squares / static_cast<float>(g.n) + arguments.norm_eps);
  const auto store_four = [&](const float(&v)[4], void* out, bool is_float, int64_t at) {
    if (!vector) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (is_float || kMath != Math::kFp16) {
          static_cast<float*>(out)[at + e] = v[e];
        } else {
          static_cast<uint16_t*>(out)[at + e] = half_of(v[e]);
        }
      }
    } else if (is_float || kMath != Math::kFp16) {
      store_quad(static_cast<float*>(out) + at,
                 {{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])}});
    } else {
      store_pair(static_cast<uint16_t*>(out) + at, pack_halves(v[0], v[1]),
                 pack_halves(v[2], v[3]));
    }
  };
  each_part([&](int i, int col) {
    if (arguments.norm_sum != nullptr) {
      store_four(v[i], arguments.norm_sum, true, element_at(row, arguments.ld_norm_sum, col));
    }
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) {
      v[i][e] = activate<kMath>(fused((v[i][e] - mean) * scale, float_of_bits(gamma[i].word[e]),
                                      float_of_bits(beta[i].word[e])),
                                arguments.norm_activation);
    }
    if (arguments.norm_float != nullptr) {
      store_four(v[i], arguments.norm_float, true, element_at(row, arguments.ld_norm_float, col));
    }
    if (arguments.norm_out != nullptr) {
      store_four(v[i], arguments.norm_out, false, element_at(row, arguments.ld_norm_out, col));
    }
    if (arguments.norm_plus != nullptr) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] += float_of_bits(plus[i].word[e]);
      store_four(v[i], arguments.norm_plus, false, element_at(row, g.n, col));
    }
  });
}

}  // namespace rfseg::cuda::portable
