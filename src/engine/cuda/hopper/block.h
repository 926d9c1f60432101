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
/// are multiprocessors.
bool block_gemm(const Queue& queue, const GemmArguments& arguments);

/// Enqueues gemm_norm() of products.h for a residual stream of 384 columns (scale, `sum` and `out`
/// given, no affine and no activation; `sum` may be `residual`, `out` may be A), or for a map of
/// 256 columns: affine, `out` alone, no residual; with SiLU from k = 448 on (also normalised
/// twice), without below. False, with nothing enqueued, for other forms.
bool block_gemm_norm(const Queue& queue, const GemmNormArguments& arguments);

/// Enqueues attention() of products.h. False, with nothing enqueued: heads that are not 64 wide,
/// more tiles of 64 queries than multiprocessors, or sequences of more than 352 keys (704 where two
/// blocks can share a tile).
bool block_attention(const Queue& queue, const AttentionArguments& arguments);

}  // namespace rfseg::cuda::hopper
