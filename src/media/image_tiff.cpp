// TIFF through libtiff: the first page, in strips or tiles, converted as Pillow's convert("RGB").

#include <fmt/format.h>
#include <tiffio.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "core/log.h"
#include "media/image_decoders.h"

namespace rfseg {
namespace {

/// A file in memory, and the first message of libtiff about it.
struct TiffState {
  const ImageSource& source;
  uint64_t position = 0;
  std::string message;
};

TiffState* state_of(thandle_t handle) { return static_cast<TiffState*>(handle); }

tmsize_t read_bytes(thandle_t handle, void* out, tmsize_t count) {
  TiffState* state = state_of(handle);
  if (count < 0 || state->position >= state->source.size) return 0;
  const uint64_t rest = state->source.size - state->position;
  const std::size_t taken = static_cast<std::size_t>(std::min<uint64_t>(rest, uint64_t(count)));
  std::memcpy(out, state->source.data + state->position, taken);
  state->position += taken;
  return static_cast<tmsize_t>(taken);
}

tmsize_t write_bytes(thandle_t, void*, tmsize_t) { return 0; }

toff_t seek(thandle_t handle, toff_t offset, int whence) {
  TiffState* state = state_of(handle);
  if (whence == SEEK_CUR) offset += state->position;
  if (whence == SEEK_END) offset += state->source.size;
  return state->position = offset;
}

int close_file(thandle_t) { return 0; }
toff_t file_size(thandle_t handle) { return state_of(handle)->source.size; }

int map_file(thandle_t handle, void** base, toff_t* size) {
  *base = const_cast<uint8_t*>(state_of(handle)->source.data);  // opened for reading only
  *size = state_of(handle)->source.size;
  return 1;
}

void unmap_file(thandle_t, void*, toff_t) {}

#if TIFFLIB_VERSION >= 20221213  // 4.5.0: handlers of one file instead of the whole process
int on_error(TIFF*, void* user, const char*, const char* format, va_list arguments) {
  auto* state = static_cast<TiffState*>(user);
  char text[256];
  std::vsnprintf(text, sizeof text, format, arguments);
  if (state->message.empty()) state->message = text;
  return 1;
}

int on_warning(TIFF*, void* user, const char*, const char* format, va_list arguments) {
  char text[256];
  std::vsnprintf(text, sizeof text, format, arguments);
  log_debug(static_cast<TiffState*>(user)->source.name + ": libtiff: " + text);
  return 1;
}
#endif

using TiffHandle = std::unique_ptr<TIFF, decltype(&TIFFClose)>;

TiffHandle open(TiffState& state) {
#if TIFFLIB_VERSION >= 20221213
  constexpr tmsize_t kMaxAllocation = tmsize_t{1} << 30;
  const std::unique_ptr<TIFFOpenOptions, decltype(&TIFFOpenOptionsFree)> options(
      TIFFOpenOptionsAlloc(), &TIFFOpenOptionsFree);
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), kMaxAllocation);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), on_error, &state);
  TIFFOpenOptionsSetWarningHandlerExtR(options.get(), on_warning, &state);
  return {TIFFClientOpenExt("picture", "r", &state, read_bytes, write_bytes, seek, close_file,
                            file_size, map_file, unmap_file, options.get()),
          &TIFFClose};
#else
  static const bool silent = [] {
    TIFFSetErrorHandler(nullptr);
    TIFFSetWarningHandler(nullptr);
    return true;
  }();
  static_cast<void>(silent);
  return {TIFFClientOpen("picture", "r", &state, read_bytes, write_bytes, seek, close_file,
                         file_size, map_file, unmap_file),
          &TIFFClose};
#endif
}

struct TiffLayout {
  uint32_t width = 0, height = 0;
  uint16_t bits = 1, samples = 1, photometric = 0, planar = PLANARCONFIG_CONTIG;
  uint16_t format = SAMPLEFORMAT_UINT, compression = COMPRESSION_NONE;
  std::vector<uint8_t> palette;  ///< 3 bytes an index, all that `bits` can say
};

