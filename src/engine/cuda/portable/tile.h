#pragma once

#include "core/cuda/launch.h"
#include "engine/cuda/portable/arithmetic.h"
#include "engine/cuda/portable/portable.h"

// What the parts of the portable product share: its arguments and the shape of a block's work. See
// portable/gemm.h.

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
  /// Row r of B has its chunk c at c ^ b_turn(r) (see portable/gemm.h).
  static RFSEG_DEVICE int b_turn(int row) { return (row & 1) | ((row >> 2) & 6); }
  /// This thread among those that copy, kPasses * 8.
  static RFSEG_DEVICE int copy_thread() { return thread_index(); }
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

}  // namespace rfseg::cuda::portable
