#pragma once

#include <functional>
#include <string>

#include "engine/cuda/products.h"
#include "engine/cuda/small/query_layer.h"
#include "engine/cuda/small/small_kernels.h"

// The steps of a pass, so that each can be looked at by itself.

namespace rfseg::cuda {

/// What a step has to do at least, whatever kernels do it.
struct StepCost {
  const char* kind = "";
  std::string shape;        ///< for people
  double flops = 0;         ///< of products; 0 where the memory's rate is the only bound
  double bytes = 0;         ///< every operand read and every result written once
  int m = 0, n = 0, k = 0;  ///< of products
  int batch = 1;            ///< independent products
};

/// Gets each step instead of the GPU; `enqueue` does it.
using StepObserver = std::function<void(const StepCost& cost, const Queue& queue,
                                        const std::function<void(const Queue& queue)>& enqueue)>;

StepCost cost_of(Math math, const GemmArguments& a);
StepCost cost_of(Math math, const GemmNormArguments& a);
StepCost cost_of(Math math, const AttentionArguments& a);
StepCost cost_of(Math math, const MaskBlockArguments& a);
StepCost cost_of(Math math, const EmbedArguments& a);
StepCost cost_of(Math math, const NormArguments& a);
StepCost cost_of(Math math, const MaskRowsArguments& a);
StepCost cost_of(Math math, const ClassMaxArguments& a);
StepCost cost_of(Math math, const SelectArguments& a);
StepCost cost_of(Math math, const ReferenceArguments& a);
StepCost cost_of(Math math, const RefineArguments& a);
StepCost cost_of(Math math, const StartQueriesArguments& a);
StepCost cost_of(Math math, const SampleArguments& a);
StepCost cost_of(Math math, const ResizeArguments& a);
StepCost cost_of(Math math, const DepthwiseArguments& a);
StepCost cost_of(Math math, const SpreadArguments& a);
StepCost cost_of(Math math, const ClassScoresArguments& a);
StepCost cost_of(Math math, const QueryStartArguments& a);
StepCost cost_of(Math math, const QueryAttentionArguments& a);
StepCost cost_of(Math math, const QueryForwardArguments& a);
StepCost cost_of(Math math, const QueryHeadsArguments& a);
StepCost cost_of(Math math, const QueryMasksArguments& a);

/// The functions of products.h and small_kernels.h under their names, offered to an observer first.
class Steps {
 protected:
  explicit Steps(const StepObserver* observer) : observer_(observer) {}

#define RFSEG_STEP(function, Arguments)                                                           \
  void function(const Queue& queue, Math math, const Arguments& a) const {                        \
    if (observer_ == nullptr) return cuda::function(queue, math, a);                              \
    (*observer_)(cost_of(math, a), queue, [=](const Queue& on) { cuda::function(on, math, a); }); \
  }
#define RFSEG_FLOAT_STEP(function, Arguments)                                                      \
  void function(const Queue& queue, const Arguments& a) const {                                    \
    if (observer_ == nullptr) return cuda::function(queue, a);                                     \
    (*observer_)(cost_of(Math::kFp32, a), queue, [=](const Queue& on) { cuda::function(on, a); }); \
  }
  RFSEG_STEP(gemm, GemmArguments)
  RFSEG_STEP(gemm_norm, GemmNormArguments)
  RFSEG_STEP(attention, AttentionArguments)
  RFSEG_STEP(mask_block, MaskBlockArguments)
  RFSEG_STEP(embed, EmbedArguments)
  RFSEG_STEP(norm_rows, NormArguments)
  RFSEG_STEP(mask_rows, MaskRowsArguments)
  RFSEG_FLOAT_STEP(class_max, ClassMaxArguments)
  RFSEG_FLOAT_STEP(select_cells, SelectArguments)
  RFSEG_STEP(make_references, ReferenceArguments)
  RFSEG_FLOAT_STEP(refine_boxes, RefineArguments)
  RFSEG_STEP(start_queries, StartQueriesArguments)
  RFSEG_STEP(sample_values, SampleArguments)
  RFSEG_STEP(resize_map, ResizeArguments)
  RFSEG_STEP(depthwise_norm, DepthwiseArguments)
  RFSEG_STEP(spread_2x2, SpreadArguments)
  RFSEG_STEP(class_scores, ClassScoresArguments)
  RFSEG_STEP(query_start, QueryStartArguments)
  RFSEG_STEP(query_attention, QueryAttentionArguments)
  RFSEG_STEP(query_forward, QueryForwardArguments)
  RFSEG_STEP(query_heads, QueryHeadsArguments)
  RFSEG_STEP(query_masks, QueryMasksArguments)
#undef RFSEG_STEP
#undef RFSEG_FLOAT_STEP

 private:
  const StepObserver* observer_;
};

}  // namespace rfseg::cuda