[[noreturn]] void fail(const TiffState& state, const std::string& what) {
  fail_image(state.source,
             what + (state.message.empty() ? "" : fmt::format(" ({})", state.message)));
}

TiffLayout read_layout(TIFF* tiff, const TiffState& state) {
  TiffLayout layout;
  if (TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &layout.width) == 0 ||
      TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &layout.height) == 0) {
    fail(state, "TIFF without a size");
  }
  check_image_size(state.source, layout.width, layout.height);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &layout.bits);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &layout.samples);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &layout.planar);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &layout.format);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &layout.compression);
  if (TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &layout.photometric) == 0) layout.photometric = 0;
  if (layout.photometric == PHOTOMETRIC_PALETTE && layout.bits <= 8) {
    uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
    if (TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue) == 0) {
      fail(state, "TIFF without its palette");
    }
    for (int i = 0; i < 1 << layout.bits; ++i) {
      for (const uint16_t* channel : {red, green, blue}) {
        layout.palette.push_back(static_cast<uint8_t>(channel[i] >> 8));
      }
    }
  }
  return layout;
}

/// Samples that one output pixel needs; 0 for a kind of picture that is not read here.
int samples_needed(const TiffLayout& layout) {
  const bool integer = layout.format == SAMPLEFORMAT_UINT || layout.format == SAMPLEFORMAT_VOID;
  const bool whole = integer && (layout.bits == 8 || layout.bits == 16);
  const bool fraction = integer && (layout.bits == 1 || layout.bits == 2 || layout.bits == 4);
  switch (layout.photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
      if (layout.format == SAMPLEFORMAT_IEEEFP && layout.bits == 32) return 1;
      return whole || (fraction && layout.samples == 1) ? 1 : 0;
    case PHOTOMETRIC_RGB:
      return whole ? 3 : 0;
    case PHOTOMETRIC_PALETTE:
      return (integer && layout.bits == 8) || (fraction && layout.samples == 1) ? 1 : 0;
    case PHOTOMETRIC_SEPARATED:
      return whole ? 4 : 0;
    default:
      return 0;
  }
}

uint8_t clip_float(float value) {
  if (!(value > 0)) return 0;
  return value >= 255 ? uint8_t{255} : static_cast<uint8_t>(value);
}

/// Sample `index` of a row of samples, as 8 bits: the high byte of 16 bits, but clipped for grey.
uint8_t sample(const TiffLayout& layout, const uint8_t* row, std::size_t index, bool grey) {
  if (layout.bits == 8) return row[index];
  if (layout.bits == 16) {
    uint16_t value;
    std::memcpy(&value, row + 2 * index, 2);
    if (grey) return static_cast<uint8_t>(std::min<int>(value, 255));
    return static_cast<uint8_t>(value >> 8);
  }
  if (layout.bits == 32) {
    float value;
    std::memcpy(&value, row + 4 * index, 4);
    return clip_float(value);
  }
  const std::size_t bit = index * layout.bits;
  const int stored = (row[bit / 8] >> (8 - layout.bits - bit % 8)) & ((1 << layout.bits) - 1);
  return static_cast<uint8_t>(
      layout.photometric == PHOTOMETRIC_PALETTE ? stored : stored * 255 / ((1 << layout.bits) - 1));
}

/// `count` pixels whose samples lie `step` apart to RGB.
void convert_pixels(const TiffLayout& layout, const uint8_t* row, std::size_t count,
                    std::size_t step, uint8_t* rgb) {
  for (std::size_t x = 0; x < count; ++x, rgb += 3) {
    const std::size_t at = x * step;
    switch (layout.photometric) {
      case PHOTOMETRIC_RGB:
        for (int c = 0; c < 3; ++c) rgb[c] = sample(layout, row, at + c, false);
        break;
      case PHOTOMETRIC_SEPARATED:
        cmyk_to_rgb(sample(layout, row, at, false), sample(layout, row, at + 1, false),
                    sample(layout, row, at + 2, false), sample(layout, row, at + 3, false), rgb);
        break;
      case PHOTOMETRIC_PALETTE:
        std::copy_n(layout.palette.data() + 3 * std::size_t{sample(layout, row, at, true)}, 3, rgb);
        break;
      default: {
        uint8_t value = sample(layout, row, at, true);
        // Pillow inverts white-is-zero only where it reads 8 bits or fewer.
        if (layout.photometric == PHOTOMETRIC_MINISWHITE && layout.bits <= 8) {
          value = static_cast<uint8_t>(255 - value);
        }
        rgb[0] = rgb[1] = rgb[2] = value;
      }
    }
  }
}

