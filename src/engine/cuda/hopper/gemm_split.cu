#include "engine/cuda/hopper/gemm_split.h"

#include "engine/cuda/hopper/device.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/hopper/split.h"
#include "engine/cuda/portable/tiles.h"

// Products of floats by TF32 tensor cores with fp32's accuracy.
//
// A block computes 64 rows x kCols. One warpgroup copies rows of A and B into a ring of stages, as
// the portable product does. kWarpgroupsN others share the columns, kWarpsK the slabs of a stage.
// The factors are split as hopper/split.h says; small parts of B are made by those who multiply,
// each warpgroup for its own columns, and lie behind the large ones. Both are laid out as wgmma
// wants it, chunk c of row r at c ^ (r % 8).
//
// While the tensor core works on a stage, the next one's B is split and its A comes to registers.
// What the tensor core adds up, and cuts instead of rounding, begins at zero with every stage. Who
// splits B must not have copies of its own under way: the fence that shows it to the tensor core
// would wait for all of them. Barriers with names and not transaction barriers, which racecheck
// does not know, order copies and reads; they are as fast.

#if !RFSEG_HOPPER
#pragma nv_diag_suppress 177  // constants that Hopper's code alone uses
#endif

namespace rfseg::cuda::hopper {
namespace {

constexpr int kCopiers = 128;
/// kWarpsK, which the end of a tile asks for: whose sums are added up, warpgroups here.
template <int kColsT, int kWarpgroupsNT, int kWarpgroupsKT, int kStagesT, int kMinBlocksT = 1>
struct SplitTile {
  static constexpr Math kMath = Math::kFp32;
  static constexpr int kRows = 64, kCols = kColsT;
  static constexpr int kWarpgroupsN = kWarpgroupsNT, kWarpsK = kWarpgroupsKT;
  static constexpr int kSlabs = kWarpsK, kStages = kStagesT, kMinBlocks = kMinBlocksT;
  static constexpr int kThreads = 128 * kWarpgroupsN * kWarpsK;  ///< that multiply, the first
  static constexpr int kOwnCols = kCols / kWarpgroupsN;          ///< of a warpgroup
  static constexpr int kChunkElements = 4;
  static constexpr int kPasses = kCopiers / 8;
  static constexpr int kBytesA = kSlabs * kRows * 128, kBytesB = kSlabs * kCols * 128;
  static constexpr int kStageBytes = kBytesA + 2 * kBytesB;  ///< A, large parts of B, small ones
  static constexpr int kPitch = kCols + 8;
  static constexpr int kReduceBytes = kWarpsK * kRows * kPitch * 4;
  // Shared memory, from a multiple of 1024 on: bias and scale, the ring.
  static constexpr int kRingAt = 1024;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes =
      1024 + kRingAt + (kRingBytes > kReduceBytes ? kRingBytes : kReduceBytes);
  /// Registers of a thread that multiplies and of one that copies, of those that the launch gives
  /// to each.
  static constexpr int kGiven = 65536 / (kMinBlocks * (kThreads + kCopiers)) / 8 * 8;
  static constexpr int kCopying = 56;
  static constexpr int kMultiplying = (kGiven + (kGiven - kCopying) * kCopiers / kThreads) / 8 * 8;
  static RFSEG_DEVICE int b_turn(int row) { return portable::a_turn(row); }
  static RFSEG_DEVICE int copy_thread() { return thread_index() - kThreads; }
  static constexpr int kGroups = kThreads / 128;
  /// Barriers by name: a stage's rows are there, for each warpgroup; they have been read; a
  /// warpgroup meets. 0: all that multiply meet.
  static constexpr int kFull = 1, kEmpty = kFull + kStages * kGroups;
  static constexpr int kWarpgroup = kEmpty + kStages;
  static_assert(kWarpgroup + kGroups <= 16);
  static_assert(kCols <= kCopiers && kCols * 8 <= kRingAt && kStages >= 3);
  static_assert(kOwnCols % 16 == 0 && kBytesA % 1024 == 0 && kOwnCols * 128 % 1024 == 0);
  /// 1 KB of each block is the system's.
  static_assert(kMinBlocks * (kSharedBytes + 1024) <= 228 * 1024);
};

#if RFSEG_HOPPER

/// A thread of a warpgroup that multiplies.
template <class Tile>
class SplitWarpgroup {
 public:
  static constexpr int kSums = Tile::kOwnCols / 2;  ///< of a thread
  using Product = WgmmaTf32<Tile::kOwnCols>;

