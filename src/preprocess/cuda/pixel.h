#pragma once

#include "core/cuda/simt_matrix.h"
#include "preprocess/color_formula.h"
#include "preprocess/cuda/records.h"

// One pixel of a frame's input, whatever its format and placement.

namespace rfseg::cuda {

RFSEG_DEVICE int sample16(const uint8_t* row, int i) {
  return (load_constant(row + 2 * i) | load_constant(row + 2 * i + 1) << 8) >> 6;
}

/// Of the picture itself.
template <FrameFormat format>
RFSEG_DEVICE Rgb picture_pixel(const FrameRecord& f, int x, int y) {
  const uint8_t* const row = f.planes[0] + y * f.strides[0];
  const auto at = [&](int i) { return static_cast<int32_t>(load_constant(row + i)); };
  if constexpr (format == FrameFormat::kRgb) {
    return {at(3 * x), at(3 * x + 1), at(3 * x + 2)};
  } else if constexpr (format == FrameFormat::kBgr) {
    return {at(3 * x + 2), at(3 * x + 1), at(3 * x)};
  } else if constexpr (format == FrameFormat::kRgba) {
    return {at(4 * x), at(4 * x + 1), at(4 * x + 2)};
  } else if constexpr (format == FrameFormat::kGray) {
    const int32_t v = at(x);
    return {v, v, v};
  } else {
    const int c = x / 2;
    const uint8_t* const chroma = f.planes[1] + (y / 2) * f.strides[1];
    if constexpr (format == FrameFormat::kNv12) {
      return yuv_to_rgb(at(x), load_constant(chroma + 2 * c), load_constant(chroma + 2 * c + 1),
                        f.yuv);
    } else if constexpr (format == FrameFormat::kI420) {
      const uint8_t* const other = f.planes[2] + (y / 2) * f.strides[2];
      return yuv_to_rgb(at(x), load_constant(chroma + c), load_constant(other + c), f.yuv);
    } else {
      return yuv_to_rgb(sample16(row, x), sample16(chroma, 2 * c), sample16(chroma, 2 * c + 1),
                        f.yuv);
    }
  }
}

/// Calls `body` with the format as a type's value.
template <FrameFormat format>
struct FormatOf {
  static constexpr FrameFormat value = format;
};
template <class Body>
RFSEG_DEVICE void with_format(FrameFormat format, Body&& body) {
  switch (format) {
    case FrameFormat::kRgb:
      return body(FormatOf<FrameFormat::kRgb>());
    case FrameFormat::kBgr:
      return body(FormatOf<FrameFormat::kBgr>());
    case FrameFormat::kRgba:
      return body(FormatOf<FrameFormat::kRgba>());
    case FrameFormat::kGray:
      return body(FormatOf<FrameFormat::kGray>());
    case FrameFormat::kNv12:
      return body(FormatOf<FrameFormat::kNv12>());
    case FrameFormat::kI420:
      return body(FormatOf<FrameFormat::kI420>());
    case FrameFormat::kP010:
      return body(FormatOf<FrameFormat::kP010>());
  }
}
RFSEG_DEVICE Rgb picture_pixel(const FrameRecord& f, int x, int y) {
  Rgb result{0, 0, 0};
  with_format(f.format,
              [&](auto format) { result = picture_pixel<decltype(format)::value>(f, x, y); });
  return result;
}

RFSEG_DEVICE uint32_t pack(const Rgb& p) {
  return static_cast<uint32_t>(p.r | p.g << 8 | p.b << 16);
}

/// Whether the input is the picture's own pixels from (origin_x, origin_y) on.
RFSEG_DEVICE bool is_direct(const FrameRecord& f) {
  return f.scaling == Scaling::kNone && f.place_width == f.in_width &&
         f.place_height == f.in_height;
}

// Static: the host part that nvcc makes of it must not meet the emulator's function of this name.
/// Of the input, as R | G << 8 | B << 16. The canvas is resized as cv_resize.cpp does.
static RFSEG_DEVICE_CALL uint32_t input_pixel(const FrameRecord& f, const std::byte* parameters,
                                              int x, int y) {
  const auto packed = [](int32_t r, int32_t g, int32_t b) {
    return static_cast<uint32_t>(r | g << 8 | b << 16);
  };
  x -= f.place_x;
  y -= f.place_y;
  if (x < 0 || y < 0 || x >= f.place_width || y >= f.place_height) {
    return packed(f.fill, f.fill, f.fill);
  }
  const int ox = f.origin_x, oy = f.origin_y;
  if (f.scaling == Scaling::kNone) {
    const Rgb p = picture_pixel(f, x + ox, y + oy);
    return packed(p.r, p.g, p.b);
  }
  CvTaps across, down;
  if (f.scaling == Scaling::kHalve) {
    across = {2 * x, 2 * x + 1, 0, 0};
    down = {2 * y, 2 * y + 1, 0, 0};
  } else {
    across = reinterpret_cast<const CvTaps*>(parameters + f.scale_columns)[x];
    down = reinterpret_cast<const CvTaps*>(parameters + f.scale_rows)[y];
  }
  const Rgb a = picture_pixel(f, across.low + ox, down.low + oy);
  const Rgb b = picture_pixel(f, across.high + ox, down.low + oy);
  const Rgb c = picture_pixel(f, across.low + ox, down.high + oy);
  const Rgb d = picture_pixel(f, across.high + ox, down.high + oy);
  if (f.scaling == Scaling::kHalve) {
    return packed((a.r + b.r + c.r + d.r + 2) >> 2, (a.g + b.g + c.g + d.g + 2) >> 2,
                  (a.b + b.b + c.b + d.b + 2) >> 2);
  }
  const auto blend = [&](int32_t p, int32_t q, int32_t r, int32_t s) {
    const int32_t upper = p * across.weight0 + q * across.weight1;
    const int32_t lower = r * across.weight0 + s * across.weight1;
    const int32_t sum =
        ((down.weight0 * (upper >> 4)) >> 16) + ((down.weight1 * (lower >> 4)) >> 16);
    return (sum + 2) >> 2 & 255;
  };
  return packed(blend(a.r, b.r, c.r, d.r), blend(a.g, b.g, c.g, d.g), blend(a.b, b.b, c.b, d.b));
}

/// byte / 255, correctly rounded for all 256 bytes.
RFSEG_DEVICE float unit_of_byte(uint32_t byte) {
  const float x = static_cast<float>(byte);
  const float reciprocal = 1.0f / 255.0f;
  const float quotient = x * reciprocal;
  return fused(fused(-quotient, 255.0f, x), reciprocal, quotient);
}

}  // namespace rfseg::cuda