/// The rectangles that the file is stored in: strips are tiles as wide as the picture.
struct Pieces {
  bool tiled = false;
  uint32_t width = 0, height = 0;
  tmsize_t bytes = 0, row_bytes = 0;
};

Pieces read_pieces(TIFF* tiff, const TiffLayout& layout, const TiffState& state) {
  Pieces pieces;
  pieces.tiled = TIFFIsTiled(tiff) != 0;
  if (pieces.tiled) {
    TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &pieces.width);
    TIFFGetField(tiff, TIFFTAG_TILELENGTH, &pieces.height);
    pieces.bytes = TIFFTileSize(tiff);
    pieces.row_bytes = TIFFTileRowSize(tiff);
  } else {
    pieces.width = layout.width;
    TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &pieces.height);
    pieces.height = std::min(pieces.height, layout.height);
    pieces.bytes = TIFFStripSize(tiff);
    pieces.row_bytes = TIFFScanlineSize(tiff);
  }
  const bool sane = pieces.width > 0 && pieces.height > 0 && pieces.bytes > 0 &&
                    pieces.row_bytes > 0 &&
                    uint64_t{pieces.width} * pieces.height <= state.source.max_pixels &&
                    pieces.bytes / pieces.row_bytes >= static_cast<tmsize_t>(pieces.height);
  if (!sane) fail(state, "broken TIFF: its strips or tiles have no usable size");
  return pieces;
}

/// Reads the piece at (x, y) of plane `plane` into `out`.
void read_piece(TIFF* tiff, const TiffState& state, const Pieces& pieces, uint32_t x, uint32_t y,
                uint32_t rows, uint16_t plane, uint8_t* out) {
  tmsize_t got, wanted;
  if (pieces.tiled) {
    wanted = pieces.bytes;
    got = TIFFReadEncodedTile(tiff, TIFFComputeTile(tiff, x, y, 0, plane), out, wanted);
  } else {
    wanted = static_cast<tmsize_t>(rows) * pieces.row_bytes;
    got = TIFFReadEncodedStrip(tiff, TIFFComputeStrip(tiff, y, plane), out, wanted);
  }
  if (got < wanted) fail(state, "broken or truncated TIFF");
}

/// Interleaves `count` samples of one plane into every `step`-th place.
void interleave(const uint8_t* plane, std::size_t count, std::size_t bytes, std::size_t step,
                uint8_t* out) {
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(out + i * step * bytes, plane + i * bytes, bytes);
  }
}

