#pragma once

#include <cstddef>
#include <cstdint>

namespace rfseg {

/// Resizes packed 8-bit RGB as cv2.resize(..., INTER_LINEAR) does, bit for bit: half-pixel centres,
/// two taps an axis with 11-bit weights, no antialias; exactly half the size averages 2x2 pixels.
/// Rows of `out` are `out_stride` bytes apart. Sides are 1 to 65535.
/// Source: opencv/opencv 4.x, modules/imgproc/src/resize.cpp.
void cv_resize_linear(const uint8_t* rgb, int width, int height, uint8_t* out, int out_width,
                      int out_height, std::size_t out_stride);

}  // namespace rfseg
