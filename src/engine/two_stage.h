#pragma once

#include <cstdint>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "engine/model_weights.h"

// The parts between encoder and decoder that every backend shares: they are small, delicate (their
// order decides which learned query meets which proposal) and always fp32.

namespace rfseg {

/// One proposal per cell of every level, levels in order, cells row-major.
struct Proposals {
  std::vector<MapSize> levels;
  int64_t count = 0;           ///< N, cells of all levels
  Tensor boxes;                ///< [N, 4] cx,cy,w,h in 0..1; zeros where not valid
  std::vector<uint8_t> valid;  ///< [N]: all four coordinates in the open interval (0.01, 0.99)
  bool all_valid = true;
};

/// Source: gen_encoder_output_proposals in models/transformer.py of roboflow/rf-detr 1.4.1.
Proposals make_proposals(const ModelConfig& config);

/// Indices of the `k` (<= n) largest of `n` scores in descending order; equal scores by lower index
/// and NaN before every number, so that the result is always well defined.
std::vector<int32_t> select_topk(const float* scores, int64_t n, int64_t k);

/// The selection of image `image`: `forced` ([B, Q], may be null) or else the top-k of `scores`.
/// min(Q, N) indices. Throws Error(kUsage) if a forced index is not in 0..N-1.
std::vector<int32_t> choose_queries(const ModelConfig& config, const int32_t* forced, int image,
                                    const float* scores, int64_t n);

/// One box: (delta.xy * base.wh + base.xy, exp(delta.wh) * base.wh), cx,cy,w,h. `out` may be either
/// input.
void refine_box(const float* delta, const float* base, float* out);

/// Sine embedding of cx,cy,w,h boxes [n, 4] to [n, 2 * dim]: blocks of dim/2 for cy, cx, w, h, each
/// sin at even and cos at odd channels of 2 * pi * u / 10000^(2k / (dim/2)).
/// Source: gen_sineembed_for_position in models/transformer.py of roboflow/rf-detr 1.4.1.
void sine_embedding(const float* boxes, int64_t n, int dim, float* out);

}  // namespace rfseg
