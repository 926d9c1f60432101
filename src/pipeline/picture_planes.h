#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "rfseg/error.h"
#include "rfseg/image.h"

namespace rfseg {

/// One plane of a picture as rows of bytes.
struct Plane {
  std::size_t row_bytes = 0;
  int rows = 0;
};

inline std::vector<Plane> planes_of(const ImageView& view) {
  const auto width = static_cast<std::size_t>(view.width);
  const std::size_t half = (width + 1) / 2;
  const int half_rows = (view.height + 1) / 2;
  switch (view.format) {
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8:
      return {{width * 3, view.height}};
    case PixelFormat::kRgba8:
      return {{width * 4, view.height}};
    case PixelFormat::kGray8:
      return {{width, view.height}};
    case PixelFormat::kNv12:
      return {{width, view.height}, {half * 2, half_rows}};
    case PixelFormat::kI420:
      return {{width, view.height}, {half, half_rows}, {half, half_rows}};
    case PixelFormat::kP010:
      return {{width * 2, view.height}, {half * 4, half_rows}};
  }
  throw Error(ErrorCode::kInternal, "a pixel format without planes");
}

/// Copies a plane, top row first.
inline void copy_plane(void* to, std::ptrdiff_t to_stride, const uint8_t* from,
                       std::ptrdiff_t from_stride, const Plane& plane) {
  auto* row = static_cast<uint8_t*>(to);
  if (to_stride == from_stride && static_cast<std::size_t>(to_stride) == plane.row_bytes) {
    std::memcpy(row, from, plane.row_bytes * static_cast<std::size_t>(plane.rows));
    return;
  }
  for (int y = 0; y < plane.rows; ++y, row += to_stride, from += from_stride) {
    std::memcpy(row, from, plane.row_bytes);
  }
}

}  // namespace rfseg
