// JPEG through libjpeg(-turbo) with its defaults, which are Pillow's: accurate integer DCT, smooth
// chroma upsampling.

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <utility>
// jpeglib.h needs size_t and FILE first.
#include <jerror.h>
#include <jpeglib.h>

#include "core/log.h"
#include "media/image_decoders.h"
#include "media/image_exif.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

/// Error state of one decompressor. libjpeg is left by longjmp, so that nothing with a destructor
/// lives in the functions that call it after setjmp.
struct JpegState {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_source_mgr reader;
  jpeg_progress_mgr progress;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

JpegState* state_of(j_common_ptr info) { return static_cast<JpegState*>(info->client_data); }

void on_error(j_common_ptr info) {
  info->err->format_message(info, state_of(info)->message);
  std::longjmp(state_of(info)->jump, 1);
}

void on_message(j_common_ptr) {}

void on_warning(j_common_ptr info, int level) {
  if (level < 0) ++info->err->num_warnings;
}

[[noreturn]] void stop(j_decompress_ptr info, const char* message) {
  JpegState* state = state_of(reinterpret_cast<j_common_ptr>(info));
  std::snprintf(state->message, sizeof state->message, "%s", message);
  std::longjmp(state->jump, 1);
}

/// A damaged or hostile progressive file may repeat scans without end.
void on_progress(j_common_ptr info) {
  constexpr int kMaxScans = 500;
  auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
  if (decompress->input_scan_number > kMaxScans) stop(decompress, "too many scans");
}

void start_source(j_decompress_ptr) {}
void end_source(j_decompress_ptr) {}
boolean fill_source(j_decompress_ptr info) { stop(info, "the file is truncated"); }

void skip_source(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  auto* reader = info->src;
  if (static_cast<std::size_t>(count) > reader->bytes_in_buffer)
    stop(info, "the file is truncated");
  reader->next_input_byte += count;
  reader->bytes_in_buffer -= static_cast<std::size_t>(count);
}

/// What the scan lines are read into.
struct JpegOutput {
  Image image;
  std::vector<uint8_t> row;  ///< of CMYK or grey samples
  int orientation = 1;
};

void read_header(JpegState& state) {
  jpeg_save_markers(&state.info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&state.info, TRUE);
}

/// Whether `size` bytes can hold the picture: a Huffman-coded block takes one bit or more. What the
/// header claims beyond that is damage, and would only take memory.
bool can_hold(const jpeg_decompress_struct& info, std::size_t size) {
  if (info.arith_code) return true;
  uint64_t blocks = 0;
  for (int i = 0; i < info.num_components; ++i) {
    blocks += uint64_t{info.comp_info[i].width_in_blocks} * info.comp_info[i].height_in_blocks;
  }
  return blocks <= uint64_t{size} * 8;
}

int orientation_of(const jpeg_decompress_struct& info) {
  for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->marker == JPEG_APP0 + 1 && marker->data_length >= 6 &&
        std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      return exif_orientation(marker->data, marker->data_length);
    }
  }
  return 1;
}

/// Adobe's convention, which Pillow assumes for every such file: 255 = no ink.
void convert_cmyk_row(const uint8_t* cmyk, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    cmyk_to_rgb(255 - cmyk[0], 255 - cmyk[1], 255 - cmyk[2], 255 - cmyk[3], rgb);
  }
}

void read_rows(JpegState& state, JpegOutput& output) {
  jpeg_start_decompress(&state.info);
  const int width = output.image.width;
  const std::size_t row_bytes = static_cast<std::size_t>(width) * 3;
  constexpr int kRows = 16;
  while (state.info.output_scanline < state.info.output_height) {
    // Memory grows with what was really decoded, whatever size the header claims.
    const std::size_t done = state.info.output_scanline;
    const std::size_t left = state.info.output_height - done;
    const std::size_t band = left < kRows ? left : kRows;
    output.image.pixels.resize((done + band) * row_bytes);
    for (std::size_t y = done; y < done + band; ++y) {
      uint8_t* rgb = output.image.pixels.data() + y * row_bytes;
      JSAMPROW target = state.info.output_components == 3 ? rgb : output.row.data();
      jpeg_read_scanlines(&state.info, &target, 1);
      if (state.info.output_components == 4) {
        convert_cmyk_row(target, width, rgb);
      } else if (state.info.output_components == 1) {
        for (int x = 0; x < width; ++x) rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = target[x];
      }
    }
  }
  jpeg_finish_decompress(&state.info);
}

/// False after an error, with its message in `state`.
template <class Step>
bool guarded(JpegState& state, Step step) {
  if (setjmp(state.jump) != 0) return false;
  step();
  return true;
}

/// Destroys the decompressor however the function is left.
struct JpegGuard {
  JpegState& state;
  ~JpegGuard() { jpeg_destroy_decompress(&state.info); }
};

}  // namespace

DecodedImage decode_jpeg(const ImageSource& source) {
  JpegState state{};
  JpegOutput output;
  state.info.err = jpeg_std_error(&state.errors);
  state.errors.error_exit = on_error;
  state.errors.output_message = on_message;
  state.errors.emit_message = on_warning;
  state.info.client_data = &state;
  const auto check = [&](bool done) {
    if (!done) fail_image(source, std::string("broken JPEG: ") + state.message);
  };
  const JpegGuard guard{state};
  check(guarded(state, [&] { jpeg_create_decompress(&state.info); }));
  state.reader.next_input_byte = source.data;
  state.reader.bytes_in_buffer = source.size;
  state.reader.init_source = start_source;
  state.reader.fill_input_buffer = fill_source;
  state.reader.skip_input_data = skip_source;
  state.reader.resync_to_restart = jpeg_resync_to_restart;
  state.reader.term_source = end_source;
  state.info.src = &state.reader;
  state.progress.progress_monitor = on_progress;
  state.info.progress = &state.progress;

  check(guarded(state, [&] { read_header(state); }));
  check_image_size(source, state.info.image_width, state.info.image_height);
  if (!can_hold(state.info, source.size)) fail_image(source, "broken JPEG: the file is truncated");
  output.orientation = orientation_of(state.info);
  switch (state.info.num_components) {
    case 1:
      state.info.out_color_space = JCS_GRAYSCALE;
      break;
    case 3:
      state.info.out_color_space = JCS_RGB;
      break;
    case 4:
      state.info.out_color_space = JCS_CMYK;
      break;
    default:
      fail_image(source, "JPEG of " + std::to_string(state.info.num_components) +
                             " components: 1, 3 or 4 are accepted");
  }
  output.image.width = static_cast<int>(state.info.image_width);
  output.image.height = static_cast<int>(state.info.image_height);
  output.image.pixels.reserve(static_cast<std::size_t>(output.image.width) * output.image.height *
                              3);
  output.row.resize(static_cast<std::size_t>(output.image.width) * 4);
  check(guarded(state, [&] { read_rows(state, output); }));
  if (state.errors.num_warnings > 0) {
    log_debug(source.name + ": damaged JPEG data was skipped over");
  }
  return {std::move(output.image), output.orientation};
}

}  // namespace rfseg
