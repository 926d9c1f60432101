#pragma once

#include "engine/cuda/products.h"

namespace rfseg::cuda::hopper {

/// Enqueues attention() of products.h under Math::kFp32. False, with nothing enqueued: heads that
/// are not 64 wide, or a GPU that is not usable().
bool split_attention(const Queue& queue, const AttentionArguments& arguments);

}  // namespace rfseg::cuda::hopper
