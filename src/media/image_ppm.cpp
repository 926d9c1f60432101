// PBM, PGM and PPM (P1 to P6), as Pillow reads them: values are scaled from the file's maximum to
// 255, but grey over 8 bits is scaled to 65535 and then clipped at 255.

#include <fmt/format.h>

#include <cmath>

#include "media/image_decoders.h"

namespace rfseg {
namespace {

bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

class PpmReader {
 public:
  explicit PpmReader(const ImageSource& source) : source_(source), position_(2) {}

  std::size_t remaining() const { return source_.size - position_; }
  const uint8_t* here() const { return source_.data + position_; }

  /// Skips white space and comments; false at the end of the file.
  bool skip_space() {
    while (position_ < source_.size) {
      if (source_.data[position_] == '#') {
        while (position_ < source_.size && source_.data[position_] != '\n' &&
               source_.data[position_] != '\r') {
          ++position_;
        }
      } else if (is_space(source_.data[position_])) {
        ++position_;
      } else {
        return true;
      }
    }
    return false;
  }

  uint32_t number(const char* what) {
    if (!skip_space()) fail_image(source_, fmt::format("the PPM file ends before its {}", what));
    uint64_t value = 0;
    int digits = 0;
    for (; position_ < source_.size && is_digit(source_.data[position_]); ++position_, ++digits) {
      value = value * 10 + (source_.data[position_] - '0');
      if (digits >= 9) fail_image(source_, fmt::format("PPM: {} is too large", what));
    }
    const bool ended = position_ == source_.size || is_space(source_.data[position_]) ||
                       source_.data[position_] == '#';
    if (digits == 0 || !ended) fail_image(source_, fmt::format("PPM: {} is not a number", what));
    return static_cast<uint32_t>(value);
  }

  /// The single white space between header and binary pixels.
  void end_header() {
    if (position_ >= source_.size) fail_image(source_, "the PPM file ends after its header");
    ++position_;
  }

  /// One binary digit of P1, where white space is optional.
  bool bit() {
    if (!skip_space()) fail_image(source_, "the PPM file is truncated");
    const uint8_t c = source_.data[position_++];
    if (c != '0' && c != '1') fail_image(source_, "PBM: a pixel is neither 0 nor 1");
    return c == '1';
  }

 private:
  static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

  const ImageSource& source_;
  std::size_t position_;
};

void put_grey(std::vector<uint8_t>& pixels, uint8_t value) {
  pixels.insert(pixels.end(), 3, value);
}

/// Table from stored to shown values. Grey of more than 8 bits ends in Pillow's mode I.
std::vector<uint8_t> scale_table(uint32_t maximum, bool grey) {
  std::vector<uint8_t> table(maximum + 1);
  const double top = grey && maximum > 255 ? 65535 : 255;
  for (uint32_t v = 0; v <= maximum; ++v) {
    // Python's round: halves to even.
    const double value = std::nearbyint(static_cast<double>(v) / maximum * top);
    table[v] = static_cast<uint8_t>(value < 255 ? value : 255);
  }
  return table;
}

void read_binary(const ImageSource& source, PpmReader& reader, int channels, uint32_t maximum,
                 Image& image) {
  const std::size_t count = static_cast<std::size_t>(image.width) * image.height * channels;
  const std::size_t bytes = maximum > 255 ? 2 : 1;
  if (reader.remaining() / bytes < count) fail_image(source, "the PPM file is truncated");
  const std::vector<uint8_t> table = scale_table(maximum, channels == 1);
  const uint8_t* data = reader.here();
  image.pixels.resize(static_cast<std::size_t>(image.width) * image.height * 3);
  uint8_t* out = image.pixels.data();
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t stored = bytes == 2 ? data[2 * i] * 256u + data[2 * i + 1] : data[i];
    const uint8_t value = stored > maximum ? uint8_t{255} : table[stored];
    if (channels == 1) *out++ = value, *out++ = value;
    *out++ = value;
  }
}

void read_text(const ImageSource& source, PpmReader& reader, int channels, uint32_t maximum,
               Image& image) {
  const std::size_t count = static_cast<std::size_t>(image.width) * image.height * channels;
  if (reader.remaining() < count) fail_image(source, "the PPM file is truncated");
  const std::vector<uint8_t> table = scale_table(maximum, channels == 1);
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t stored = reader.number("pixels");
    if (stored > maximum) fail_image(source, "PPM: a pixel is over the maximum of the header");
    if (channels == 1) {
      put_grey(image.pixels, table[stored]);
    } else {
      image.pixels.push_back(table[stored]);
    }
  }
}

void read_bits(const ImageSource& source, PpmReader& reader, bool text, Image& image) {
  const std::size_t width = static_cast<std::size_t>(image.width);
  const std::size_t height = static_cast<std::size_t>(image.height);
  const std::size_t row = (width + 7) / 8;
  if (reader.remaining() < (text ? width : row) * height) {
    fail_image(source, "the PPM file is truncated");
  }
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      const bool black =
          text ? reader.bit() : ((reader.here()[y * row + x / 8] >> (7 - x % 8)) & 1) != 0;
      put_grey(image.pixels, black ? 0 : 255);
    }
  }
}

}  // namespace

DecodedImage decode_ppm(const ImageSource& source) {
  const char kind = static_cast<char>(source.data[1]);
  PpmReader reader(source);
  DecodedImage decoded;
  const uint32_t width = reader.number("width");
  const uint32_t height = reader.number("height");
  check_image_size(source, width, height);
  decoded.image.width = static_cast<int>(width);
  decoded.image.height = static_cast<int>(height);
  if (kind == '1' || kind == '4') {
    if (kind == '4') reader.end_header();
    read_bits(source, reader, kind == '1', decoded.image);
    return decoded;
  }
  const uint32_t maximum = reader.number("maximum");
  if (maximum < 1 || maximum > 65535) {
    fail_image(source, fmt::format("PPM: a maximum of {}: 1 to 65535 is accepted", maximum));
  }
  const int channels = kind == '3' || kind == '6' ? 3 : 1;
  if (kind == '5' || kind == '6') {
    reader.end_header();
    read_binary(source, reader, channels, maximum, decoded.image);
  } else {
    read_text(source, reader, channels, maximum, decoded.image);
  }
  if (channels == 1 && maximum > 255) warn_clipped(source, "16-bit grey values");
  return decoded;
}

}  // namespace rfseg