Image read_pixels(TIFF* tiff, const TiffLayout& layout, const TiffState& state, int needed) {
  const Pieces pieces = read_pieces(tiff, layout, state);
  const bool separate = layout.planar == PLANARCONFIG_SEPARATE && layout.samples > 1;
  if (layout.samples < needed || (separate && layout.bits < 8)) {
    fail(state, "broken TIFF: too few samples a pixel");
  }
  const std::size_t step = separate ? static_cast<std::size_t>(needed) : layout.samples;
  const std::size_t sample_bytes = layout.bits / 8;
  const std::size_t row_bytes = static_cast<std::size_t>(pieces.row_bytes);
  // A row of samples must hold the pixels that will be read from it.
  const uint64_t bits_needed =
      uint64_t{pieces.width} * (separate ? 1 : layout.samples) * layout.bits;
  if (uint64_t{row_bytes} * 8 < bits_needed) fail(state, "broken TIFF: rows are too short");

  std::vector<uint8_t> piece(static_cast<std::size_t>(pieces.bytes));
  std::vector<uint8_t> mixed(separate ? pieces.width * step * sample_bytes * pieces.height : 0);
  Image image;
  image.width = static_cast<int>(layout.width);
  image.height = static_cast<int>(layout.height);
  const std::size_t out_row = std::size_t{layout.width} * 3;
  image.pixels.reserve(out_row * layout.height);
  for (uint32_t y = 0; y < layout.height; y += pieces.height) {
    const uint32_t rows = std::min(pieces.height, layout.height - y);
    image.pixels.resize(out_row * (std::size_t{y} + rows));
    for (uint32_t x = 0; x < layout.width; x += pieces.width) {
      const std::size_t columns = std::min(pieces.width, layout.width - x);
      const std::size_t mixed_row = pieces.width * step * sample_bytes;
      for (int plane = 0; plane < (separate ? needed : 1); ++plane) {
        read_piece(tiff, state, pieces, x, y, rows, static_cast<uint16_t>(plane), piece.data());
        for (std::size_t r = 0; separate && r < rows; ++r) {
          interleave(piece.data() + r * row_bytes, columns, sample_bytes, step,
                     mixed.data() + r * mixed_row + plane * sample_bytes);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const uint8_t* source =
            separate ? mixed.data() + r * mixed_row : piece.data() + r * row_bytes;
        convert_pixels(layout, source, columns, step,
                       image.pixels.data() + (y + r) * out_row + std::size_t{x} * 3);
      }
    }
  }
  return image;
}

/// libtiff's own conversion, for YCbCr that is not JPEG.
Image read_converted(TIFF* tiff, const TiffLayout& layout, const TiffState& state) {
  std::vector<uint32_t> rgba(std::size_t{layout.width} * layout.height);
  // Orientation is applied later: ask for the rows as they are stored.
  if (TIFFReadRGBAImageOriented(tiff, layout.width, layout.height, rgba.data(), ORIENTATION_TOPLEFT,
                                1) == 0) {
    fail(state, "broken or truncated TIFF");
  }
  Image image(static_cast<int>(layout.width), static_cast<int>(layout.height));
  uint8_t* rgb = image.pixels.data();
  for (const uint32_t pixel : rgba) {
    *rgb++ = static_cast<uint8_t>(TIFFGetR(pixel));
    *rgb++ = static_cast<uint8_t>(TIFFGetG(pixel));
    *rgb++ = static_cast<uint8_t>(TIFFGetB(pixel));
  }
  return image;
}

}  // namespace

DecodedImage decode_tiff(const ImageSource& source) {
  TiffState state{source, 0, {}};
  const TiffHandle tiff = open(state);
  if (tiff == nullptr) fail(state, "broken TIFF");
  TiffLayout layout = read_layout(tiff.get(), state);
  DecodedImage decoded;
  uint16_t orientation = 1;
  TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_ORIENTATION, &orientation);
  if (orientation >= 1 && orientation <= 8) decoded.orientation = orientation;

  if (layout.photometric == PHOTOMETRIC_YCBCR && layout.bits == 8 && layout.samples == 3) {
    if (layout.compression != COMPRESSION_JPEG || layout.planar != PLANARCONFIG_CONTIG) {
      TIFFSetField(tiff.get(), TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
      decoded.image = read_converted(tiff.get(), layout, state);
      return decoded;
    }
    TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    layout.photometric = PHOTOMETRIC_RGB;
  }
  const int needed = samples_needed(layout);
  if (needed == 0) {
    fail(state, fmt::format("TIFF of {} bits a sample, format {}, photometric {}: grey, RGB, "
                            "palette, CMYK and YCbCr of up to 16 bits are accepted",
                            layout.bits, layout.format, layout.photometric));
  }
  decoded.image = read_pixels(tiff.get(), layout, state, needed);
  if (needed == 1 && layout.bits > 8) {
    warn_clipped(source, layout.bits == 16 ? "16-bit grey values" : "floating-point grey values");
  }
  return decoded;
}

}  // namespace rfseg
