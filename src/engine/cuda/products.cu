#include "engine/cuda/products.h"

#include "engine/cuda/hopper_attention.h"
#include "engine/cuda/hopper_gemm.h"
#include "engine/cuda/portable.h"

// Which family computes a product.

namespace rfseg::cuda {
namespace {

/// Below this many rows a product is bound by the time of one trip through a block, which is
/// shorter with the portable family's small tiles.
constexpr int kHopperRows = 512;

bool on_hopper(const Queue& queue, Math math, int rows) {
  return math == Math::kFp16 && !queue.portable && rows >= kHopperRows && hopper::usable();
}

}  // namespace

void gemm(const Queue& queue, Math math, const GemmArguments& arguments) {
  // Batches of short products share a launch.
  const int rows = arguments.batch > 1 ? arguments.m * arguments.batch : arguments.m;
  if (on_hopper(queue, math, rows) && hopper::gemm(queue, arguments)) return;
  portable::gemm(queue, math, arguments);
}

bool gemm_prefers_normed(const Queue& queue, Math math, int m, int n, int k) {
  return !on_hopper(queue, math, m) && portable::gemm_prefers_normed(math, m, n, k);
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments) {
  // Only the portable family writes the sums themselves.
  const bool sums = arguments.sum != nullptr || arguments.product.scale != nullptr;
  if (!sums && on_hopper(queue, math, arguments.product.m) && hopper::gemm_norm(queue, arguments)) {
    return;
  }
  portable::gemm_norm(queue, math, arguments);
}

void attention(const Queue& queue, Math math, const AttentionArguments& arguments) {
  const int rows = arguments.sequences * arguments.length;
  if (on_hopper(queue, math, rows) && hopper::attention(queue, arguments)) return;
  portable::attention(queue, math, arguments);
}

}  // namespace rfseg::cuda
