#pragma once

#include "engine/cuda/products.h"

namespace rfseg::cuda {

/// Enqueues gemm() of products.h for the masks of few queries: __half rows of 256 columns on both
/// sides, a row bias and nothing else, results in multiples of four columns. False, with nothing
/// enqueued, for anything else.
bool mask_product(const Queue& queue, const GemmArguments& arguments);

}  // namespace rfseg::cuda
