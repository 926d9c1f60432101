#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/coco_rle.h"
#include "rfseg/image.h"

namespace rfseg {

/// The picture with its longer side at most `max_side` pixels, by averaging areas; a copy where it
/// is no larger.
Image shrink_image(const Image& image, int max_side);

/// The mask sampled at the centres of the pixels of a height x width grid over it.
Rle resample_mask(const Rle& mask, int height, int width);

void append_base64(std::string& out, const std::vector<uint8_t>& bytes);

}  // namespace rfseg
