#include "engine/cuda/hopper/block.h"

#include <algorithm>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/block_product.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/portable/portable.h"

// Which products the kernels of block_product.h take, and with what memory they are launched.

namespace rfseg::cuda::hopper {
namespace {

using namespace block;

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Shared memory of a block. Blocks of two successive kernels fit on a multiprocessor, also
// attention's 112 KB beside the products': 228 KB in all, of which the system keeps 1 KB a block.
// Two of a kPlain product do not: where fewer multiprocessors than it has blocks were idle, they
// would come to lie on those in pairs, with the others at rest, and take twice as long.
constexpr int kPlainRoom = 114 * 1024, kNormRoom = 110 * 1024;
constexpr int kAloneBytes = 114 * 1024;

template <Form kForm, int kHalf, Activation kActivation = Activation::kNone,
          Use kUse = Use::kStream>
bool run(const Queue& queue, BlockTask& task, const GemmArguments& g, int room) {
  constexpr int kColumns = columns_of(kForm, kHalf), kStageBytes = stage_bytes(kForm, kHalf);
  constexpr int kBlocksInRow = kForm == Form::kLong ? 2 : 1;
  task.m = g.m;
  task.n_tiles = g.n / kColumns;
  task.k_blocks = g.k / 64 / kBlocksInRow;
  if (keeps_rows(kForm) && task.k_blocks > kMostRowBoxes) return false;
  if (!matrix_map(&task.a, g.a, g.k, g.m, g.lda, 1, 0, 64, 64) ||
      !matrix_map(&task.b, g.b, g.k, g.n, g.ldb, 1, 0, 64, kColumns)) {
    return false;
  }
  const int fixed =
      1024 + rows_at(kForm, kHalf, kUse) + (keeps_rows(kForm) ? task.k_blocks * kBoxBytes : 0);
  task.stages = std::min((room - fixed) / kStageBytes, task.k_blocks);
  if (task.stages < (kForm == Form::kShort ? task.k_blocks : std::min(task.k_blocks, 2)))
    return false;
  const int blocks = (g.m + 63) / 64 * task.n_tiles * kBlocksInRow;
  const int bytes =
      std::max(fixed + task.stages * kStageBytes, kForm == Form::kPlain ? kAloneBytes : 0);
  constexpr auto kBody = &multiply<kForm, kHalf, kActivation, kUse>;
  if constexpr (kForm == Form::kPlain) {
    launch<kBody, threads_of(kForm), 2>(queue, {blocks, 1}, static_cast<std::size_t>(bytes), task);
  } else {
    // So few registers that attention's blocks may still be there.
    constexpr bool kBesideAttention = kForm == Form::kShort && kUse == Use::kStream;
    launch_cluster<kBody, threads_of(kForm), kBesideAttention ? 4 : 2>(queue, {blocks, 1}, kCluster,
                                                                       bytes, task);
  }
  return true;
}

int tiles(const GemmArguments& g, int columns) {
  return g.n % columns ? 1 << 30 : (g.m + 63) / 64 * (g.n / columns);
}

bool readable(const GemmArguments& g) {
  return g.source == RowSource::kRows && !g.index && !g.split && g.batch == 1 && !g.row_bias &&
         !g.halves && !g.norm_of && g.b_fixed && aligned(g.a) && aligned(g.b) && g.lda % 8 == 0 &&
         g.ldb % 8 == 0 && g.k % 64 == 0 && g.k >= 64 && g.m >= 1 &&
         reinterpret_cast<uintptr_t>(g.bias) % 8 == 0;
}

}  // namespace

bool block_gemm(const Queue& queue, const GemmArguments& g) {
  if (!readable(g) || g.scale || g.residual || g.out_float || g.out_group || !aligned(g.out) ||
      g.ldo % 8) {
    return false;
  }
  BlockTask task = {};
  task.bias = g.bias;
  task.out = static_cast<__half*>(g.out);
  task.ldo = g.ldo;
  if (tiles(g, 96) <= portable::multiprocessors() && g.activation == Activation::kNone) {
    return run<Form::kPlain, 48>(queue, task, g, kPlainRoom);
  }
  if (tiles(g, 128) <= portable::multiprocessors() && g.activation == Activation::kGelu) {
    return run<Form::kPlain, 64, Activation::kGelu>(queue, task, g, kPlainRoom);
  }
  return false;
}

namespace {

/// block_gemm_norm() for a map of 256 columns.
bool map_norm(const Queue& queue, const GemmNormArguments& n) {
  const GemmArguments& g = n.product;
  const bool twice = n.then_gamma != nullptr;
  if (!n.gamma || !n.beta || g.residual || g.scale || n.sum || n.out_plus || n.tap || !n.out ||
      (n.out_float && !twice) || (twice && !n.then_beta)) {
    return false;
  }
  for (const float* p : {g.bias, n.gamma, n.beta, n.then_gamma, n.then_beta}) {
    if (reinterpret_cast<uintptr_t>(p) % 8) return false;
  }
  if (reinterpret_cast<uintptr_t>(n.out) % 4 || n.ldo % 2 || g.k < 128) return false;
  BlockTask task = {};
  task.bias = g.bias;
  task.gamma = n.gamma;
  task.beta = n.beta;
  task.then_gamma = n.then_gamma;
  task.then_beta = n.then_beta;
  task.out = static_cast<__half*>(n.out);
  task.ldo = n.ldo;
  task.eps = n.eps;
  const bool short_k = g.k <= 64 * kMostRowBoxes;
  if (!short_k && g.k % 128) return false;
  if (!twice && n.activation == Activation::kNone && short_k) {
    return run<Form::kShort, 32, Activation::kNone, Use::kMap>(queue, task, g, kNormRoom);
  }
  if (n.activation != Activation::kSilu || short_k) return false;
  return twice ? run<Form::kLong, 32, Activation::kSilu, Use::kMapTwice>(queue, task, g, kNormRoom)
               : run<Form::kLong, 32, Activation::kSilu, Use::kMap>(queue, task, g, kNormRoom);
}

}  // namespace

bool block_gemm_norm(const Queue& queue, const GemmNormArguments& n) {
  const GemmArguments& g = n.product;
  if (readable(g) && g.n == kMapColumns) return map_norm(queue, n);
  if (!readable(g) || g.n != kStreamColumns || n.then_gamma || !g.residual || !g.residual_float ||
      n.gamma || n.beta || n.activation != Activation::kNone || n.out_float || n.out_plus ||
      !n.out || !n.sum) {
    return false;
  }
  if (reinterpret_cast<uintptr_t>(n.out) % 4 || n.ldo % 2 ||
      reinterpret_cast<uintptr_t>(g.residual) % 8 || reinterpret_cast<uintptr_t>(n.sum) % 8 ||
      reinterpret_cast<uintptr_t>(g.scale) % 8 || g.ldr % 2 || n.ld_sum % 2) {
    return false;
  }
  BlockTask task = {};
  task.bias = g.bias;
  task.scale = g.scale;
  task.residual = static_cast<const float*>(g.residual);
  task.sum = n.sum;
  task.out = static_cast<__half*>(n.out);
  task.ldr = g.ldr;
  task.ld_sum = n.ld_sum;
  task.ldo = n.ldo;
  task.eps = n.eps;
  if (n.tap != nullptr) {
    if (g.k <= 64 * kMostRowBoxes || reinterpret_cast<uintptr_t>(n.tap) % 4 || n.ld_tap % 2 ||
        reinterpret_cast<uintptr_t>(n.tap_gamma) % 8 ||
        reinterpret_cast<uintptr_t>(n.tap_beta) % 8) {
      return false;
    }
    task.tap = static_cast<__half*>(n.tap);
    task.tap_gamma = n.tap_gamma;
    task.tap_beta = n.tap_beta;
    task.tap_layout = n.tap_layout;
    task.ld_tap = n.ld_tap;
  }
  if (g.k < 128) return false;  // each warpgroup has a share of k
  if (g.k <= 64 * kMostRowBoxes) return run<Form::kShort, 48>(queue, task, g, kNormRoom);
  return g.k % 128 == 0 && run<Form::kLong, 48>(queue, task, g, kNormRoom);
}

}  // namespace rfseg::cuda::hopper
