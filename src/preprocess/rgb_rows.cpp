#include "preprocess/rgb_rows.h"

#include <algorithm>

#include "preprocess/color.h"

namespace rfseg {
namespace {

bool is_yuv(PixelFormat format) {
  return format == PixelFormat::kNv12 || format == PixelFormat::kI420 ||
         format == PixelFormat::kP010;
}

int pixel_bytes(PixelFormat format) {
  if (format == PixelFormat::kGray8) return 1;
  return format == PixelFormat::kRgba8 ? 4 : 3;
}

}  // namespace

ChannelOffsets channel_offsets(PixelFormat format) {
  if (format == PixelFormat::kGray8) return {0, 0, 0};
  if (format == PixelFormat::kBgr8) return {2, 1, 0};
  return {0, 1, 2};
}

RgbRows::RgbRows(const ImageView& image, const CropRect& crop, int band_rows)
    : image_(image), crop_(crop), convert_(is_yuv(image.format)) {
  format_ = convert_ ? PixelFormat::kRgb8 : image.format;
  bytes_per_pixel_ = pixel_bytes(format_);
  // Chroma rows serve two luma rows, so a band starts on an even row.
  band_rows_ = std::max(2, band_rows & ~1);
  if (convert_) {
    for (auto& band : bands_) {
      band.resize(static_cast<std::size_t>(std::min(band_rows_, image.height)) * image.width * 3);
    }
  }
}

const uint8_t* RgbRows::row(int y) {
  const int picture_row = crop_.y + y;
  if (!convert_) {
    return image_.planes[0] + picture_row * image_.strides[0] +
           static_cast<std::ptrdiff_t>(crop_.x) * bytes_per_pixel_;
  }
  const int first = picture_row - picture_row % band_rows_;
  if (first != band_first_[newest_]) newest_ ^= 1;
  if (first != band_first_[newest_]) {
    ImageView part = image_;
    part.height = std::min(band_rows_, image_.height - first);
    part.planes[0] += first * image_.strides[0];
    for (int i = 1; i < 3; ++i) {
      if (part.planes[i] != nullptr) part.planes[i] += (first / 2) * image_.strides[i];
    }
    convert_to_rgb(part, bands_[newest_].data());
    band_first_[newest_] = first;
  }
  return bands_[newest_].data() +
         (static_cast<std::size_t>(picture_row - first) * image_.width + crop_.x) * 3;
}

void copy_to_rgb(const ImageView& image, const CropRect& crop, uint8_t* rgb) {
  RgbRows rows(image, crop, 16);
  const ChannelOffsets offset = channel_offsets(rows.format());
  const int step = rows.bytes_per_pixel();
  for (int y = 0; y < crop.height; ++y) {
    const uint8_t* source = rows.row(y);
    if (rows.format() == PixelFormat::kRgb8) {
      rgb = std::copy_n(source, static_cast<std::size_t>(crop.width) * 3, rgb);
      continue;
    }
    for (int x = 0; x < crop.width; ++x, source += step, rgb += 3) {
      rgb[0] = source[offset.r];
      rgb[1] = source[offset.g];
      rgb[2] = source[offset.b];
    }
  }
}

}  // namespace rfseg
