#pragma once

#include <string>
#include <vector>

#include "engine/cuda/products.h"

// Matrix products on Hopper's own units (sm_90a), fp16 only. What they do not take is left to the
// portable family.

namespace rfseg::cuda::hopper {

/// GemmArguments::shares of a row at most.
constexpr int kMostNormShares = 8;

/// Whether the current device is of compute capability 9.x and this binary has code for it.
bool usable();

/// Enqueues gemm() of products.h under Math::kFp16. False, with nothing enqueued: not one of the
/// forms taken (kNormed, an index, convolutions of channels that are no multiple of 64, rows that
/// the copy engine cannot address).
bool gemm(const Queue& queue, const GemmArguments& arguments);

/// The same of gemm_norm(): rows of 128 or 256 columns, a tile being as wide. False also for so few
/// rows that most multiprocessors would have none.
bool gemm_norm(const Queue& queue, const GemmNormArguments& arguments);

/// One way to divide a product. For tests and benchmarks, which force each.
struct GemmVariant {
  /// Weights of `columns` columns stay in shared memory and 64-row tiles stream by, two warpgroups
  /// in turn; else tiles of 64 * groups rows x columns with both operands streaming.
  bool stationary = false;
  int groups = 1;
  int columns = 64;
  int cluster = 1;  ///< blocks above one another that share the weights they fetch
  /// Two warpgroups take tiles of 128 x 128 in turn, each alone.
  bool in_turn = false;
  bool operator==(const GemmVariant&) const = default;
};
std::string name(const GemmVariant& variant);
/// All that are built; not every one takes every product.
std::vector<GemmVariant> gemm_variants();
/// The one that gemm() takes for these arguments, by a model of the time.
GemmVariant choose(const GemmArguments& arguments, int multiprocessors);
GemmVariant choose(const GemmNormArguments& arguments, int multiprocessors);
bool gemm(const Queue& queue, const GemmArguments& arguments, const GemmVariant& variant);
bool gemm_norm(const Queue& queue, const GemmNormArguments& arguments, const GemmVariant& variant);

}  // namespace rfseg::cuda::hopper
