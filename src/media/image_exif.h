#pragma once

#include <cstddef>
#include <cstdint>

#include "rfseg/image.h"

namespace rfseg {

/// The orientation (1 to 8) of an EXIF block, which is a TIFF header and directories, with or
/// without the "Exif\0\0" that precedes it in JPEG. 1 where it is missing or malformed.
int exif_orientation(const uint8_t* data, std::size_t size);

/// The picture turned upright, as PIL.ImageOps.exif_transpose does.
Image apply_orientation(Image image, int orientation);

}  // namespace rfseg
