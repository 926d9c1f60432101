#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "rfseg/image.h"

namespace rfseg::test {

/// Noise that make_goldens.py makes alike.
inline std::vector<uint8_t> noise(std::size_t size, int seed) {
  std::vector<uint8_t> bytes(size);
  for (std::size_t k = 0; k < size; ++k) {
    uint32_t i = static_cast<uint32_t>(k) + static_cast<uint32_t>(seed) * 7919u;
    i *= 2654435761u;
    i ^= i >> 15;
    i *= 2246822519u;
    i ^= i >> 13;
    bytes[k] = static_cast<uint8_t>(i >> 24);
  }
  return bytes;
}

inline Image noise_picture(int width, int height, int seed) {
  Image image;
  image.width = width;
  image.height = height;
  image.pixels = noise(static_cast<std::size_t>(width) * height * 3, seed);
  return image;
}

/// CRC-32 as zlib.crc32 gives it, in hexadecimal.
inline std::string crc32_hex(const void* data, std::size_t size) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> t(256);
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = 0xffffffffu;
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (std::size_t i = 0; i < size; ++i) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >> 8);
  char text[16];
  std::snprintf(text, sizeof text, "%08x", crc ^ 0xffffffffu);
  return text;
}

}  // namespace rfseg::test
