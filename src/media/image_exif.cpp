#include "media/image_exif.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace rfseg {
namespace {

/// Reads integers of one byte order; out-of-range reads give 0 and clear `ok`.
struct ExifReader {
  const uint8_t* data;
  std::size_t size;
  bool big_endian;
  bool ok = true;

  uint32_t read(std::size_t offset, int bytes) {
    if (offset > size || size - offset < static_cast<std::size_t>(bytes)) {
      ok = false;
      return 0;
    }
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      const uint32_t byte = data[offset + static_cast<std::size_t>(i)];
      value |= byte << (8 * (big_endian ? bytes - 1 - i : i));
    }
    return value;
  }
};

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kShort = 3;
constexpr uint32_t kLong = 4;

}  // namespace

int exif_orientation(const uint8_t* data, std::size_t size) {
  if (size >= 6 && std::memcmp(data, "Exif\0\0", 6) == 0) {
    data += 6;
    size -= 6;
  }
  if (size < 8) return 1;
  const bool big_endian = data[0] == 'M' && data[1] == 'M';
  if (!big_endian && !(data[0] == 'I' && data[1] == 'I')) return 1;
  ExifReader reader{data, size, big_endian};
  if (reader.read(2, 2) != 42) return 1;
  const std::size_t directory = reader.read(4, 4);
  const uint32_t entries = reader.read(directory, 2);
  for (uint32_t i = 0; i < entries && reader.ok; ++i) {
    const std::size_t entry = directory + 2 + std::size_t{12} * i;
    if (reader.read(entry, 2) != kOrientationTag) continue;
    const uint32_t type = reader.read(entry + 2, 2);
    if (type != kShort && type != kLong) return 1;
    const uint32_t value = reader.read(entry + 8, type == kShort ? 2 : 4);
    return reader.ok && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swap_axes = orientation >= 5;
  const int width = image.width, height = image.height;
  Image turned(swap_axes ? height : width, swap_axes ? width : height);
  // Where the pixel (x, y) of the upright picture comes from: axes swapped, then mirrored.
  const bool mirror_x =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool mirror_y =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  constexpr int kBlock = 32;  // both pictures are touched in pieces that fit the cache
  for (int top = 0; top < turned.height; top += kBlock) {
    for (int left = 0; left < turned.width; left += kBlock) {
      const int bottom = std::min(top + kBlock, turned.height);
      const int right = std::min(left + kBlock, turned.width);
      for (int y = top; y < bottom; ++y) {
        for (int x = left; x < right; ++x) {
          int source_x = swap_axes ? y : x, source_y = swap_axes ? x : y;
          if (mirror_x) source_x = width - 1 - source_x;
          if (mirror_y) source_y = height - 1 - source_y;
          const std::size_t from = (static_cast<std::size_t>(source_y) * width + source_x) * 3;
          const std::size_t to = (static_cast<std::size_t>(y) * turned.width + x) * 3;
          std::copy_n(image.pixels.data() + from, 3, turned.pixels.data() + to);
        }
      }
    }
  }
  return turned;
}

}  // namespace rfseg
