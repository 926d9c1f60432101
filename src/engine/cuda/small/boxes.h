#pragma once

#include <cmath>

#include "core/cuda/simt.h"

// Boxes of the decoder on the GPU: centre and size, as in engine/two_stage.h.

namespace rfseg::cuda {

struct Box {
  float v[4];
};

RFSEG_DEVICE Box refine(const float* delta, const Box& base) {
  return {{delta[0] * base.v[2] + base.v[0], delta[1] * base.v[3] + base.v[1],
           expf(delta[2]) * base.v[2], expf(delta[3]) * base.v[3]}};
}
/// v[i], without a place in memory for the array.
RFSEG_DEVICE float pick(const Box& box, int i) {
  return i < 2 ? (i == 0 ? box.v[0] : box.v[1]) : (i == 2 ? box.v[2] : box.v[3]);
}
RFSEG_DEVICE Box box_at(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }

/// The decoder's reference: the learned box of the query, refined by the cell's, if there is one.
RFSEG_DEVICE Box reference_of(const Box& learned, const float* delta, bool no_cell,
                              const Box& proposal) {
  return no_cell ? learned : refine(learned.v, refine(delta, proposal));
}

/// The sine embedding of a box has blocks of dim / 2 channels for cy, cx, w, h, each of dim / 4
/// pairs of a sine and a cosine: the number that block `block` is of, and a pair's period.
RFSEG_DEVICE float embedded(const Box& box, int block) {
  return pick(box, block < 2 ? 1 - block : block);
}
RFSEG_DEVICE float period_of(int pair, int dim) {
  return powf(10000.0f, static_cast<float>(2 * pair) / static_cast<float>(dim / 2));
}
RFSEG_DEVICE float angle_of(float number, float period) {
  return number * 2 * 3.14159265358979f / period;
}

}  // namespace rfseg::cuda
