#pragma once

#include "engine/cuda/products.h"

namespace rfseg::cuda::portable {

/// Enqueues gemm_norm() of products.h for a 3x3 convolution of few cells, 128 to 128 channels of
/// halves, on GPUs that have clusters. False, with nothing enqueued, for anything else.
bool convolution_norm(const Queue& queue, const GemmNormArguments& arguments);

}  // namespace rfseg::cuda::portable
