#include "postprocess/mask_geometry.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/coco_rle.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr int kMaxSide = 65535;

/// One axis of PreprocessGeometry.
struct Axis {
  int original, crop_offset, crop_size, pad_before, pad_after, target;
  double scale;

  /// Size that the cropped picture has in the intermediate (or network) picture.
  int placed() const { return target - pad_before - pad_after; }
};

Axis axis_x(const PreprocessGeometry& g) {
  const int target = g.intermediate_width > 0 ? g.intermediate_width : g.network_width;
  return {g.original_width, g.crop_x, g.crop_width, g.pad_left, g.pad_right, target, g.scale_x};
}

Axis axis_y(const PreprocessGeometry& g) {
  const int target = g.intermediate_height > 0 ? g.intermediate_height : g.network_height;
  return {g.original_height, g.crop_y, g.crop_height, g.pad_top, g.pad_bottom, target, g.scale_y};
}

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kInput, "picture geometry: " + message);
}

void check_axis(const Axis& axis, const char* name, Convention like) {
  if (axis.original < 1 || axis.original > kMaxSide) {
    fail(fmt::format("the picture's {} of {} pixels is not in 1..{}", name, axis.original,
                     kMaxSide));
  }
  if (axis.crop_size < 1 || axis.crop_offset < 0 ||
      axis.crop_size > axis.original - axis.crop_offset) {
    fail(fmt::format("the crop of {} pixels at {} is not inside the picture's {} of {}",
                     axis.crop_size, axis.crop_offset, name, axis.original));
  }
  if (axis.target < 1 || axis.target > kMaxSide) {
    fail(fmt::format("the network's or intermediate {} of {} pixels is not in 1..{}", name,
                     axis.target, kMaxSide));
  }
  constexpr int kMaxPad = 1 << 20;
  if (std::abs(int64_t{axis.pad_before}) > kMaxPad || std::abs(int64_t{axis.pad_after}) > kMaxPad) {
    fail(fmt::format("the pads {} and {} are over {} pixels", axis.pad_before, axis.pad_after,
                     kMaxPad));
  }
  if (axis.placed() < 1) {
    fail(fmt::format("the pads {} and {} leave nothing of the intermediate {} of {} pixels",
                     axis.pad_before, axis.pad_after, name, axis.target));
  }
  if (like == Convention::kInference && !(axis.scale > 0 && std::isfinite(axis.scale))) {
    fail(fmt::format("the {} scale {} is not a positive number", name, axis.scale));
  }
}

/// First pixel o of `size` with (o + 0.5) * placed / size + before >= bound, in exact integers.
int first_pixel(const Axis& axis, int bound) {
  // (2o + 1) * placed >= 2 * (bound - before) * size
  const int64_t right = 2 * (int64_t{bound} - axis.pad_before) * axis.crop_size;
  const int64_t placed = axis.placed();
  const int64_t odd = right <= 0 ? 0 : (right + placed - 1) / placed;  // ceiling
  return static_cast<int>(std::clamp<int64_t>(odd / 2, 0, axis.crop_size));
}

/// The conventions of rfdetr: the picture's pixel, taken through crop, placement and stretch, is
/// sampled where the network saw it; what the network did not see is background.
AxisMap sampled_axis(const Axis& axis, int cells) {
  AxisMap map;
  map.sampling = Sampling::kPlain;
  map.cells = cells;
  map.extent = axis.original;
  map.origin = axis.crop_offset;
  map.begin = axis.crop_offset + first_pixel(axis, 0);
  map.end = axis.crop_offset + first_pixel(axis, axis.target);
  const double cells_per_target = static_cast<double>(cells) / axis.target;
  map.scale = static_cast<float>(static_cast<double>(int64_t{cells} * axis.placed()) /
                                 static_cast<double>(int64_t{axis.target} * axis.crop_size));
  map.offset = static_cast<float>(axis.pad_before * cells_per_target - 0.5);
  return map;
}

AxisMap resized_axis(const Axis& axis, int cells) {
  AxisMap map;
  map.sampling = Sampling::kAntialias;
  map.cells = cells;
  map.extent = axis.original;
  map.origin = axis.crop_offset;
  map.begin = axis.crop_offset;
  map.end = axis.crop_offset + axis.crop_size;
  map.scale = static_cast<float>(cells) / static_cast<float>(axis.crop_size);
  return map;
}

