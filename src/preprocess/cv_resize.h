#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rfseg {

/// Resizes packed 8-bit RGB as cv2.resize(..., INTER_LINEAR) does, bit for bit: half-pixel centres,
/// two taps an axis with 11-bit weights, no antialias; exactly half the size averages 2x2 pixels.
/// Rows of `out` are `out_stride` bytes apart. Sides are 1 to 65535.
/// Source: opencv/opencv 4.x, modules/imgproc/src/resize.cpp.
void cv_resize_linear(const uint8_t* rgb, int width, int height, uint8_t* out, int out_width,
                      int out_height, std::size_t out_stride);

/// One axis of the same: inputs low and high with weights summing to 2048.
struct CvAxis {
  std::vector<int> low, high;
  std::vector<int> weight0, weight1;
};
/// `clamp_fraction`: of the horizontal axis.
CvAxis make_cv_axis(int in, int out, bool clamp_fraction);

}  // namespace rfseg
