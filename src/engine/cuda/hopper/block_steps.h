#pragma once

#include <string>
#include <vector>

#include "engine/cuda/products.h"

namespace rfseg::cuda::hopper {

/// One way to divide attention for few rows among blocks. For tests and benchmarks.
struct StepDivision {
  int tiles;   ///< of 64 queries, side by side in a block
  int parts;   ///< warpgroups that share the keys of a tile
  int blocks;  ///< of a cluster, which share the keys of their tiles
  int keys;    ///< of a step
  bool operator==(const StepDivision&) const = default;
};
std::string name(const StepDivision& division);
std::vector<StepDivision> step_divisions();

/// Enqueues attention() of products.h, heads of 64 and any length, as one round of blocks. False,
/// with nothing enqueued: other heads, or no division with as few blocks as multiprocessors.
bool block_attention_steps(const Queue& queue, const AttentionArguments& arguments);
/// The same, divided so.
bool block_attention_steps(const Queue& queue, const AttentionArguments& arguments,
                           const StepDivision& division);

}  // namespace rfseg::cuda::hopper
