#pragma once

#include <cuda.h>

#include "core/cuda/host_device.h"
#include "engine/cuda/hopper/gemm.h"

// Between the host's choice (gemm.cpp) and the kernels.

namespace rfseg::cuda::hopper {

/// The ways out that have code of their own.
enum class Exit : int {
  kHalf,      ///< act(sum + bias) as __half, through shared memory and the copy engine
  kHalfPlus,  ///< act(sum + bias) + residual, both __half, the residual by the copy engine too
  kResidual,  ///< (sum + bias) * scale + residual as float or pairs, by the copy engine too
  kNorm,      ///< GemmNormArguments, a tile being as wide as the rows
  kAny        ///< everything GemmArguments can say, element by element
};

struct EpilogueArguments {
  const float* bias;
  const float* row_bias;
  const float* scale;
  const void* residual;
  void* out;
  int64_t ldr, ldo, out_step, row_bias_step;
  int m, n;
  int out_group, out_skip, out_first, residual_period;
  bool pairs;  ///< kAny: columns, rows and residual can be moved two elements at a time
  bool residual_float, out_float;
  // kNorm; `out` as halves goes through the copy engine.
  const float* gamma;
  const float* beta;
  const float* plus;
  float* norm_out;
  void* out_plus;
  int64_t ldo_norm;
  float eps;
  bool norm_half;
  bool residual_pair, out_pair;  ///< kResidual: the stream is a pair of halves before, after
  // GemmArguments' fields for handing on norms; `row_sums` and `norm_eps` of kHalf.
  void* halves;
  float* shares;
  const float* norm_of;
  const float* row_sums;
  float norm_eps;
  int norm_shares;  ///< a row, of norm_of
};

/// What a kernel gets, by value.
struct GemmTask {
  /// Boxes as the kernel wants them; `out` for the exits with staging boxes.
  CUtensorMap a, a2, b, out, residual;
  CUtensorMap out_rest, residual_rest;  ///< kResidual with a stream in pairs
  EpilogueArguments exit;
  int k_blocks;                 ///< of 64
  int stages;                   ///< of the ring in shared memory
  int m_tiles, n_tiles, tiles;  ///< of a block; of a cluster where there are clusters
  int split;                    ///< columns from here on take their rows from a2
  bool from_end;                ///< the last row tiles first
  bool weights_fixed;           ///< B may be read before the previous kernel has ended
  // Convolution
  int channel_blocks, out_cols, out_cells, stride;
};

/// Where the rows of the i-th tile are, of `m_tiles`.
RFSEG_HOST_DEVICE int row_tile(const GemmTask& task, int i) {
  return task.from_end ? task.m_tiles - 1 - i : i;
}

constexpr int kMostStages = 16;
constexpr int kMostWeightBlocks = 32;
/// Shared memory a block may have; the tiles start at the first multiple of 1024 in it.
constexpr int kSharedBytes = 227 * 1024;

/// Bytes of one staging box for a tile of this many columns.
RFSEG_HOST_DEVICE constexpr int box_bytes(int columns) {
  return 64 * (columns % 64 == 0 ? 64 : 32) * 2;
}
RFSEG_HOST_DEVICE constexpr int round_to_tile(int bytes) { return (bytes + 1023) / 1024 * 1024; }

// Shared memory: barriers, biases and scales, staging boxes, (the weights that stay,)
// the ring.
constexpr int kVectorsAt = 1024;

constexpr int kStationaryStagingAt = 4096;
/// Bytes of a warpgroup's staging boxes. A residual comes as a whole; halves leave as a whole from
/// tiles of up to 128 columns, in parts from wider ones.
RFSEG_HOST_DEVICE constexpr int staging_boxes(int columns, Exit exit, bool stationary) {
  if (exit == Exit::kHalfPlus || (exit == Exit::kHalf && columns <= 128)) {
    return columns * 128 / box_bytes(columns);
  }
  if (exit == Exit::kResidual) return columns / 32;
  return exit == Exit::kAny ? 0 : exit == Exit::kHalf && stationary ? 2 : 1;
}
RFSEG_HOST_DEVICE constexpr int staging_bytes(int columns, Exit exit, bool stationary) {
  return staging_boxes(columns, exit, stationary) *
         (exit == Exit::kResidual ? 64 * 128 : box_bytes(columns));
}
RFSEG_HOST_DEVICE constexpr int stationary_weights_at(int groups, int columns, Exit exit) {
  return kStationaryStagingAt + groups * staging_bytes(columns, exit, true);
}
RFSEG_HOST_DEVICE constexpr int streaming_staging_at(int groups, int columns) {
  return kVectorsAt + round_to_tile(groups * 3 * columns * 4);
}
RFSEG_HOST_DEVICE constexpr int streaming_ring_at(int groups, int columns, Exit exit) {
  return streaming_staging_at(groups, columns) + groups * staging_bytes(columns, exit, false);
}
/// Bytes of a launch, with what aligning the start may take.
inline int shared_bytes(const GemmVariant& v, Exit exit, int k_blocks, int stages) {
  return 1024 + (v.stationary ? stationary_weights_at(v.groups, v.columns, exit) +
                                    k_blocks * v.columns * 128 + stages * 64 * 128
                              : streaming_ring_at(v.groups, v.columns, exit) +
                                    stages * (v.groups * 64 + v.columns) * 128);
}

/// Which instances are built.
bool has_stationary(int groups, int columns, Exit exit, Activation activation);
bool has_in_turn(Exit exit, Activation activation);
bool has_streaming(const GemmVariant& variant, bool convolution, Exit exit, Activation activation);

void launch_stationary(const Queue& queue, int blocks, int groups, int columns, Exit exit,
                       Activation activation, const GemmTask& task);
void launch_in_turn(const Queue& queue, int blocks, Exit exit, Activation activation,
                    const GemmTask& task);
void launch_streaming(const Queue& queue, int blocks, const GemmVariant& variant, bool convolution,
                      Exit exit, Activation activation, const GemmTask& task);

}  // namespace rfseg::cuda::hopper
