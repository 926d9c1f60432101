#pragma once

#include <cstdint>
#include <vector>

#include "postprocess/column_rule.h"
#include "postprocess/kernels.h"
#include "postprocess/postprocess.h"

namespace rfseg {

/// One surviving (query, class) pair.
struct Selected {
  int query = 0;
  int class_id = 0;  ///< output class id
  float score = 0;
};

/// Class map and thresholds, one rule a logit column.
std::vector<ColumnRule> column_rules(const PostprocessSpec& spec, int classes);

/// The detections in order of descending score, ties by ascending query * K + class: the first
/// num_select of all pairs, then class map, threshold and max_detections. Pairs whose logit is NaN
/// take no part. Plain: every score, one stable sort.
std::vector<Selected> select_reference(const NetworkOutputs& outputs, const PostprocessSpec& spec);

/// The same answer from one read of the logits: only pairs at or above the lowest threshold's logit
/// are scored and ordered.
std::vector<Selected> select_fast(const NetworkOutputs& outputs, const PostprocessSpec& spec,
                                  const Kernels& kernels);

/// The smallest float whose sigmoid is > `threshold`; +Inf as NaN-free "none" when there is none
/// is told by the return value.
bool lowest_passing_logit(float threshold, float* logit);

}  // namespace rfseg
