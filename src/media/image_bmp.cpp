// Windows and OS/2 bitmaps: 1, 4, 8, 16, 24 and 32 bits a pixel, RLE4, RLE8 and bit fields, as
// Pillow reads them. Every offset is checked against the file.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "media/image_decoders.h"

namespace rfseg {
namespace {

enum Compression : uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3 };

struct BmpHeader {
  std::size_t header_size = 0;
  int width = 0, height = 0;
  bool top_down = false;
  int bits = 0;
  uint32_t compression = kRaw;
  uint32_t colors = 0;
  int palette_step = 4;  ///< bytes of one palette entry
  std::size_t palette_offset = 0, pixel_offset = 0;
  std::array<uint32_t, 3> masks{};  ///< red, green, blue; zeros without bit fields
};

class BmpReader {
 public:
  explicit BmpReader(const ImageSource& source) : source_(source) {}

  uint32_t u16(std::size_t at) const { return read(at, 2); }
  uint32_t u32(std::size_t at) const { return read(at, 4); }

 private:
  uint32_t read(std::size_t at, int bytes) const {
    if (at > source_.size || source_.size - at < static_cast<std::size_t>(bytes)) {
      fail_image(source_, "the BMP file is truncated");
    }
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= uint32_t{source_.data[at + i]} << (8 * i);
    return value;
  }

  const ImageSource& source_;
};

BmpHeader read_header(const ImageSource& source) {
  const BmpReader reader(source);
  BmpHeader header;
  header.pixel_offset = reader.u32(10);
  header.header_size = reader.u32(14);
  uint64_t width = 0, height = 0;
  switch (header.header_size) {
    case 12:
      width = reader.u16(18);
      height = reader.u16(20);
      header.bits = static_cast<int>(reader.u16(24));
      header.palette_step = 3;
      break;
    case 40:
    case 52:
    case 56:
    case 64:
    case 108:
    case 124: {
      width = reader.u32(18);
      const uint32_t stored = reader.u32(22);
      header.top_down = stored >> 24 == 0xff;
      height = header.top_down ? uint64_t{0x100000000} - stored : stored;
      header.bits = static_cast<int>(reader.u16(28));
      header.compression = reader.u32(30);
      header.colors = reader.u32(46);
      break;
    }
    default:
      fail_image(source, fmt::format("BMP header of {} bytes: 12, 40, 52, 56, 64, 108 or 124 are "
                                     "accepted",
                                     header.header_size));
  }
  check_image_size(source, width, height);
  header.width = static_cast<int>(width);
  header.height = static_cast<int>(height);
  header.palette_offset = 14 + header.header_size;
  if (header.compression == kBitFields) {
    for (int i = 0; i < 3; ++i) header.masks[i] = reader.u32(54 + 4 * i);
    if (header.header_size == 40) header.palette_offset += 12;
  }
  if (header.colors == 0 && header.bits <= 8) header.colors = 1u << header.bits;
  if (header.bits <= 8 && header.colors > 65536) {
    fail_image(source, fmt::format("BMP palette of {} colours", header.colors));
  }
  // Some writers forget the palette in the offset of the pixels.
  if (header.pixel_offset == 14 + header.header_size && header.bits <= 8) {
    header.pixel_offset += std::size_t{header.colors} * header.palette_step;
  }
  if (header.pixel_offset == 0) {
    header.pixel_offset = header.palette_offset +
                          (header.bits <= 8 ? std::size_t{header.colors} * header.palette_step : 0);
  }
  if (header.pixel_offset > source.size) fail_image(source, "the BMP file is truncated");
  return header;
}

using Palette = std::array<std::array<uint8_t, 3>, 256>;

/// Colours by index; indices past the palette are black, or grey if the palette is a grey ramp.
Palette read_palette(const ImageSource& source, const BmpHeader& header) {
  Palette palette{};
  const std::size_t step = static_cast<std::size_t>(header.palette_step);
  std::size_t read = 0;
  bool ramp = header.bits == 8;
  for (; read < std::min<std::size_t>(header.colors, 256); ++read) {
    const std::size_t at = header.palette_offset + read * step;
    if (at + 3 > source.size) break;
    for (int c = 0; c < 3; ++c) palette[read][c] = source.data[at + 2 - c];
    for (const uint8_t v : palette[read]) ramp = ramp && v == read;
  }
  for (; ramp && read < 256; ++read) palette[read].fill(static_cast<uint8_t>(read));
  return palette;
}

/// Palette indices of a run-length coded picture in file order, width * height of them.
std::vector<uint8_t> expand_runs(const ImageSource& source, const BmpHeader& header) {
  const std::size_t width = static_cast<std::size_t>(header.width);
  const std::size_t total = width * static_cast<std::size_t>(header.height);
  const bool four = header.compression == kRle4;
  std::vector<uint8_t> out;
  std::size_t at = header.pixel_offset, x = 0;
  const auto index = [four](uint8_t byte, std::size_t i) {
    if (!four) return byte;
    return static_cast<uint8_t>(i % 2 == 0 ? byte >> 4 : byte & 15);
  };
  while (out.size() < total && source.size - at >= 2) {
    const std::size_t run = source.data[at];
    const uint8_t code = source.data[at + 1];
    at += 2;
    if (run > 0) {
      const std::size_t fits = std::min(run, x < width ? width - x : 0);
      for (std::size_t i = 0; i < fits; ++i) out.push_back(index(code, i));
      x += fits;
    } else if (code == 0) {  // end of line
      while (out.size() % width != 0) out.push_back(0);
      x = 0;
    } else if (code == 1) {  // end of picture
      break;
    } else if (code == 2) {  // move right and up
      if (source.size - at < 2) break;
      const std::size_t skip = source.data[at] + source.data[at + 1] * width;
      at += 2;
      out.resize(out.size() + std::min(total - out.size(), skip), 0);
      x = out.size() % width;
    } else {  // literal indices, padded to 16 bits
      const std::size_t count = std::min<std::size_t>(total - out.size(), code);
      const std::size_t bytes = four ? (count + 1) / 2 : count;
      if (source.size - at < bytes) break;
      for (std::size_t i = 0; i < count; ++i) {
        out.push_back(index(source.data[at + (four ? i / 2 : i)], i));
      }
      x += code;
      at += bytes;
      if (at % 2 != 0 && at < source.size) ++at;
    }
  }
  if (out.size() < total) fail_image(source, "the BMP file is truncated");
  out.resize(total);
  return out;
}

/// Byte position of an 8-bit mask in a 32-bit pixel, or -1.
int byte_of_mask(uint32_t mask) {
  for (int i = 0; i < 4; ++i) {
    if (mask == 0xffu << (8 * i)) return i;
  }
  return -1;
}

/// How the colours lie in pixels of 16, 24 or 32 bits.
struct PixelLayout {
  std::array<int, 3> bytes{2, 1, 0};    ///< of red, green, blue, for 24 and 32 bits
  std::array<int, 3> shifts{10, 5, 0};  ///< for 16 bits
  std::array<uint32_t, 3> tops{31, 31, 31};
};

PixelLayout read_layout(const ImageSource& source, const BmpHeader& header) {
  PixelLayout layout;
  const auto& masks = header.masks;
  const bool none = masks == std::array<uint32_t, 3>{};
  if (header.compression != kBitFields || (none && header.bits == 32)) return layout;
  if (header.bits == 16 && masks == std::array<uint32_t, 3>{0xf800, 0x7e0, 0x1f}) {
    layout.shifts = {11, 5, 0};
    layout.tops = {31, 63, 31};
    return layout;
  }
  if (header.bits == 16 && masks == std::array<uint32_t, 3>{0x7c00, 0x3e0, 0x1f}) return layout;
  bool whole_bytes = header.bits == 32 || header.bits == 24;
  for (int c = 0; c < 3; ++c) {
    layout.bytes[c] = byte_of_mask(masks[c]);
    whole_bytes = whole_bytes && layout.bytes[c] >= 0 && layout.bytes[c] < header.bits / 8;
  }
  if (!whole_bytes) fail_image(source, "BMP with a layout of bit fields that is not read");
  return layout;
}

void convert_row(const uint8_t* row, const BmpHeader& header, const PixelLayout& layout,
                 const Palette& palette, uint8_t* rgb) {
  for (int x = 0; x < header.width; ++x, rgb += 3) {
    if (header.bits <= 8) {
      const int bit = x * header.bits;
      const int index = (row[bit / 8] >> (8 - header.bits - bit % 8)) & ((1 << header.bits) - 1);
      std::copy_n(palette[index].begin(), 3, rgb);
    } else if (header.bits == 16) {
      const uint32_t pixel = row[2 * x] | uint32_t{row[2 * x + 1]} << 8;
      for (int c = 0; c < 3; ++c) {
        const uint32_t value = pixel >> layout.shifts[c] & layout.tops[c];
        rgb[c] = static_cast<uint8_t>(value * 255 / layout.tops[c]);
      }
    } else {
      const uint8_t* pixel = row + static_cast<std::ptrdiff_t>(x) * (header.bits / 8);
      for (int c = 0; c < 3; ++c) rgb[c] = pixel[layout.bytes[c]];
    }
  }
}

}  // namespace

