// PNG through libpng. Pixels are what Pillow's convert("RGB") gives: palettes expanded, alpha and
// tRNS dropped, 16-bit colour reduced to its high byte, 16-bit grey clipped at 255; no gamma.

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/log.h"
#include "media/image_decoders.h"
#include "media/image_exif.h"

namespace rfseg {
namespace {

/// Reading position and errors of one file. libpng is left by longjmp, so that nothing with a
/// destructor lives in the functions that call it after setjmp.
struct PngState {
  const ImageSource* source = nullptr;
  std::size_t position = 0;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf jump;
  char message[128] = "";
  char warning[128] = "";

  ~PngState() { png_destroy_read_struct(&png, &info, nullptr); }
};

void on_error(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::snprintf(state->message, sizeof state->message, "%s", message);
  std::longjmp(state->jump, 1);
}

void on_warning(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::snprintf(state->warning, sizeof state->warning, "%s", message);
}

void on_read(png_structp png, png_bytep out, std::size_t count) {
  auto* state = static_cast<PngState*>(png_get_io_ptr(png));
  if (count > state->source->size - state->position) png_error(png, "the file is truncated");
  std::memcpy(out, state->source->data + state->position, count);
  state->position += count;
}

template <class Step>
bool guarded(PngState& state, Step step) {
  if (setjmp(state.jump) != 0) return false;
  step();
  return true;
}

void read_header(PngState& state) {
  state.info = png_create_info_struct(state.png);
  if (state.info == nullptr) png_error(state.png, "out of memory");
  png_set_user_limits(state.png, 0x7fffffff, 0x7fffffff);
  png_set_read_fn(state.png, &state, on_read);
  png_read_info(state.png, state.info);
}

/// Asks libpng for 8-bit grey or RGB rows, or 16-bit grey ones.
void set_transforms(PngState& state, bool keep_16_bits) {
  const int type = png_get_color_type(state.png, state.info);
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(state.png);
  if (type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(state.png);
  if (!keep_16_bits) png_set_strip_16(state.png);
  png_set_strip_alpha(state.png);
  png_set_interlace_handling(state.png);
  png_read_update_info(state.png, state.info);
}

void read_rows(PngState& state, std::vector<uint8_t>& pixels, std::size_t row_bytes, int height) {
  const int passes = png_set_interlace_handling(state.png);
  for (int pass = 0; pass < passes; ++pass) {
    for (int y = 0; y < height; ++y) {
      const std::size_t end = (static_cast<std::size_t>(y) + 1) * row_bytes;
      if (pixels.size() < end) pixels.resize(end);
      png_read_row(state.png, pixels.data() + end - row_bytes, nullptr);
    }
  }
}

int orientation_of(PngState& state) {
#ifdef PNG_eXIf_SUPPORTED
  png_bytep exif = nullptr;
  png_uint_32 size = 0;
  if (png_get_eXIf_1(state.png, state.info, &size, &exif) != 0) return exif_orientation(exif, size);
#endif
  return 1;
}

/// Rows of one or two bytes a pixel to RGB.
std::vector<uint8_t> spread_grey(const std::vector<uint8_t>& grey, int bytes_per_pixel) {
  std::vector<uint8_t> rgb(grey.size() / bytes_per_pixel * 3);
  for (std::size_t i = 0, at = 0; i < rgb.size(); i += 3, at += bytes_per_pixel) {
    const bool over = bytes_per_pixel == 2 && grey[at] != 0;  // high byte first
    rgb[i] = rgb[i + 1] = rgb[i + 2] = over ? uint8_t{255} : grey[at + bytes_per_pixel - 1];
  }
  return rgb;
}

}  // namespace

DecodedImage decode_png(const ImageSource& source) {
  PngState state;
  state.source = &source;
  const auto check = [&](bool done) {
    if (!done) fail_image(source, std::string("broken PNG: ") + state.message);
  };
  state.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, on_error, on_warning);
  if (state.png == nullptr) fail_image(source, "libpng could not be started");
  check(guarded(state, [&] { read_header(state); }));

  const uint32_t width = png_get_image_width(state.png, state.info);
  const uint32_t height = png_get_image_height(state.png, state.info);
  check_image_size(source, width, height);
  // Deflate shrinks at most about 1032 times: a file that cannot hold its picture is cut short.
  if (uint64_t{png_get_rowbytes(state.png, state.info)} * height > source.size * uint64_t{1040}) {
    fail_image(source, "broken PNG: the file is truncated");
  }
  const bool grey_16 = png_get_bit_depth(state.png, state.info) == 16 &&
                       png_get_color_type(state.png, state.info) == PNG_COLOR_TYPE_GRAY;

  DecodedImage decoded;
  decoded.image.width = static_cast<int>(width);
  decoded.image.height = static_cast<int>(height);
  std::vector<uint8_t> pixels;
  std::size_t row_bytes = 0;
  check(guarded(state, [&] {
    set_transforms(state, grey_16);
    row_bytes = png_get_rowbytes(state.png, state.info);
  }));
  pixels.reserve(row_bytes * height);
  check(guarded(state, [&] { read_rows(state, pixels, row_bytes, static_cast<int>(height)); }));
  // What follows the pixels may hold the orientation; Pillow does not mind if it is cut short.
  guarded(state, [&] { png_read_end(state.png, state.info); });
  decoded.orientation = orientation_of(state);
  if (state.warning[0] != '\0') log_debug(source.name + ": libpng: " + state.warning);

  const std::size_t bytes_per_pixel = row_bytes / width;
  if (grey_16) warn_clipped(source, "16-bit grey values");
  decoded.image.pixels = bytes_per_pixel == 3
                             ? std::move(pixels)
                             : spread_grey(pixels, static_cast<int>(bytes_per_pixel));
  return decoded;
}

}  // namespace rfseg
