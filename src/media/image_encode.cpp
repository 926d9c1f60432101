#include <fmt/format.h>
#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs size_t and FILE first.
#include <jpeglib.h>

#include "media/image_io.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kOutput, message); }

struct JpegWriter {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  unsigned char* bytes = nullptr;
  unsigned long size = 0;

  ~JpegWriter() {
    jpeg_destroy_compress(&info);
    std::free(bytes);
  }
};

void on_jpeg_error(j_common_ptr info) {
  auto* writer = static_cast<JpegWriter*>(info->client_data);
  info->err->format_message(info, writer->message);
  std::longjmp(writer->jump, 1);
}

void on_jpeg_message(j_common_ptr) {}

/// False after an error. Holds nothing with a destructor, since libjpeg leaves it by longjmp.
bool write_jpeg(JpegWriter& writer, const ImageView& rgb, int quality) {
  if (setjmp(writer.jump) != 0) return false;
  jpeg_create_compress(&writer.info);
  jpeg_mem_dest(&writer.info, &writer.bytes, &writer.size);
  writer.info.image_width = static_cast<JDIMENSION>(rgb.width);
  writer.info.image_height = static_cast<JDIMENSION>(rgb.height);
  writer.info.input_components = 3;
  writer.info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&writer.info);
  jpeg_set_quality(&writer.info, quality, TRUE);
  jpeg_start_compress(&writer.info, TRUE);
  while (writer.info.next_scanline < writer.info.image_height) {
    auto* row = const_cast<JSAMPROW>(
        rgb.planes[0] + static_cast<std::ptrdiff_t>(writer.info.next_scanline) * rgb.strides[0]);
    jpeg_write_scanlines(&writer.info, &row, 1);
  }
  jpeg_finish_compress(&writer.info);
  return true;
}

struct PngWriter {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf jump;
  char message[128] = "";
  std::vector<uint8_t> bytes;

  ~PngWriter() { png_destroy_write_struct(&png, &info); }
};

void on_png_error(png_structp png, png_const_charp message) {
  auto* writer = static_cast<PngWriter*>(png_get_error_ptr(png));
  std::snprintf(writer->message, sizeof writer->message, "%s", message);
  std::longjmp(writer->jump, 1);
}

void on_png_warning(png_structp, png_const_charp) {}

void on_png_write(png_structp png, png_bytep data, std::size_t count) {
  auto* writer = static_cast<PngWriter*>(png_get_io_ptr(png));
  writer->bytes.insert(writer->bytes.end(), data, data + count);
}

void on_png_flush(png_structp) {}

/// False after an error; see write_jpeg.
bool write_png(PngWriter& writer, const uint8_t* pixels, int width, int height, int channels) {
  if (setjmp(writer.jump) != 0) return false;
  writer.info = png_create_info_struct(writer.png);
  if (writer.info == nullptr) return false;
  png_set_user_limits(writer.png, 0x7fffffff, 0x7fffffff);
  png_set_write_fn(writer.png, &writer, on_png_write, on_png_flush);
  png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(width),
               static_cast<png_uint_32>(height), 8,
               channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(writer.png, writer.info);
  for (int y = 0; y < height; ++y) {
    png_write_row(writer.png, pixels + static_cast<std::size_t>(y) * width * channels);
  }
  png_write_end(writer.png, nullptr);
  return true;
}

}  // namespace

std::vector<uint8_t> encode_jpeg(const ImageView& rgb, int quality) {
  if (rgb.format != PixelFormat::kRgb8 || rgb.planes[0] == nullptr) {
    fail("JPEG encoder: only interleaved RGB is accepted");
  }
  if (rgb.width < 1 || rgb.height < 1 || rgb.width > 65500 || rgb.height > 65500) {
    fail(fmt::format("JPEG encoder: {}x{} pixels: each side must be 1 to 65500", rgb.width,
                     rgb.height));
  }
  if (quality < 1 || quality > 100) {
    fail(fmt::format("JPEG encoder: quality {}: 1 to 100 is accepted", quality));
  }
  JpegWriter writer{};
  writer.info.err = jpeg_std_error(&writer.errors);
  writer.errors.error_exit = on_jpeg_error;
  writer.errors.output_message = on_jpeg_message;
  writer.info.client_data = &writer;
  if (!write_jpeg(writer, rgb, quality)) fail(std::string("JPEG encoder: ") + writer.message);
  return {writer.bytes, writer.bytes + writer.size};
}

std::vector<uint8_t> encode_png(const uint8_t* pixels, int width, int height, int channels) {
  if (pixels == nullptr || width < 1 || height < 1 || (channels != 1 && channels != 3)) {
    fail(fmt::format("PNG encoder: {}x{} pixels of {} channels: 1 or 3 channels are accepted",
                     width, height, channels));
  }
  PngWriter writer;
  writer.png =
      png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, on_png_error, on_png_warning);
  if (writer.png == nullptr || !write_png(writer, pixels, width, height, channels)) {
    fail(std::string("PNG encoder: ") + writer.message);
  }
  return std::move(writer.bytes);
}

}  // namespace rfseg
