#pragma once

#include "core/cuda/host_device.h"

namespace rfseg {

/// One axis of a box: a normalised network coordinate v is
/// (v * factor - shift) / divisor + offset in pixels of the picture, float32, each step rounded.
struct BoxAxis {
  float factor = 1, shift = 0, divisor = 1, offset = 0;
  float limit = 0;  ///< results are clipped to [0, limit]
};

/// Clips as torch.clamp does, but NaN becomes 0.
RFSEG_HOST_DEVICE float clip_coordinate(float v, float limit) {
  return v > 0.0f ? (v < limit ? v : limit) : 0.0f;
}

/// Turns one normalised cx, cy, w, h into x1, y1, x2, y2 in pixels of the picture. A coordinate
/// that is not a number becomes 0. `inference`: by that convention, else by rfdetr's.
RFSEG_HOST_DEVICE void place_box(const float cxcywh[4], const BoxAxis& x, const BoxAxis& y,
                                 bool inference, float xyxy[4]) {
  for (int side = 0; side < 4; ++side) {
    const int d = side & 1;
    const BoxAxis& axis = d == 0 ? x : y;
    float size = cxcywh[2 + d];
    if (!inference && size < 0.0f) size = 0.0f;
    const float half = 0.5f * size;
    const float v = side < 2 ? cxcywh[d] - half : cxcywh[d] + half;
    float pixel = v * axis.factor;
    pixel = pixel - axis.shift;
    pixel = pixel / axis.divisor;
    pixel = clip_coordinate(pixel + axis.offset, axis.limit);
#if defined(__CUDA_ARCH__)
    xyxy[side] = inference ? rintf(pixel) : pixel;
#else
    xyxy[side] = inference ? __builtin_nearbyintf(pixel) : pixel;
#endif
  }
}

}  // namespace rfseg
