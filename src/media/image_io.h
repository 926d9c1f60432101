#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rfseg/image.h"

namespace rfseg {

struct DecodeOptions {
  bool apply_exif = true;                   ///< turn the picture upright by its EXIF orientation
  uint64_t max_pixels = uint64_t{1} << 28;  ///< larger pictures are refused before memory is taken
};

/// Decodes JPEG, PNG, BMP, PPM/PGM, WebP or TIFF (told apart by content) to RGB as Pillow's
/// convert("RGB") does: JPEG pixels equal Pillow's; palette expanded; grey replicated; alpha
/// dropped; 16-bit clipped as Pillow does, with a warning naming the file; CMYK inverted as Adobe
/// JPEGs want. Throws Error(kInput) naming the file. Thread-safe.
Image decode_image(const std::string& path, const DecodeOptions& options = {});
/// The same from bytes; `name` is for messages.
Image decode_image(const uint8_t* data, std::size_t size, const std::string& name,
                   const DecodeOptions& options = {});
/// While one lives, `decode_image` on this thread calls `announce` with the bytes of a picture's
/// RGB pixels, at least once and before their memory is taken. It may wait, and what it throws
/// leaves `decode_image`.
class AnnounceImageBytes {
 public:
  explicit AnnounceImageBytes(std::function<void(std::size_t bytes)> announce);
  ~AnnounceImageBytes();
  AnnounceImageBytes(const AnnounceImageBytes&) = delete;
  AnnounceImageBytes& operator=(const AnnounceImageBytes&) = delete;

 private:
  std::function<void(std::size_t bytes)> announce_;
  const std::function<void(std::size_t bytes)>* before_;  // of an outer one
};
/// True when the name ends in an extension that decode_image reads (case-insensitive).
bool is_image_name(const std::string& path);

std::vector<uint8_t> encode_jpeg(const ImageView& rgb, int quality);
/// `channels` 1 (grey) or 3 (RGB), tightly packed rows.
std::vector<uint8_t> encode_png(const uint8_t* pixels, int width, int height, int channels);

}  // namespace rfseg
