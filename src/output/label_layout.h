#pragma once

#include <optional>
#include <vector>

namespace rfseg {

struct PixelRect {
  int x = 0, y = 0, width = 0, height = 0;
  bool overlaps(const PixelRect& other) const {
    return x < other.x + other.width && other.x < x + width && y < other.y + other.height &&
           other.y < y + height;
  }
};

/// A label that wants a place near its object.
struct LabelRequest {
  PixelRect object;
  int peak_x = 0;  ///< column of the object's highest point, where a label above it looks attached
  int width = 0, height = 0;
};

/// A place for each label inside a width x height picture, so that no two overlap: above the
/// object, else in or under it, else the nearest free place around. Earlier requests choose first;
/// where nothing is free, or the label is larger than the picture, there is no place.
std::vector<std::optional<PixelRect>> place_labels(const std::vector<LabelRequest>& requests,
                                                   int width, int height);

}  // namespace rfseg
