#pragma once

#include <string>
#include <vector>

#include "engine/cuda/products.h"

namespace rfseg::cuda::hopper {

/// Enqueues attention() of products.h under Math::kFp16. False, with nothing enqueued: heads that
/// are not 64 wide, or rows that the copy engine cannot address.
bool attention(const Queue& queue, const AttentionArguments& arguments);

/// One way to divide the work. For tests and benchmarks.
struct AttentionVariant {
  int groups = 3;  ///< warpgroups of a block
  int keys = 64;   ///< of a step
  bool split_keys =
      false;  ///< the warpgroups share the keys of one tile of 64 queries, not queries
  bool operator==(const AttentionVariant&) const = default;
};
std::string name(const AttentionVariant& variant);
std::vector<AttentionVariant> attention_variants();
AttentionVariant choose(const AttentionArguments& arguments, int multiprocessors);
bool attention(const Queue& queue, const AttentionArguments& arguments,
               const AttentionVariant& variant);

}  // namespace rfseg::cuda::hopper