  RFSEG_DEVICE SplitWarpgroup() {
    const int warp = uniform(thread_index() / kWarp), lane = thread_index() % kWarp;
    group_ = warp / 4;
    part_ = group_ / Tile::kWarpgroupsN;
    col_ = group_ % Tile::kWarpgroupsN * Tile::kOwnCols;
    row_ = warp % 4 * 16 + lane / 4;
    const int a_row = warp % 4 * 16 + lane % 16;
    a_offset_ = static_cast<uint32_t>((part_ * Tile::kRows + a_row) * 128);
    a_chunk_ = static_cast<uint32_t>((lane / 16) ^ (a_row & 7)) << 4;
    b_offset_ = static_cast<uint32_t>(Tile::kBytesA + (part_ * Tile::kCols + col_) * 128);
    RFSEG_UNROLL
    for (int i = 0; i < kSums; ++i) sums_[i] = 0;
  }

  /// Makes ready what multiply() takes of a stage that has arrived: splits the warpgroup's columns
  /// of B, and loads this thread's part of A.
  RFSEG_DEVICE void prepare(uint32_t stage) {
    const uint32_t chunk = stage + b_offset_ + static_cast<uint32_t>(thread_index() % 128 * 16);
    constexpr int kChunks = Tile::kOwnCols * 8 / 128;
    uint32_t v[kChunks][4];
    RFSEG_UNROLL
    for (int i = 0; i < kChunks; ++i) load_words(chunk + static_cast<uint32_t>(i * 2048), v[i]);
    RFSEG_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] = small_part(v[i][e]);
      store_words(chunk + static_cast<uint32_t>(Tile::kBytesB + i * 2048), v[i]);
    }
    fence_async();
    named_sync(Tile::kWarpgroup + group_, 128);
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) {
      uint32_t(&raw)[4] = raw_[step];
      load_matrices(stage + a_offset_ + (static_cast<uint32_t>(step << 5) ^ a_chunk_), raw[0],
                    raw[1], raw[2], raw[3]);
    }
  }

  /// Begins to multiply.
  RFSEG_DEVICE void multiply(uint32_t stage) {
    // Not earlier: while the tensor core is at work the compiler must not define what it reads
    // next, or it lets each of its products end before the next begins.
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) {
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(raw_[step][i])::"memory");
      Arithmetic<Math::kFp32>::take_a(now_[step], raw_[step]);
    }
    const uint64_t large = tile_descriptor(stage + b_offset_);
    const uint64_t small =
        tile_descriptor(stage + b_offset_ + static_cast<uint32_t>(Tile::kBytesB));
    fence_registers(stage_);
    wgmma_fence();
    // The small products first, so that little is cut from them.
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) {
      const uint64_t at = static_cast<uint64_t>(2 * step);
      Product::run(stage_, now_[step].small, large + at, step > 0 ? 1 : 0);
      Product::run(stage_, now_[step].large, small + at, 1);
    }
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) {
      Product::run(stage_, now_[step].large, large + static_cast<uint64_t>(2 * step), 1);
    }
    wgmma_commit();
  }
  /// Waits for its end.
  RFSEG_DEVICE void finish() {
    wgmma_wait<0>();
    fence_registers(stage_);
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) fence_registers(now_[step]);
    RFSEG_UNROLL
    for (int i = 0; i < kSums; ++i) sums_[i] += stage_[i];
  }

  /// The sums to `to` [kWarpsK][kRows][kPitch].
  RFSEG_DEVICE void store(float* to) {
    to += (part_ * Tile::kRows + row_) * Tile::kPitch + col_ + thread_index() % 4 * 2;
    RFSEG_UNROLL
    for (int j = 0; j < kSums; j += 4) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int i = j + 2 * half;
        store_pair(to + half * 8 * Tile::kPitch + j * 2, float_bits(sums_[i]),
                   float_bits(sums_[i + 1]));
      }
    }
  }

 private:
  int group_, part_, col_, row_;
  uint32_t a_offset_, a_chunk_, b_offset_;
  uint32_t raw_[4][4];  ///< the next rows of A
  Arithmetic<Math::kFp32>::A now_[4];
  float sums_[kSums], stage_[kSums];
};

