#include "preprocess/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "preprocess/cv_resize.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr int kMaxSide = 65535;

void check_sides(const char* what, int height, int width) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
    throw Error(ErrorCode::kInput, fmt::format("{} of {}x{} pixels: each side must be 1 to {}",
                                               what, width, height, kMaxSide));
  }
}

/// Splits `total` padding: half of it, rounded towards zero, before the picture.
void split(int total, int& before, int& after) {
  before = total / 2;
  after = total - before;
}

}  // namespace

bool is_two_step(const PreprocessSpec& spec) {
  return spec.placement != Placement::kStretch && spec.intermediate_height > 0 &&
         spec.intermediate_width > 0;
}

CropRect static_crop_rect(int height, int width, const PreprocessSpec& spec) {
  CropRect rect{0, 0, width, height};
  if (!spec.static_crop) return rect;
  const StaticCrop& crop = *spec.static_crop;
  const auto in_order = [](int low, int high) { return 0 <= low && low < high && high <= 100; };
  if (!in_order(crop.x_min, crop.x_max) || !in_order(crop.y_min, crop.y_max)) {
    throw Error(ErrorCode::kInput,
                fmt::format("static crop x {}..{} y {}..{}: percentages must ascend within 0..100",
                            crop.x_min, crop.x_max, crop.y_min, crop.y_max));
  }
  const auto pixel = [](int percent, int size) { return static_cast<int>(percent / 100.0 * size); };
  rect.x = pixel(crop.x_min, width);
  rect.y = pixel(crop.y_min, height);
  rect.width = pixel(crop.x_max, width) - rect.x;
  rect.height = pixel(crop.y_max, height) - rect.y;
  if (rect.width < 1 || rect.height < 1) {
    throw Error(ErrorCode::kInput,
                fmt::format("static crop leaves nothing of a {}x{} picture", width, height));
  }
  return rect;
}

PreprocessGeometry preprocess_geometry(int height, int width, const PreprocessSpec& spec) {
  check_sides("picture", height, width);
  check_sides("network input", spec.network_height, spec.network_width);
  const CropRect crop = static_crop_rect(height, width, spec);
  PreprocessGeometry g =
      PreprocessGeometry::stretch(crop.height, crop.width, spec.network_height, spec.network_width);
  g.original_height = height;
  g.original_width = width;
  g.crop_x = crop.x;
  g.crop_y = crop.y;
  if (!is_two_step(spec)) return g;

  check_sides("intermediate picture", spec.intermediate_height, spec.intermediate_width);
  g.intermediate_height = spec.intermediate_height;
  g.intermediate_width = spec.intermediate_width;
  int placed_width = crop.width, placed_height = crop.height;
  g.scale_x = g.scale_y = 1;
  if (spec.placement == Placement::kLetterbox) {
    const double scale = std::min(static_cast<double>(g.intermediate_width) / crop.width,
                                  static_cast<double>(g.intermediate_height) / crop.height);
    placed_width = static_cast<int>(crop.width * scale);
    placed_height = static_cast<int>(crop.height * scale);
    g.scale_x = g.scale_y = scale;
    if (placed_width < 1 || placed_height < 1) {
      throw Error(ErrorCode::kInput,
                  fmt::format("a {}x{} picture is too narrow for a letterbox of {}x{}", crop.width,
                              crop.height, g.intermediate_width, g.intermediate_height));
    }
  }
  // What does not fit (centre crop only) is cut away: its pads are negative.
  split(g.intermediate_width - placed_width, g.pad_left, g.pad_right);
  split(g.intermediate_height - placed_height, g.pad_top, g.pad_bottom);
  return g;
}

bool pil_vertical_comes_first(const CropRect& input, const PreprocessSpec& spec) {
  const int shrink = input.height - spec.network_height;
  if (shrink <= 0) return false;
  if (spec.resize == ResizeMode::kPil) return input.height > input.width * 100;
  return shrink > (input.width - spec.network_width) * 2;
}

Image place_on_canvas(const ImageView& image, const CropRect& crop, const PreprocessGeometry& g,
                      const PreprocessSpec& spec) {
  Image canvas(g.intermediate_width, g.intermediate_height);
  const std::size_t canvas_row = static_cast<std::size_t>(canvas.width) * 3;
  if (spec.placement == Placement::kLetterbox) {
    std::fill(canvas.pixels.begin(), canvas.pixels.end(), static_cast<uint8_t>(spec.padding_value));
    AlignedVector<uint8_t> rgb(static_cast<std::size_t>(crop.width) * crop.height * 3);
    copy_to_rgb(image, crop, rgb.data());
    uint8_t* target =
        canvas.pixels.data() + g.pad_top * canvas_row + static_cast<std::size_t>(g.pad_left) * 3;
    cv_resize_linear(rgb.data(), crop.width, crop.height, target,
                     g.intermediate_width - g.pad_left - g.pad_right,
                     g.intermediate_height - g.pad_top - g.pad_bottom, canvas_row);
    return canvas;
  }
  CropRect part = crop;
  part.x += std::max(0, -g.pad_left);
  part.y += std::max(0, -g.pad_top);
  part.width = std::min(crop.width, g.intermediate_width);
  part.height = std::min(crop.height, g.intermediate_height);
  AlignedVector<uint8_t> rgb(static_cast<std::size_t>(part.width) * part.height * 3);
  copy_to_rgb(image, part, rgb.data());
  const std::size_t part_row = static_cast<std::size_t>(part.width) * 3;
  for (int y = 0; y < part.height; ++y) {
    std::memcpy(canvas.pixels.data() + (std::max(0, g.pad_top) + y) * canvas_row +
                    static_cast<std::size_t>(std::max(0, g.pad_left)) * 3,
                rgb.data() + y * part_row, part_row);
  }
  return canvas;
}

}  // namespace rfseg
