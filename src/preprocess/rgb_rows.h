#pragma once

#include <array>
#include <cstdint>

#include "core/tensor.h"
#include "rfseg/image.h"

namespace rfseg {

/// A rectangle of a picture, pixels.
struct CropRect {
  int x = 0, y = 0, width = 0, height = 0;
};

/// Hands out the rows of a cropped picture one by one in an interleaved 8-bit format, so that no
/// full-size copy is needed: RGB, BGR, RGBA and grey rows are the picture's own memory, YUV rows
/// are converted in bands of `band_rows` as they are asked for.
class RgbRows {
 public:
  RgbRows(const ImageView& image, const CropRect& crop, int band_rows);

  int width() const { return crop_.width; }
  int height() const { return crop_.height; }
  /// Format of the rows: kRgb8, kBgr8, kRgba8 or kGray8.
  PixelFormat format() const { return format_; }
  int bytes_per_pixel() const { return bytes_per_pixel_; }
  /// Row `y` of the crop: width() * bytes_per_pixel() bytes that may be read, and not one more.
  /// Rows of the two bands asked for last stay valid; rows of the picture itself all do.
  const uint8_t* row(int y);

 private:
  ImageView image_;
  CropRect crop_;
  PixelFormat format_;
  int bytes_per_pixel_;
  bool convert_;
  int band_rows_;
  int newest_ = 0;  ///< index of the band converted last
  std::array<int, 2> band_first_{-1, -1};
  std::array<AlignedVector<uint8_t>, 2> bands_;
};

/// Byte offsets of R, G and B in a pixel of an interleaved format.
struct ChannelOffsets {
  int r, g, b;
};
ChannelOffsets channel_offsets(PixelFormat format);

/// Copies a cropped picture of any format to tightly packed RGB.
void copy_to_rgb(const ImageView& image, const CropRect& crop, uint8_t* rgb);

}  // namespace rfseg
