#include "media/image_exif.h"

#include "image_test_support.h"

namespace rfseg {
namespace {

/// A directory of one entry: tag 0x0112, the type and value given.
std::vector<uint8_t> block(bool big_endian, uint8_t type, uint8_t value) {
  std::vector<uint8_t> bytes;
  if (big_endian) {
    bytes = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, type, 0, 0, 0, 1, 0, value, 0, 0};
  } else {
    bytes = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, type, 0, 1, 0, 0, 0, value, 0, 0, 0};
  }
  return bytes;
}

TEST(Exif, ReadsBothByteOrders) {
  for (uint8_t value = 1; value <= 8; ++value) {
    for (const bool big_endian : {false, true}) {
      std::vector<uint8_t> bytes = block(big_endian, 3, value);
      EXPECT_EQ(exif_orientation(bytes.data(), bytes.size()), value);
      bytes.insert(bytes.begin(), {'E', 'x', 'i', 'f', 0, 0});
      EXPECT_EQ(exif_orientation(bytes.data(), bytes.size()), value);
    }
  }
}

TEST(Exif, MalformedBlocksAreUpright) {
  for (const uint8_t value : {uint8_t{0}, uint8_t{9}, uint8_t{255}}) {
    const std::vector<uint8_t> bytes = block(false, 3, value);
    EXPECT_EQ(exif_orientation(bytes.data(), bytes.size()), 1);
  }
  const std::vector<uint8_t> text = block(false, 2, 6);
  EXPECT_EQ(exif_orientation(text.data(), text.size()), 1);
  const std::vector<uint8_t> good = block(true, 3, 6);
  for (std::size_t size = 0; size + 2 < good.size(); ++size) {
    const std::vector<uint8_t> part(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(exif_orientation(part.data(), part.size()), 1) << size;
  }
  std::vector<uint8_t> far = block(false, 3, 6);
  far[4] = far[5] = far[6] = far[7] = 0xff;  // directory at 4 GiB
  EXPECT_EQ(exif_orientation(far.data(), far.size()), 1);
  std::vector<uint8_t> many = block(false, 2, 6);
  many[8] = many[9] = 0xff;  // 65535 entries
  many[10] = 0;
  EXPECT_EQ(exif_orientation(many.data(), many.size()), 1);
}

/// A 3 x 2 picture "abc/def" in every orientation, by the definition of the EXIF standard.
TEST(Exif, TurnsPictures) {
  const char* expected[] = {"",       "abcdef", "cbafed", "fedcba", "defabc",
                            "adbecf", "daebfc", "fcebda", "cfbead"};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    Image image(3, 2);
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        image.pixels[3 * i + c] = static_cast<uint8_t>('a' + i + 32 * c);
      }
    }
    const Image turned = apply_orientation(image, orientation);
    EXPECT_EQ(turned.width, orientation >= 5 ? 2 : 3);
    EXPECT_EQ(turned.height, orientation >= 5 ? 3 : 2);
    std::string text;
    for (std::size_t i = 0; i < 6; ++i) {
      text += static_cast<char>(turned.pixels[3 * i]);
      EXPECT_EQ(turned.pixels[3 * i + 2], turned.pixels[3 * i] + 64);
    }
    EXPECT_EQ(text, expected[orientation]) << orientation;
  }
}

}  // namespace
}  // namespace rfseg
