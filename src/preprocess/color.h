#pragma once

#include <cstdint>

#include "rfseg/image.h"

namespace rfseg {

/// Writes `image` (any PixelFormat) as packed RGB, height rows of width * 3 bytes.
/// YUV uses one integer formula (documented in color.cpp) that a GPU repeats bit for bit, within 2
/// levels of FFmpeg's swscale. Chroma is taken from the nearest co-sited half-size sample.
void convert_to_rgb(const ImageView& image, uint8_t* rgb);

}  // namespace rfseg
