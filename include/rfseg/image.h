#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "rfseg/export.h"

namespace rfseg {

/// Memory layout of 8-bit pixels (10-bit in 16 for P010). All rows run top to bottom.
enum class PixelFormat {
  kRgb8,   ///< interleaved R,G,B
  kBgr8,   ///< interleaved B,G,R
  kRgba8,  ///< interleaved R,G,B,A; alpha is ignored
  kGray8,  ///< one channel, replicated to three
  kNv12,   ///< planes Y, UV (interleaved, half size)
  kI420,   ///< planes Y, U, V (half size)
  kP010    ///< as NV12 with little-endian 16-bit samples, 10 significant high bits
};

/// Which matrix and range YUV pixels are in. Ignored for RGB.
enum class YuvMatrix { kBt601, kBt709 };
enum class YuvRange { kLimited, kFull };

/// Borrowed pixels. `planes[i]` points to the first row of plane i, `strides[i]` is the distance in
/// bytes between its rows (negative for bottom-up pictures). Unused planes are nullptr.
struct ImageView {
  const uint8_t* planes[3] = {nullptr, nullptr, nullptr};
  std::ptrdiff_t strides[3] = {0, 0, 0};
  int width = 0;   ///< pixels
  int height = 0;  ///< pixels
  PixelFormat format = PixelFormat::kRgb8;
  YuvMatrix matrix = YuvMatrix::kBt601;
  YuvRange range = YuvRange::kLimited;

  /// A view of tightly packed interleaved pixels in one of the one-plane formats.
  static ImageView packed(const uint8_t* data, int width, int height,
                          PixelFormat format = PixelFormat::kRgb8) {
    const int channels = format == PixelFormat::kGray8 ? 1 : format == PixelFormat::kRgba8 ? 4 : 3;
    ImageView view;
    view.planes[0] = data;
    view.strides[0] = static_cast<std::ptrdiff_t>(width) * channels;
    view.width = width;
    view.height = height;
    view.format = format;
    return view;
  }
};

/// An owned picture: interleaved 8-bit RGB, rows top to bottom without padding.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;  ///< height * width * 3

  Image() = default;
  Image(int w, int h) : width(w), height(h), pixels(static_cast<std::size_t>(w) * h * 3) {}
  ImageView view() const { return ImageView::packed(pixels.data(), width, height); }
  bool empty() const { return pixels.empty(); }
};

/// Decodes a JPEG, PNG, BMP, PPM, WebP or TIFF file, turned upright by its EXIF orientation.
/// Throws Error(kInput) naming the file. Thread-safe.
RFSEG_API Image read_image(const std::string& path);

}  // namespace rfseg
