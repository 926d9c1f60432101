#pragma once

#include "engine/cuda/products.h"

// The kernel family for every GPU from compute capability 8.0 on: mma.sync, ldmatrix, cp.async, at
// most 99 KB of shared memory a block. Same contract as products.h.

namespace rfseg::cuda::portable {

/// What a block may use on every GPU from 8.0 on (8.6, 8.9 and 12.0 have the least).
constexpr int kMaxSharedBytes = 99 * 1024;

/// Multiprocessors of the current device, asked once a device.
int multiprocessors();

void gemm(const Queue& queue, Math math, const GemmArguments& arguments);
bool gemm_prefers_normed(Math math, int m, int n, int k);
void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments);
/// gemm_norm() in one kernel, on a GPU with clusters: for tests. Tiles as for gemm(); false if
/// the tile does not take the arguments.
int gemm_norm_tiles(Math math, RowSource source);
bool gemm_norm_by_cluster(const Queue& queue, Math math, const GemmNormArguments& arguments,
                          int tile);
/// What gemm_norm() does to the product's sums, which another kernel has left in `scratch` (m x n,
/// nothing added yet).
void norm_of_sums(const Queue& queue, Math math, const GemmNormArguments& arguments);
void attention(const Queue& queue, Math math, const AttentionArguments& arguments);

/// gemm() and attention() by a tile of one's choice, for tests and benchmarks: 0 <= tile < the
/// number of tiles for this arithmetic and source. Returns false if the tile does not take the
/// arguments.
int gemm_tiles(Math math, RowSource source);
const char* gemm_tile_name(Math math, RowSource source, int tile);
bool gemm_by_tile(const Queue& queue, Math math, const GemmArguments& arguments, int tile);
/// The tile that gemm() takes.
int gemm_tile(Math math, const GemmArguments& arguments);
int attention_tiles(Math math, int head_dim);
const char* attention_tile_name(Math math, int head_dim, int tile);
void attention_by_tile(const Queue& queue, Math math, const AttentionArguments& arguments,
                       int tile);
int attention_tile(Math math, const AttentionArguments& arguments);

}  // namespace rfseg::cuda::portable
