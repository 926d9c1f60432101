#pragma once

#include <cstdint>
#include <string>

#include "media/image_io.h"

// The decoders behind decode_image, one per format. Each is given the whole file, checks every
// length against it, refuses a size over `max_pixels` before memory is taken, and throws
// Error(kInput) naming the file.

namespace rfseg {

/// The bytes of one picture and what messages call it.
struct ImageSource {
  const uint8_t* data = nullptr;
  std::size_t size = 0;
  const std::string& name;
  uint64_t max_pixels = 0;
};

/// A picture as stored, and its EXIF orientation (1 to 8, 1 = upright).
struct DecodedImage {
  Image image;
  int orientation = 1;
};

DecodedImage decode_jpeg(const ImageSource& source);
DecodedImage decode_png(const ImageSource& source);
DecodedImage decode_webp(const ImageSource& source);
DecodedImage decode_tiff(const ImageSource& source);
DecodedImage decode_bmp(const ImageSource& source);
DecodedImage decode_ppm(const ImageSource& source);  ///< P1 to P6

/// Throws Error(kInput): "NAME: MESSAGE".
[[noreturn]] void fail_image(const ImageSource& source, const std::string& message);
/// Refuses empty pictures, and pictures over the limit; announces the bytes of others. To be called
/// before memory is taken.
void check_image_size(const ImageSource& source, uint64_t width, uint64_t height);
/// Warns that samples of more than 8 bits were clipped at 255, as Pillow does.
void warn_clipped(const ImageSource& source, const char* what);

/// Pillow's conversion of one CMYK pixel (0 = no ink). Source: python-pillow/Pillow 13.0.0,
/// src/libImaging/Convert.c, cmyk2rgb.
inline void cmyk_to_rgb(int c, int m, int y, int k, uint8_t* rgb) {
  const int light = 255 - k;
  const int inks[3] = {c, m, y};
  for (int i = 0; i < 3; ++i) {
    const int product = inks[i] * light + 128;
    const int value = light - (((product >> 8) + product) >> 8);
    rgb[i] = static_cast<uint8_t>(value < 0 ? 0 : value);
  }
}

}  // namespace rfseg
