#include "media/image_io.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "core/files.h"
#include "core/log.h"
#include "media/image_decoders.h"
#include "media/image_exif.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr const char* kAccepted = "JPEG, PNG, BMP, PPM/PGM/PBM, WebP or TIFF";

struct Format {
  const char* name;
  DecodedImage (*decode)(const ImageSource&);
  std::array<std::string_view, 4> extensions;
};

const Format kFormats[] = {
    {"JPEG", decode_jpeg, {"jpg", "jpeg", "jpe", "jfif"}},
    {"PNG", decode_png, {"png"}},
    {"WebP", decode_webp, {"webp"}},
    {"TIFF", decode_tiff, {"tif", "tiff"}},
    {"BMP", decode_bmp, {"bmp", "dib"}},
    {"PPM", decode_ppm, {"ppm", "pgm", "pbm", "pnm"}},
};

bool starts_with(const ImageSource& source, std::string_view magic, std::size_t offset = 0) {
  return source.size >= offset + magic.size() &&
         std::memcmp(source.data + offset, magic.data(), magic.size()) == 0;
}

/// The format that the content shows, or nullptr.
const Format* recognise(const ImageSource& source) {
  using namespace std::string_view_literals;
  if (starts_with(source, "\xff\xd8\xff"sv)) return &kFormats[0];
  if (starts_with(source, "\x89PNG\r\n\x1a\n"sv)) return &kFormats[1];
  if (starts_with(source, "RIFF"sv) && starts_with(source, "WEBP"sv, 8)) return &kFormats[2];
  if (starts_with(source, "II\x2a\0"sv) || starts_with(source, "MM\0\x2a"sv) ||
      starts_with(source, "II\x2b\0"sv) || starts_with(source, "MM\0\x2b"sv)) {
    return &kFormats[3];
  }
  if (starts_with(source, "BM"sv)) return &kFormats[4];
  const bool ppm = source.size >= 3 && source.data[0] == 'P' && source.data[1] >= '1' &&
                   source.data[1] <= '6' && std::strchr(" \t\r\n\v\f#", source.data[2]) != nullptr;
  return ppm ? &kFormats[5] : nullptr;
}

/// The lower-case extension, without the dot.
std::string extension_of(const std::string& path) {
  const std::size_t name = path.find_last_of('/') + 1;  // npos + 1 is 0
  const std::size_t dot = path.find_last_of('.');
  if (dot == std::string::npos || dot < name) return "";
  std::string extension = path.substr(dot + 1);
  for (char& c : extension) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return extension;
}

const Format* format_of_name(const std::string& path) {
  const std::string extension = extension_of(path);
  if (extension.empty()) return nullptr;
  for (const Format& format : kFormats) {
    const auto& known = format.extensions;
    if (std::find(known.begin(), known.end(), extension) != known.end()) return &format;
  }
  return nullptr;
}

thread_local const std::function<void(std::size_t)>* t_announce = nullptr;

}  // namespace

AnnounceImageBytes::AnnounceImageBytes(std::function<void(std::size_t bytes)> announce)
    : announce_(std::move(announce)), before_(t_announce) {
  t_announce = &announce_;
}

AnnounceImageBytes::~AnnounceImageBytes() { t_announce = before_; }

void fail_image(const ImageSource& source, const std::string& message) {
  throw Error(ErrorCode::kInput, fmt::format("{}: {}", source.name, message));
}

void check_image_size(const ImageSource& source, uint64_t width, uint64_t height) {
  constexpr uint64_t kMaxSide = uint64_t{1} << 24;
  if (width == 0 || height == 0) {
    fail_image(source, fmt::format("a picture of {}x{} pixels is empty", width, height));
  }
  if (width > kMaxSide || height > kMaxSide || width * height > source.max_pixels) {
    fail_image(source, fmt::format("{}x{} pixels are too many: at most {} are read", width, height,
                                   source.max_pixels));
  }
  if (t_announce != nullptr) (*t_announce)(static_cast<std::size_t>(width * height * 3));
}

void warn_clipped(const ImageSource& source, const char* what) {
  log_warning(
      fmt::format("{}: {} are clipped at 255, as Pillow's convert(\"RGB\") does; scale the "
                  "picture to 8 bits to keep its tones",
                  source.name, what));
}

bool is_image_name(const std::string& path) { return format_of_name(path) != nullptr; }

Image decode_image(const uint8_t* data, std::size_t size, const std::string& name,
                   const DecodeOptions& options) {
  const ImageSource source{data, size, name, options.max_pixels};
  if (size == 0) fail_image(source, "the file is empty");
  const Format* format = recognise(source);
  if (format == nullptr) {
    fail_image(source, fmt::format("not a picture that can be read: {} is accepted", kAccepted));
  }
  const Format* named = format_of_name(name);
  if (named != nullptr && named != format) {
    log_warning(fmt::format("{}: the content is {}, not {}; it is read as what it is", name,
                            format->name, named->name));
  }
  DecodedImage decoded = format->decode(source);
  if (!options.apply_exif) return std::move(decoded.image);
  return apply_orientation(std::move(decoded.image), decoded.orientation);
}

Image decode_image(const std::string& path, const DecodeOptions& options) {
  const std::vector<uint8_t> bytes = read_file(path);
  return decode_image(bytes.data(), bytes.size(), path, options);
}

}  // namespace rfseg
