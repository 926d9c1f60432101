#pragma once

#include "engine/cuda/products.h"

namespace rfseg::cuda::hopper {

/// Enqueues mask_block() of products.h, on Hopper's units (sm_90a). False, with nothing enqueued:
/// another width than 256, or memory that the copy engine cannot address. Depthwise weights and
/// the convolution's results are rounded to halves; sums and LayerNorm's statistics are fp32.
bool mask_block(const Queue& queue, const MaskBlockArguments& arguments);

}  // namespace rfseg::cuda::hopper
