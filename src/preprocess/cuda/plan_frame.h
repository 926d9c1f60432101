#pragma once

#include "preprocess/cuda/plan.h"

namespace rfseg::cuda {

/// Where the input's pixels come from.
void describe_input(const ImageView& view, const PreprocessSpec& spec, FrameRecord& frame);

/// Decides how the rows of a frame come into `row_bytes` of shared memory, with `frame`'s steps,
/// row_steps and pitch known; `widest`: inputs of its widest window.
void plan_reading(const ImageView& view, int widest, int row_bytes, FrameRecord& frame);

}  // namespace rfseg::cuda