/// This thread's place in the ring of stages, from shared memory's `base` on. Those who copy and
/// those who multiply meet at two barriers a stage, the one side waiting, the other not.
template <class Tile>
struct Ring {
  uint32_t base;
  int at = 0;
  RFSEG_DEVICE void next() { at = at + 1 == Tile::kStages ? 0 : at + 1; }
  RFSEG_DEVICE void fill() const {
    RFSEG_UNROLL
    for (int group = 0; group < Tile::kGroups; ++group) named_arrive(full(group), 128 + kCopiers);
  }
  RFSEG_DEVICE void await_full(int group) const { named_sync(full(group), 128 + kCopiers); }
  RFSEG_DEVICE void release() const { named_arrive(Tile::kEmpty + at, Tile::kThreads + kCopiers); }
  RFSEG_DEVICE void await_empty() const {
    named_sync(Tile::kEmpty + at, Tile::kThreads + kCopiers);
  }
  RFSEG_DEVICE int full(int group) const { return Tile::kFull + at * Tile::kGroups + group; }
  RFSEG_DEVICE uint32_t stage() const {
    return base + static_cast<uint32_t>(Tile::kRingAt + at * Tile::kStageBytes);
  }
};

/// What the warpgroup does that copies.
template <class Tile, RowSource kSource>
RFSEG_DEVICE void copy_stages(const GemmArguments& g, const portable::TilePlace& place, int stages,
                              uint32_t base, float* vectors) {
  if (!g.b_fixed) await_previous_kernel();
  portable::MatrixRows<Tile, Tile::kCols, true> b(portable::start_of_b<Tile>(g, place), g.ldb,
                                                  place.first_col, g.n, place.k);
  const auto copy_b = [&](int stage, uint32_t to) {
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kSlabs; ++s) {
      b.copy(to + static_cast<uint32_t>(Tile::kBytesA + s * Tile::kCols * 128),
             stage * Tile::kSlabs + s);
    }
  };
  // What does not depend on the previous kernel.
  Ring<Tile> ahead{base};
  for (int stage = 0; stage < stages && stage < Tile::kStages; ++stage, ahead.next()) {
    copy_b(stage, ahead.stage());
  }
  portable::copy_vectors<Tile>(g, place.first_col, Tile::copy_thread(), vectors);
  const std::byte* a = portable::start_of_a<Tile>(g, place);
  const auto copy_all = [&](auto&& rows) {
    await_previous_kernel();
    rows.look_up(g.index, g.lda);
    Ring<Tile> ring{base}, before{base};
    for (int stage = 0; stage < stages; ++stage, ring.next()) {
      if (stage >= Tile::kStages) {
        ring.await_empty();
        copy_b(stage, ring.stage());
      }
      RFSEG_UNROLL
      for (int s = 0; s < Tile::kSlabs; ++s) {
        rows.copy(ring.stage() + static_cast<uint32_t>(s * Tile::kRows * 128),
                  stage * Tile::kSlabs + s);
      }
      copy_async_commit();
      if (stage > 0) {
        copy_async_wait<1>();
        before.fill();
      }
      before = ring;
    }
    copy_async_wait<0>();
    before.fill();
  };
  if constexpr (kSource == RowSource::kConv3x3) {
    copy_all(portable::ConvolutionRows<Tile>(g, a, place.first_row, place.k_first, place.k));
  } else {
    copy_all(portable::MatrixRows<Tile, Tile::kRows, false>(a + place.k_first * 4, g.lda,
                                                            place.first_row, g.m, place.k));
  }
}

#endif

