// Every picture of images/ against Pillow's pixels (make_goldens.py).

#include <sstream>
#include <thread>

#include "image_test_support.h"

namespace rfseg {
namespace {

using test::crc32_hex;
using test::image_path;
using test::LogCapture;

struct Golden {
  std::string name;
  int stored_width, stored_height, upright_width, upright_height;
  std::string stored_crc, upright_crc;
};

std::vector<Golden> goldens() {
  std::ifstream file(image_path("goldens.txt"));
  std::vector<Golden> list;
  Golden g;
  while (file >> g.name >> g.stored_width >> g.stored_height >> g.stored_crc >> g.upright_width >>
         g.upright_height >> g.upright_crc) {
    list.push_back(g);
  }
  EXPECT_GT(list.size(), 100u);
  return list;
}

TEST(ImageDecode, EqualsPillow) {
  for (const Golden& golden : goldens()) {
    SCOPED_TRACE(golden.name);
    const Image upright = decode_image(image_path(golden.name));
    EXPECT_EQ(upright.width, golden.upright_width);
    EXPECT_EQ(upright.height, golden.upright_height);
    EXPECT_EQ(crc32_hex(upright.pixels), golden.upright_crc);
    DecodeOptions as_stored;
    as_stored.apply_exif = false;
    const Image stored = decode_image(image_path(golden.name), as_stored);
    EXPECT_EQ(stored.width, golden.stored_width);
    EXPECT_EQ(stored.height, golden.stored_height);
    EXPECT_EQ(crc32_hex(stored.pixels), golden.stored_crc);
  }
}

TEST(ImageDecode, WorksFromSeveralThreads) {
  const std::vector<Golden> list = goldens();
  const auto work = [&list] {
    for (const Golden& golden : list) {
      const Image image = decode_image(image_path(golden.name));
      EXPECT_EQ(crc32_hex(image.pixels), golden.upright_crc) << golden.name;
    }
  };
  std::thread other(work);
  work();
  other.join();
}

TEST(ImageDecode, ClippedPicturesAreNamedInAWarning) {
  for (const std::string name : {"png_0_16.png", "grey_16.tif", "grey_16.pgm", "grey_float.tif"}) {
    const LogCapture log;
    decode_image(image_path(name));
    ASSERT_EQ(log.messages().size(), 1u) << name;
    EXPECT_NE(log.messages()[0].find(name), std::string::npos);
    EXPECT_NE(log.messages()[0].find("clipped at 255"), std::string::npos);
  }
  for (const std::string name : {"png_2_16.png", "rgb_16.tif", "rgb_420.jpg", "png_3_4.png"}) {
    const LogCapture log;
    decode_image(image_path(name));
    EXPECT_TRUE(log.messages().empty()) << name << ": " << log.messages()[0];
  }
}

TEST(ImageDecode, AWrongNameIsSaid) {
  const LogCapture log;
  decode_image(image_path("jpeg_in_png_clothing.png"));
  ASSERT_EQ(log.messages().size(), 1u);
  EXPECT_NE(log.messages()[0].find("the content is JPEG, not PNG"), std::string::npos);
}

TEST(ImageDecode, KnowsNames) {
  for (const char* name : {"a.jpg", "A.JPEG", "x/y.b.png", "a.webp", "a.TIF", "a.tiff", "a.bmp",
                           "a.ppm", "a.pgm", "a.pbm"}) {
    EXPECT_TRUE(is_image_name(name)) << name;
  }
  for (const char* name : {"a.mp4", "jpg", "a.jpg/b", "a.", "", "a.jpg.txt", "a.gif"}) {
    EXPECT_FALSE(is_image_name(name)) << name;
  }
}

}  // namespace
}  // namespace rfseg
