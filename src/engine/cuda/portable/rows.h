#pragma once

#include "engine/cuda/portable/tile.h"

// How rows of A and B come into shared memory: from a matrix, by an index, from the neighbourhoods
// of a map, or normalised. See portable/gemm.h for the layout.

namespace rfseg::cuda::portable {

RFSEG_DEVICE int a_turn(int row) { return row & 7; }

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
    row_ = Tile::copy_thread() / 8;
    column_ = Tile::copy_thread() % 8;
    RFSEG_UNROLL
    for (int i = 0; i < kTurns; ++i) {
      const int row = row_ + i * kPasses;
      const int turn = kOfB ? Tile::b_turn(row) : a_turn(row);
      to_[i] = static_cast<uint32_t>(row * 128 + ((column_ ^ turn) << 4));
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

}  // namespace rfseg::cuda::portable
