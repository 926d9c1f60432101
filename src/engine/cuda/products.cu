#include "engine/cuda/products.h"

#include "engine/cuda/hopper/attention.h"
#include "engine/cuda/hopper/attention_split.h"
#include "engine/cuda/hopper/block.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/hopper/gemm_split.h"
#include "engine/cuda/hopper/mask_block.h"
#include "engine/cuda/portable/convolution.h"
#include "engine/cuda/portable/portable.h"
#include "engine/cuda/small/mask_product.h"
#include "engine/cuda/small/small_kernels.h"
#include "rfseg/error.h"

// Which family computes a product.

namespace rfseg::cuda {
namespace {

/// Below this many rows a product is bound by the time of one trip through a block, which is
/// shorter with the portable family's small tiles.
constexpr int kHopperRows = 512;

/// From this many rows on tiles of 128 columns, which hand on norms, are the fastest anyway.
constexpr int kSharedNormRows = 2048;

/// From this many rows on a product with a norm that Hopper's kernel is slow at (with a residual)
/// is its plain product and a kernel for the norm; for fewer, parts of k are worth more.
constexpr int kApartRows = 2048;

/// Up to this many rows the kernels with a norm of hopper/block.h are the faster ones. Beyond,
/// their clusters do not find room on an H200 at once.
constexpr int kBlockRows = 1920;

bool on_hopper(const Queue& queue, Math math, int rows) {
  return math == Math::kFp16 && !queue.portable && rows >= kHopperRows && hopper::usable();
}

/// Tiles of this GPU's own for the portable product of floats. TF32 may take them, too: they are
/// more accurate than it asks for, and for few rows the faster ones.
portable::TileList own_tiles(const Queue& queue, Math math, RowSource source) {
  return math != Math::kFp16 && !queue.portable ? hopper::split_tiles(source)
                                                : portable::TileList{};
}

/// GemmNormArguments::tap, of the sums.
void write_tap(const Queue& queue, Math math, const GemmNormArguments& a) {
  NormArguments n;
  n.x = a.sum;
  n.ldx = a.ld_sum;
  n.cells = a.tap_layout;
  n.m = a.product.m / n.cells.tokens() * n.cells.cells();
  n.n = a.product.n;
  n.gamma = a.tap_gamma;
  n.beta = a.tap_beta;
  n.eps = a.eps;
  n.out = a.tap;
  n.ldo = a.ld_tap;
  norm_rows(queue, math, n);
}

/// The second norm of GemmNormArguments::then_gamma.
void norm_again(const Queue& queue, Math math, const GemmNormArguments& a) {
  NormArguments n;
  n.x = a.out_float;
  n.ldx = a.ldo_float;
  n.m = a.product.m;
  n.n = a.product.n;
  n.gamma = a.then_gamma;
  n.beta = a.then_beta;
  n.eps = a.eps;
  n.out = a.out;
  n.ldo = a.ldo;
  norm_rows(queue, math, n);
}

}  // namespace

void gemm(const Queue& queue, Math math, const GemmArguments& arguments) {
  // Batches of short products share a launch.
  const int rows = arguments.batch > 1 ? arguments.m * arguments.batch : arguments.m;
  if (queue.few_rows && on_hopper(queue, math, kHopperRows)) {
    if (hopper::block_masks(queue, arguments)) return;
    if (mask_product(queue, arguments)) return;
  }
  if (on_hopper(queue, math, rows)) {
    if (queue.few_rows && hopper::block_gemm(queue, arguments)) return;
    if (hopper::gemm(queue, arguments)) return;
  }
  if (arguments.shares != nullptr || arguments.norm_of != nullptr) {
    throw Error(ErrorCode::kInternal, "no kernel hands on the norms of these rows");
  }
  portable::gemm(queue, math, arguments, own_tiles(queue, math, arguments.source));
}

bool gemm_hands_on_norms(const Queue& queue, Math math, int rows, int width) {
  return on_hopper(queue, math, rows) && rows >= kSharedNormRows && width % 128 == 0 &&
         width <= 128 * hopper::kMostNormShares;
}

bool gemm_prefers_normed(const Queue& queue, Math math, int m, int n, int k) {
  return !on_hopper(queue, math, m) && portable::gemm_prefers_normed(math, m, n, k);
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments) {
  if (queue.few_rows && arguments.product.m <= kBlockRows &&
      on_hopper(queue, math, arguments.product.m) && hopper::block_gemm_norm(queue, arguments)) {
    return;
  }
  if (arguments.then_gamma != nullptr) {
    GemmNormArguments first = arguments;
    first.then_gamma = first.then_beta = nullptr;
    first.out = nullptr;
    gemm_norm(queue, math, first);
    norm_again(queue, math, arguments);
    return;
  }
  if (arguments.tap != nullptr) {
    GemmNormArguments without = arguments;
    without.tap = nullptr;
    gemm_norm(queue, math, without);
    write_tap(queue, math, arguments);
    return;
  }
  if (queue.few_rows && on_hopper(queue, math, kHopperRows) &&
      portable::convolution_norm(queue, arguments)) {
    return;
  }
  if (on_hopper(queue, math, arguments.product.m)) {
    // Only the portable family writes the sums themselves. A tile as wide as the rows leaves few
    // blocks, and the residual's loads and three outputs stall each of them.
    const bool plain = arguments.sum == nullptr && arguments.product.scale == nullptr &&
                       arguments.product.residual == nullptr;
    if (plain && hopper::gemm_norm(queue, arguments)) return;
    if (arguments.product.m >= kApartRows) {
      GemmArguments sums = arguments.product;
      sums.bias = sums.scale = nullptr;
      sums.residual = nullptr;
      sums.activation = Activation::kNone;
      sums.out = arguments.scratch;
      sums.out_float = true;
      sums.ldo = sums.n;
      if (hopper::gemm(queue, sums)) return portable::norm_of_sums(queue, math, arguments);
    }
  }
  portable::gemm_norm(queue, math, arguments, own_tiles(queue, math, arguments.product.source));
}

bool gemm_norm_takes_stream(const Queue& queue, Math math, int rows, int width, int k) {
  // With floats blocks share a long k, and the kernel of norms adds up their sums.
  if (math != Math::kFp16) return rows <= kSharedStreamRows && k > width;
  return on_hopper(queue, math, rows) && queue.few_rows && rows <= kBlockRows &&
         width == kStreamWidth;
}

void attention(const Queue& queue, Math math, const AttentionArguments& arguments) {
  const int rows = arguments.sequences * arguments.length;
  if (on_hopper(queue, math, rows)) {
    if (queue.few_rows && hopper::block_attention(queue, arguments)) return;
    if (hopper::attention(queue, arguments)) return;
  }
  if (math != Math::kFp16 && !queue.portable && hopper::split_attention(queue, arguments)) return;
  portable::attention(queue, math, arguments);
}

bool takes_mask_block(const Queue& queue, Math math, int channels) {
  return on_hopper(queue, math, kHopperRows) && channels == 256;
}

void mask_block(const Queue& queue, Math, const MaskBlockArguments& arguments) {
  if (!hopper::mask_block(queue, arguments)) {
    throw Error(ErrorCode::kInternal, "the GPU's copy engine does not take a map of mask features");
  }
}

}  // namespace rfseg::cuda
