#include "engine/cuda/hopper/block.h"

#include <algorithm>
#include <type_traits>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/block_product.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/portable/portable.h"

// Which products the kernels of block_product.h take, and with what memory they are launched.

namespace rfseg::cuda::hopper {
namespace {

using namespace block;

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Shared memory of a block. Blocks of two successive kernels fit on a multiprocessor, also
// attention's 112 KB or less beside the products': 228 KB in all, of which the system keeps 1 KB a
// block. Two of the same product that have kAloneBytes do not: where fewer multiprocessors than it
// has blocks were idle, they would come to lie on those in pairs, with the others at rest, and take
// twice as long. An encoder block's products with a norm do without while the kernels before them
// leave none idle, since then their blocks start the earlier for it.
constexpr int kPlainRoom = 114 * 1024, kNormRoom = 110 * 1024;
constexpr int kAloneBytes = 114 * 1024;
// Of a block that has a multiprocessor to itself.
constexpr int kWholeRoom = 227 * 1024;

/// Whether block_gemm()'s qkv and fc1 of so many rows, 12 blocks for 64 of them or 6, are on all
/// multiprocessors.
bool plain_fill_all(const GemmArguments& g) {
  const int tiles = (g.m + 63) / 64, all = portable::multiprocessors();
  return tiles * (tiles * 12 <= all ? 12 : 6) >= all;
}

template <Form kForm, int kHalf, bool kWhole, Activation kActivation = Activation::kNone,
          Use kUse = Use::kStream, int kTiles = 1>
bool run(const Queue& queue, BlockTask& task, const GemmArguments& g) {
  constexpr int kColumns = columns_of(kForm, kHalf);
  constexpr int kStageBytes = stage_bytes(kForm, kHalf, kTiles), kRowBytes = kTiles * kBoxBytes;
  constexpr int kRoom = kWhole ? kWholeRoom : kForm == Form::kPlain ? kPlainRoom : kNormRoom;
  constexpr int kBlocksInRow = kForm == Form::kLong ? 2 : 1;
  constexpr int kLeast =  // boxes or stages
      kForm == Form::kShort ? kMostRowBoxes * (kRowBytes + kStageBytes) : 3 * kStageBytes;
  static_assert(1024 + rows_at(kForm, kHalf, kUse) + kLeast <= kRoom);
  task.m = g.m;
  task.n_tiles = g.n / kColumns;
  task.k_blocks = g.k / 64 / kBlocksInRow;
  if (keeps_rows(kForm) && task.k_blocks > kMostRowBoxes) return false;
  if (!matrix_map(&task.a, g.a, g.k, g.m, g.lda, 1, 0, 64, 64 * kTiles) ||
      !matrix_map(&task.b, g.b, g.k, g.n, g.ldb, 1, 0, 64, kColumns)) {
    return false;
  }
  const int fixed =
      1024 + rows_at(kForm, kHalf, kUse) + (keeps_rows(kForm) ? task.k_blocks * kRowBytes : 0);
  task.stages = std::min((kRoom - fixed) / kStageBytes, task.k_blocks);
  if (task.stages < (kForm == Form::kShort ? task.k_blocks : std::min(task.k_blocks, 2)))
    return false;
  const int blocks = (g.m + 64 * kTiles - 1) / (64 * kTiles) * task.n_tiles * kBlocksInRow;
  const bool alone = kWhole || kForm == Form::kPlain || kUse != Use::kStream || !plain_fill_all(g);
  const int bytes = std::max(fixed + task.stages * kStageBytes, alone ? kAloneBytes : 0);
  constexpr auto kBody = &multiply<kForm, kHalf, kActivation, kUse, kTiles>;
  if constexpr (kForm == Form::kPlain) {
    launch<kBody, threads_of(kForm, kTiles), kWhole ? 1 : 2>(queue, {blocks, 1},
                                                             static_cast<std::size_t>(bytes), task);
  } else {
    // Without kWhole kShort has so few registers that attention's blocks may still be there.
    constexpr int kTogether = kWhole ? 1 : kForm == Form::kShort && kUse == Use::kStream ? 4 : 2;
    launch_cluster<kBody, threads_of(kForm, kTiles), kTogether>(
        queue, {blocks, 1}, cluster_of(kHalf, kUse), bytes, task);
  }
  return true;
}

/// Whether all blocks of `tiles` x 64 rows and `columns` columns can be at work at once.
bool one_round(const GemmArguments& g, int tiles, int columns) {
  const int rows = 64 * tiles;
  return g.n % columns == 0 &&
         (g.m + rows - 1) / rows * (g.n / columns) <= portable::multiprocessors();
}

/// The same of clusters of 8, 6 or 4 blocks, one for 64 rows. Of the multiprocessors of a
/// processing cluster (16 or 18 on an H200) a remainder is left over: 15, 17 and 30 clusters find
/// room on 132 if a block has one to itself (cudaOccupancyMaxActiveClusters).
bool one_round_of_clusters(const GemmArguments& g, int cluster) {
  const int all = portable::multiprocessors();
  return (g.m + 63) / 64 * cluster <= (cluster == 6 ? all * 17 / 22 : all * 10 / 11);
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
  if (g.activation == Activation::kNone) {
    if (one_round(g, 1, 96)) return run<Form::kPlain, 48, false>(queue, task, g);
    if (one_round(g, 1, 192)) return run<Form::kPlain, 96, false>(queue, task, g);
    if (g.n % kStreamColumns == 0 && one_round(g, 2, 128)) {
      return run<Form::kPlain, 64, true, Activation::kNone, Use::kStream, 2>(queue, task, g);
    }
  } else if (g.activation == Activation::kGelu) {
    constexpr Activation kGelu = Activation::kGelu;
    if (one_round(g, 1, 128)) return run<Form::kPlain, 64, false, kGelu>(queue, task, g);
    if (one_round(g, 1, 256)) return run<Form::kPlain, 128, true, kGelu>(queue, task, g);
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
  const auto run_with = [&](auto half, auto whole) {
    constexpr int kHalf = half.value;
    constexpr bool kWhole = whole.value;
    if (!twice && n.activation == Activation::kNone && short_k) {
      return run<Form::kShort, kHalf, kWhole, Activation::kNone, Use::kMap>(queue, task, g);
    }
    if (n.activation != Activation::kSilu || short_k) return false;
    return twice
               ? run<Form::kLong, kHalf, kWhole, Activation::kSilu, Use::kMapTwice>(queue, task, g)
               : run<Form::kLong, kHalf, kWhole, Activation::kSilu, Use::kMap>(queue, task, g);
  };
  if (one_round_of_clusters(g, 8)) return run_with(Constant<32>(), std::false_type());
  return one_round_of_clusters(g, 4) && run_with(Constant<64>(), std::true_type());
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
  const auto run_with = [&](auto half, auto whole) {
    constexpr int kHalf = half.value;
    constexpr bool kWhole = whole.value;
    if (g.k <= 64 * kMostRowBoxes) return run<Form::kShort, kHalf, kWhole>(queue, task, g);
    return g.k % 128 == 0 && run<Form::kLong, kHalf, kWhole>(queue, task, g);
  };
  if (one_round_of_clusters(g, 8)) return run_with(Constant<48>(), std::false_type());
  if (one_round_of_clusters(g, 6)) return run_with(Constant<64>(), std::true_type());
  return one_round_of_clusters(g, 4) && run_with(Constant<96>(), std::true_type());
}

}  // namespace rfseg::cuda::hopper
