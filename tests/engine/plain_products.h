#pragma once

#include "engine/cuda/products.h"

// The contract of engine/cuda/products.h as plain loops over host memory, sums in double: what the
// kernels are tested against, and what the rest of the network is tested with.

namespace rfseg::cuda::plain {

void gemm(Math math, const GemmArguments& arguments);
void gemm_norm(Math math, const GemmNormArguments& arguments);
void attention(Math math, const AttentionArguments& arguments);

}  // namespace rfseg::cuda::plain
