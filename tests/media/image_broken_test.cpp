// Pictures that cannot be read: one clear line each, whatever is wrong.

#include <algorithm>

#include "image_test_support.h"

namespace rfseg {
namespace {

using test::decode_error;
using test::read_bytes;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(BrokenImage, MissingAndEmptyFiles) {
  try {
    decode_image("/nowhere/a.jpg");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_TRUE(contains(error.what(), "/nowhere/a.jpg")) << error.what();
  }
  EXPECT_TRUE(contains(decode_error({}, "empty.png"), "empty"));
}

TEST(BrokenImage, NoPicture) {
  const std::string text = "GIF89a and other things that are no picture of ours";
  const std::string message = decode_error({text.begin(), text.end()}, "a.jpg");
  EXPECT_TRUE(contains(message, "JPEG, PNG, BMP, PPM/PGM/PBM, WebP or TIFF is accepted"))
      << message;
  for (const char* magic : {"\xff", "\x89PNG", "RIFF", "II*", "B", "P", "P6", "P7 "}) {
    const std::string part = magic;
    decode_error({part.begin(), part.end()}, "magic");
  }
}

/// Cut anywhere in its pixels, a file is refused, as Pillow refuses it.
TEST(BrokenImage, TruncatedFiles) {
  for (const std::string name :
       {"rgb_420.jpg", "progressive.jpg", "cmyk.jpg", "png_2_8.png", "png_2_8_adam7.png",
        "png_3_4.png", "lossy.webp", "lossless.webp", "alpha.webp", "rgb_lzw.tif", "rgb_tiles.tif",
        "rgb_planes.tif", "rgb.bmp", "palette.bmp", "rle8.bmp", "rgb.ppm", "bits.pbm",
        "text.pgm"}) {
    const std::vector<uint8_t> whole = read_bytes(name);
    for (int tenth = 1; tenth < 10; ++tenth) {
      const auto end = static_cast<std::ptrdiff_t>(whole.size() * tenth / 10);
      // A TIFF may keep its directory in front, but its last strip is always cut.
      decode_error({whole.begin(), whole.begin() + end}, name + " cut");
    }
    // Four bytes are padding in BMP, and checksums that Pillow does not miss in PNG.
    if (name == "rgb_420.jpg" || name == "rgb_lzw.tif" || name == "rgb.ppm" || name == "bits.pbm") {
      decode_error({whole.begin(), whole.end() - 1}, name + " short by one");
    }
  }
}

TEST(BrokenImage, EveryPrefixEndsWell) {
  for (const std::string name : {"rgb_420.jpg", "png_2_8.png", "rgb.ppm", "rgb_lzw.tif", "os2.bmp",
                                 "rle4.bmp", "animated.webp", "text.pgm"}) {
    const std::vector<uint8_t> whole = read_bytes(name);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const std::vector<uint8_t> part(whole.begin(),
                                      whole.begin() + static_cast<std::ptrdiff_t>(size));
      try {
        decode_image(part.data(), part.size(), name);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kInput);
      }
    }
  }
}

TEST(BrokenImage, OverTheLimit) {
  DecodeOptions options;
  options.max_pixels = 30;
  for (const std::string name : {"rgb_420.jpg", "png_2_8.png", "lossy.webp", "rgb_lzw.tif",
                                 "rgb.bmp", "rgb.ppm", "bits.pbm"}) {
    const std::string message = decode_error(read_bytes(name), name, options);
    EXPECT_TRUE(contains(message, "pixels are too many: at most 30 are read")) << message;
  }
  options.max_pixels = 35;
  EXPECT_EQ(decode_image(test::image_path("rgb.ppm"), options).width, 7);
}

/// Headers that claim a huge picture are refused before memory is taken.
TEST(BrokenImage, LyingSizes) {
  std::vector<uint8_t> png = read_bytes("png_2_8.png");
  // Width and height of the header, and a checksum that fits.
  const uint8_t header[] = {0, 0, 0x40, 0, 0, 0, 0x40, 0, 8, 2, 0, 0, 0, 0x55, 0xee, 0x22, 0xed};
  std::copy(std::begin(header), std::end(header), png.begin() + 16);
  decode_error(png, "lying.png");

  std::vector<uint8_t> jpeg = read_bytes("rgb_420.jpg");
  const uint8_t frame[] = {0xff, 0xc0};
  const auto at = std::search(jpeg.begin(), jpeg.end(), std::begin(frame), std::end(frame));
  ASSERT_NE(at, jpeg.end());
  for (int i = 5; i < 9; ++i) at[i] = i % 2 == 1 ? 0xff : 0xdc;
  EXPECT_TRUE(contains(decode_error(jpeg, "lying.jpg"), "too many"));
  for (int i = 5; i < 9; ++i) at[i] = i % 2 == 1 ? 0x30 : 0x00;
  EXPECT_TRUE(contains(decode_error(jpeg, "lying.jpg"), "broken JPEG"));

  for (const std::string text : {"P6 16000 16000 255\nabc", "P3 16000 16000 255\n1 2",
                                 "P1 16000 16000\n1", "P4 16000 16000\n1"}) {
    EXPECT_TRUE(contains(decode_error({text.begin(), text.end()}, "lying.ppm"), "truncated"));
  }
  std::vector<uint8_t> bmp = read_bytes("rgb.bmp");
  bmp[19] = bmp[23] = 0x30;
  EXPECT_TRUE(contains(decode_error(bmp, "lying.bmp"), "truncated"));
}

TEST(BrokenImage, DamagedHeadersOfText) {
  for (const std::string text :
       {"P6 0 5 255\n", "P6 5 x 255\n", "P6 5 5 0\n", "P6 5 5 65536\n", "P6 99999999999 5 255\n",
        "P3 1 1 255\n1 2 256", "P3 1 1 255\n1 2 -3", "P1 2 1\n02", "P5 #", "P2 1 1"}) {
    decode_error({text.begin(), text.end()}, "bad.ppm");
  }
}

TEST(BrokenImage, KindsThatAreNotRead) {
  std::vector<uint8_t> bmp = read_bytes("rgb.bmp");
  bmp[30] = 4;  // compression: JPEG
  EXPECT_TRUE(contains(decode_error(bmp, "jpeg.bmp"), "compression 4 is not read"));
  bmp = read_bytes("rgb.bmp");
  bmp[14] = 41;
  EXPECT_TRUE(contains(decode_error(bmp, "header.bmp"), "header of 41 bytes"));
  std::vector<uint8_t> tiff = read_bytes("rgb_16.tif");
  const uint8_t photometric[] = {0x06, 0x01, 3, 0, 1, 0, 0, 0, 2, 0};
  const auto at =
      std::search(tiff.begin(), tiff.end(), std::begin(photometric), std::end(photometric));
  ASSERT_NE(at, tiff.end());
  at[8] = 8;  // CIE L*a*b*
  EXPECT_TRUE(contains(decode_error(tiff, "lab.tif"), "photometric 8"));
}

}  // namespace
}  // namespace rfseg