/// Pads in cells, as Python's round(): half to even.
int grid_pad(int pad, int cells, int target) {
  const double ratio = static_cast<double>(cells) / target;
  return static_cast<int>(std::nearbyint(ratio * pad));
}

}  // namespace

void check_geometry(const PreprocessGeometry& geometry, Convention like) {
  check_axis(axis_x(geometry), "width", like);
  check_axis(axis_y(geometry), "height", like);
  if (int64_t{geometry.original_height} * geometry.original_width > kMostMaskPixels) {
    fail(fmt::format("a picture of {}x{} pixels is over the limit of 2^30",
                     geometry.original_height, geometry.original_width));
  }
}

MaskGeometry mask_geometry(const PreprocessGeometry& geometry, Convention like, int rows,
                           int columns) {
  const Axis x = axis_x(geometry), y = axis_y(geometry);
  MaskGeometry mask;
  mask.height = geometry.original_height;
  mask.width = geometry.original_width;
  mask.rows = rows;
  mask.columns = columns;
  if (like != Convention::kInference) {
    mask.x = sampled_axis(x, columns);
    mask.y = sampled_axis(y, rows);
    return mask;
  }
  mask.pad_left = grid_pad(x.pad_before, columns, x.target);
  mask.pad_right = grid_pad(x.pad_after, columns, x.target);
  mask.pad_top = grid_pad(y.pad_before, rows, y.target);
  mask.pad_bottom = grid_pad(y.pad_after, rows, y.target);
  const int64_t source_columns = int64_t{columns} - mask.pad_left - mask.pad_right;
  const int64_t source_rows = int64_t{rows} - mask.pad_top - mask.pad_bottom;
  if (source_columns < 1 || source_rows < 1) {
    fail(fmt::format("its pads leave nothing of a mask of {}x{} cells", rows, columns));
  }
  if (source_columns * source_rows > kMostMaskPixels) {
    fail(fmt::format("its pads make a mask of {}x{} cells, over the limit of 2^30", source_rows,
                     source_columns));
  }
  mask.x = resized_axis(x, static_cast<int>(source_columns));
  mask.y = resized_axis(y, static_cast<int>(source_rows));
  if (source_columns == x.crop_size && source_rows == y.crop_size) {
    mask.x.sampling = mask.y.sampling = Sampling::kIdentity;
  }
  return mask;
}

GridView MaskGeometry::source(const float* data, std::vector<float>& storage) const {
  GridView view;
  view.rows = rows - pad_top - pad_bottom;
  view.columns = columns - pad_left - pad_right;
  if (pad_left >= 0 && pad_top >= 0 && pad_right >= 0 && pad_bottom >= 0) {
    view.data = data + static_cast<std::ptrdiff_t>(pad_top) * columns + pad_left;
    view.stride = columns;
    return view;
  }
  storage.assign(static_cast<std::size_t>(view.rows) * view.columns, 0.0f);
  for (int row = 0; row < view.rows; ++row) {
    const int from = row + pad_top;
    if (from < 0 || from >= rows) continue;
    const int first = std::max(0, -pad_left);
    const int last = std::min(view.columns, columns - pad_left);
    if (first >= last) continue;
    std::copy_n(data + static_cast<std::ptrdiff_t>(from) * columns + first + pad_left, last - first,
                storage.data() + static_cast<std::ptrdiff_t>(row) * view.columns + first);
  }
  view.data = storage.data();
  view.stride = view.columns;
  return view;
}

namespace {

BoxAxis box_axis(const Axis& axis, Convention like) {
  BoxAxis box;
  box.limit = static_cast<float>(axis.original);
  if (like == Convention::kInference) {
    box.factor = static_cast<float>(axis.target);
    box.shift = static_cast<float>(axis.pad_before);
    box.divisor = static_cast<float>(axis.scale);
    box.offset = static_cast<float>(axis.crop_offset);
    return box;
  }
  const double pixels_per_target = static_cast<double>(axis.crop_size) / axis.placed();
  box.factor = static_cast<float>(static_cast<double>(int64_t{axis.target} * axis.crop_size) /
                                  axis.placed());
  box.offset = static_cast<float>(axis.crop_offset - axis.pad_before * pixels_per_target);
  return box;
}

}  // namespace

BoxAxis box_axis_x(const PreprocessGeometry& geometry, Convention like) {
  return box_axis(axis_x(geometry), like);
}

BoxAxis box_axis_y(const PreprocessGeometry& geometry, Convention like) {
  return box_axis(axis_y(geometry), like);
}

}  // namespace rfseg