template <class Tile, RowSource kSource>
RFSEG_DEVICE void split_body(const portable::ProductArguments& arguments, void* shared) {
#if RFSEG_HOPPER
  const GemmArguments& g = arguments.product;
  const uint32_t start = shared_address(shared), base = (start + 1023) / 1024 * 1024;
  std::byte* const aligned = static_cast<std::byte*>(shared) + (base - start);
  float* const vectors = reinterpret_cast<float*>(aligned);
  release_next_kernel();
  const portable::TilePlace place = portable::tile_place<Tile>(arguments);
  const int slabs = (place.k / Tile::kChunkElements + 7) / 8;
  const int stages = (slabs + Tile::kSlabs - 1) / Tile::kSlabs;
  if (thread_index() >= Tile::kThreads) {
    give_registers<Tile::kCopying>();
    copy_stages<Tile, kSource>(g, place, stages, base, vectors);
    return;
  }

  take_registers<Tile::kMultiplying>();
  SplitWarpgroup<Tile> group;
  portable::TileEnd<Tile> end(arguments, place);
  await_previous_kernel();
  end.request_before_loop();
  Ring<Tile> now{base};
  const int index = uniform(thread_index() / 128);
  now.await_full(index);
  group.prepare(now.stage());
  for (int stage = 1; stage < stages; ++stage) {
    Ring<Tile> next = now;
    next.next();
    group.multiply(now.stage());
    next.await_full(index);
    group.prepare(next.stage());
    group.finish();
    if (stage - 1 + Tile::kStages < stages) now.release();
    now = next;
  }
  group.multiply(now.stage());
  end.request_after_loop();
  group.finish();
  // The sums take the place of the stages.
  float* const sums = reinterpret_cast<float*>(aligned + Tile::kRingAt);
  named_sync(0, Tile::kThreads);
  group.store(sums);
  named_sync(0, Tile::kThreads);
  end.finish(vectors, sums);
#else
  static_cast<void>(arguments);
  static_cast<void>(shared);
#endif
}

template <class Tile, RowSource kSource>
void enqueue_split(const Queue& queue, const portable::ProductArguments& arguments, Grid grid,
                   int shared_bytes) {
  launch<split_body<Tile, kSource>, Tile::kThreads + kCopiers, Tile::kMinBlocks>(
      queue, grid, static_cast<std::size_t>(shared_bytes), arguments);
}

template <class Tile, RowSource kSource>
constexpr portable::TileEntry entry(const char* name, const portable::TileCost& cost) {
  return {name,
          cost,
          Tile::kRows,
          Tile::kCols,
          Tile::kSharedBytes,
          nullptr,
          0,
          &enqueue_split<Tile, kSource>};
}

/// Names: rows x columns, warpgroups over columns and over the slabs of a stage, stages.
template <RowSource source>
constexpr portable::TileEntry kTiles[] = {
    entry<SplitTile<128, 2, 1, 4>, source>("wgmma 64x128 2x1 4", {0, 3403, 715, 880}),
    entry<SplitTile<96, 1, 2, 3>, source>("wgmma 64x96 1x2 3", {0, 3731, 477, 579}),
    entry<SplitTile<64, 1, 1, 4, 2>, source>("wgmma 64x64 1x1 4", {2923, 37, 463, 433}),
    entry<SplitTile<64, 1, 2, 4>, source>("wgmma 64x64 1x2 4", {137, 2812, 367, 424}),
    entry<SplitTile<48, 1, 1, 5, 2>, source>("wgmma 64x48 1x1 5", {1327, 1130, 414, 297}),
    entry<SplitTile<32, 1, 2, 4>, source>("wgmma 64x32 1x2 4", {405, 2140, 251, 286}),
    entry<SplitTile<32, 1, 3, 3>, source>("wgmma 64x32 1x3 3", {154, 2695, 225, 236}),
};

}  // namespace

portable::TileList split_tiles(RowSource source) {
  if (!usable()) return {};
  switch (source) {
    case RowSource::kRows:
      return portable::list_of(kTiles<RowSource::kRows>);
    case RowSource::kConv3x3:
      return portable::list_of(kTiles<RowSource::kConv3x3>);
    case RowSource::kNormed:
      break;
  }
  return {};
}

}  // namespace rfseg::cuda::hopper
