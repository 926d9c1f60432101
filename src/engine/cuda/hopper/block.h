#pragma once

#include "engine/cuda/products.h"

// The steps of an encoder block for few rows (one or two pictures) on Hopper's own units, fp16.
// There a step takes as long as one trip through a block: the previous kernel's end, the first
// rows' way from the L2, the product, the results' way back. So a block computes one tile and no
// more, its weights are under way before the previous kernel has ended, two kernels fit on a
// multiprocessor side by side, and LayerNorm is part of the product before it. What these functions
// do not take is left to gemm(), gemm_norm() and attention() of products.h.

namespace rfseg::cuda::hopper {

/// Enqueues gemm() of products.h. False, with nothing enqueued: not a plain product to halves (with
/// GELU in multiples of 128 columns, else of 96 and without activation), or more tiles than there
/// are multiprocessors: of 64 rows and up to 192 columns (with GELU 256), or without GELU of 128
/// and 128 where the columns are a multiple of 384.
bool block_gemm(const Queue& queue, const GemmArguments& arguments);

/// Enqueues gemm_norm() of products.h for a residual stream of 384 columns (`residual`, `sum` and
/// `out` given, no affine and no activation; `sum` may be `residual`, `out` may be A), or for a map
/// of 256 columns: affine, `out` alone, no residual; with SiLU from k = 448 on (also normalised
/// twice), without below. False, with nothing enqueued, for other forms and for more rows than one
/// round of clusters takes (1,920 on an H200).
bool block_gemm_norm(const Queue& queue, const GemmNormArguments& arguments);

/// Enqueues gemm() of products.h: masks of one picture, up to 256 queries [m, 256] times pixels
/// [n, 256], row_bias, to halves; n and ldo multiples of 4. False, with nothing enqueued: other
/// products, and more pixels than one round of blocks takes (16,896 on an H200).
bool block_masks(const Queue& queue, const GemmArguments& arguments);

/// Enqueues attention() of products.h, one round of blocks. False, with nothing enqueued: heads
/// that are not 64 wide, or more than 1.5 to 2 tiles of 64 queries a multiprocessor. Sequences of
/// up to 352 keys (704 where two blocks can share a tile) without a loop, others by block_steps.h.
bool block_attention(const Queue& queue, const AttentionArguments& arguments);

}  // namespace rfseg::cuda::hopper