DecodedImage decode_bmp(const ImageSource& source) {
  BmpHeader header = read_header(source);
  const std::array<int, 6> known_bits{1, 4, 8, 16, 24, 32};
  const bool runs = (header.compression == kRle8 && header.bits == 8) ||
                    (header.compression == kRle4 && header.bits == 4);
  const bool plain =
      header.compression == kRaw || (header.compression == kBitFields && header.bits >= 16);
  if (std::find(known_bits.begin(), known_bits.end(), header.bits) == known_bits.end() ||
      !(runs || plain)) {
    fail_image(source, fmt::format("BMP of {} bits a pixel with compression {} is not read",
                                   header.bits, header.compression));
  }
  const PixelLayout layout = read_layout(source, header);
  const Palette palette = header.bits <= 8 ? read_palette(source, header) : Palette{};

  std::vector<uint8_t> indices;
  const uint8_t* pixels = source.data + header.pixel_offset;
  std::size_t stride = (static_cast<std::size_t>(header.width) * header.bits + 31) / 32 * 4;
  if (runs) {
    indices = expand_runs(source, header);
    pixels = indices.data();
    stride = static_cast<std::size_t>(header.width);
    header.bits = 8;
  } else {
    const std::size_t last = (static_cast<std::size_t>(header.width) * header.bits + 7) / 8;
    const std::size_t needed = stride * (static_cast<std::size_t>(header.height) - 1) + last;
    if (source.size - header.pixel_offset < needed) fail_image(source, "the BMP file is truncated");
  }
  DecodedImage decoded;
  decoded.image = Image(header.width, header.height);
  const std::size_t row_bytes = static_cast<std::size_t>(header.width) * 3;
  for (int y = 0; y < header.height; ++y) {
    const int target = header.top_down ? y : header.height - 1 - y;
    convert_row(pixels + y * stride, header, layout, palette,
                decoded.image.pixels.data() + target * row_bytes);
  }
  return decoded;
}

}  // namespace rfseg
