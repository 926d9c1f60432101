#include "engine/cuda/products.h"

#include "engine/cuda/portable.h"

// Which family computes a product.

namespace rfseg::cuda {

void gemm(const Queue& queue, Math math, const GemmArguments& arguments) {
  portable::gemm(queue, math, arguments);
}

bool gemm_prefers_normed(Math math, int m, int n, int k) {
  return portable::gemm_prefers_normed(math, m, n, k);
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments) {
  portable::gemm_norm(queue, math, arguments);
}

void attention(const Queue& queue, Math math, const AttentionArguments& arguments) {
  portable::attention(queue, math, arguments);
}

}  // namespace rfseg::cuda
