#include <algorithm>
#include <cstdlib>

#include "image_test_support.h"

namespace rfseg {
namespace {

Image gradient(int width, int height) {
  Image image(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* pixel = image.pixels.data() + (static_cast<std::size_t>(y) * width + x) * 3;
      pixel[0] = static_cast<uint8_t>(x * 255 / width);
      pixel[1] = static_cast<uint8_t>(y * 255 / height);
      pixel[2] = static_cast<uint8_t>(255 - pixel[0]);
    }
  }
  return image;
}

TEST(ImageEncode, PngIsLossless) {
  for (const auto& [width, height] : {std::pair{1, 1}, {37, 23}, {640, 3}}) {
    const Image image = gradient(width, height);
    const auto bytes = encode_png(image.pixels.data(), width, height, 3);
    const Image back = decode_image(bytes.data(), bytes.size(), "a.png");
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.height, height);
    EXPECT_EQ(back.pixels, image.pixels);
  }
  const std::vector<uint8_t> grey{0, 1, 2, 253, 254, 255};
  const auto bytes = encode_png(grey.data(), 2, 3, 1);
  const Image back = decode_image(bytes.data(), bytes.size(), "a.png");
  for (std::size_t i = 0; i < grey.size(); ++i) EXPECT_EQ(back.pixels[3 * i], grey[i]);
}

TEST(ImageEncode, JpegIsClose) {
  const Image image = gradient(64, 48);
  const auto bytes = encode_jpeg(image.view(), 95);
  const Image back = decode_image(bytes.data(), bytes.size(), "a.jpg");
  ASSERT_EQ(back.pixels.size(), image.pixels.size());
  int worst = 0;
  for (std::size_t i = 0; i < back.pixels.size(); ++i) {
    worst = std::max(worst, std::abs(back.pixels[i] - image.pixels[i]));
  }
  EXPECT_LE(worst, 16);
  EXPECT_LT(encode_jpeg(image.view(), 30).size(), bytes.size());
}

TEST(ImageEncode, JpegFollowsStrides) {
  const Image image = gradient(32, 16);
  ImageView flipped = image.view();
  flipped.planes[0] += flipped.strides[0] * 15;
  flipped.strides[0] = -flipped.strides[0];
  const auto bytes = encode_jpeg(flipped, 100);
  const Image back = decode_image(bytes.data(), bytes.size(), "a.jpg");
  EXPECT_NEAR(back.pixels[1], image.pixels[15 * 32 * 3 + 1], 6);
}

TEST(ImageEncode, BadArguments) {
  const Image image = gradient(4, 4);
  ImageView bgr = image.view();
  bgr.format = PixelFormat::kBgr8;
  EXPECT_THROW(encode_jpeg(bgr, 90), Error);
  EXPECT_THROW(encode_jpeg(image.view(), 0), Error);
  EXPECT_THROW(encode_jpeg(image.view(), 101), Error);
  EXPECT_THROW(encode_jpeg(ImageView{}, 90), Error);
  EXPECT_THROW(encode_png(image.pixels.data(), 4, 4, 4), Error);
  EXPECT_THROW(encode_png(image.pixels.data(), 0, 4, 3), Error);
  EXPECT_THROW(encode_png(nullptr, 4, 4, 3), Error);
}

}  // namespace
}  // namespace rfseg
