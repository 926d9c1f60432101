#pragma once

#include "core/cuda/launch.h"
#include "engine/cuda/products.h"
#include "engine/cuda/small/elements.h"

// What the files behind small_kernels.h share.

namespace rfseg::cuda {

inline int blocks_for(int64_t items, int per_block) {
  return static_cast<int>((items + per_block - 1) / per_block);
}

/// Calls f with a value of the Element type of `math`.
template <class F>
void with_element(Math math, F&& f) {
  if (math == Math::kFp16) {
    f(__half{});
  } else {
    f(float{});
  }
}

RFSEG_DEVICE int64_t global_thread(int threads) {
  return int64_t{block_x()} * threads + thread_index();
}

}  // namespace rfseg::cuda
