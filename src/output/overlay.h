#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "rfseg/detections.h"
#include "rfseg/image.h"

namespace rfseg {

/// The colour of a class, R,G,B, the same in every picture, run and program version.
std::array<uint8_t, 3> class_color(int class_id);

/// Draws translucent masks with outlines, boxes where there is no mask, and labels ("cat 0.93")
/// that do not cover each other, sized for the picture, onto `image` (RGB) in place. Detections are
/// drawn from the lowest score to the highest. Thread-safe.
void draw_detections(Image& image, const Detections& detections,
                     const std::vector<std::string>& class_names);

}  // namespace rfseg
