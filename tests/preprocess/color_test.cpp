#include "preprocess/color.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "rfseg/error.h"

namespace rfseg {
namespace {

/// Owned planes of a YUV picture, rows padded by `pad` bytes.
struct YuvPicture {
  std::vector<uint8_t> planes[3];
  ImageView view;

  YuvPicture(PixelFormat format, int width, int height, int pad = 0) {
    const int bytes = format == PixelFormat::kP010 ? 2 : 1;
    const int chroma_width = (width + 1) / 2, chroma_height = (height + 1) / 2;
    const bool planar = format == PixelFormat::kI420;
    for (int i = 0; i < (planar ? 3 : 2); ++i) {
      const int row = (i == 0 ? width : planar ? chroma_width : 2 * chroma_width) * bytes + pad;
      planes[i].resize(static_cast<std::size_t>(row) * (i == 0 ? height : chroma_height));
      view.strides[i] = row;
      view.planes[i] = planes[i].data();
    }
    view.width = width;
    view.height = height;
    view.format = format;
  }

  void fill(std::mt19937& random) {
    for (auto& plane : planes) {
      for (uint8_t& byte : plane) byte = static_cast<uint8_t>(random());
    }
  }
};

std::vector<uint8_t> to_rgb(const ImageView& view) {
  std::vector<uint8_t> rgb(static_cast<std::size_t>(view.width) * view.height * 3 + 64, 0xcd);
  convert_to_rgb(view, rgb.data());
  for (std::size_t i = rgb.size() - 64; i < rgb.size(); ++i) {
    EXPECT_EQ(rgb[i], 0xcd) << "written past the end";
  }
  rgb.resize(rgb.size() - 64);
  return rgb;
}

/// A sample of the picture: plane value at (x, y) of component 0 (Y), 1 (U), 2 (V).
int sample(const ImageView& view, int component, int x, int y) {
  if (component > 0) x /= 2, y /= 2;
  const uint8_t* plane = view.planes[0] + y * view.strides[0];
  int position = x;
  if (component > 0) {
    const bool planar = view.format == PixelFormat::kI420;
    const int i = planar ? component : 1;
    plane = view.planes[i] + y * view.strides[i];
    position = planar ? x : 2 * x + component - 1;
  }
  if (view.format != PixelFormat::kP010) return plane[position];
  return (plane[2 * position] + 256 * plane[2 * position + 1]) >> 6;
}

/// The real-valued RGB of ITU-R BT.601 / BT.709 on a scale of 0 to 255, not clamped.
void exact_rgb(const ImageView& view, double y, double u, double v, double rgb[3]) {
  const bool ten = view.format == PixelFormat::kP010, full = view.range == YuvRange::kFull;
  const double top = ten ? 1023 : 255, unit = ten ? 4 : 1;
  const double kr = view.matrix == YuvMatrix::kBt601 ? 0.299 : 0.2126;
  const double kb = view.matrix == YuvMatrix::kBt601 ? 0.114 : 0.0722;
  const double luma = full ? y / top : (y - 16 * unit) / (219 * unit);
  const double pb = (u - 128 * unit) / (full ? top : 224 * unit);
  const double pr = (v - 128 * unit) / (full ? top : 224 * unit);
  rgb[0] = 255 * (luma + 2 * (1 - kr) * pr);
  rgb[2] = 255 * (luma + 2 * (1 - kb) * pb);
  rgb[1] = (255 * luma - kr * rgb[0] - kb * rgb[2]) / (1 - kr - kb);
}

/// Largest distance of `rgb` from the real-valued conversion, after rounding and clamping.
double distance_to_exact(const ImageView& view, const std::vector<uint8_t>& rgb) {
  double worst = 0;
  for (int y = 0; y < view.height; ++y) {
    for (int x = 0; x < view.width; ++x) {
      double expected[3];
      exact_rgb(view, sample(view, 0, x, y), sample(view, 1, x, y), sample(view, 2, x, y),
                expected);
      for (int c = 0; c < 3; ++c) {
        const double found = rgb[(static_cast<std::size_t>(y) * view.width + x) * 3 + c];
        worst = std::max(worst, std::abs(std::clamp(expected[c], 0.0, 255.0) - found));
      }
    }
  }
  return worst;
}

const PixelFormat kYuvFormats[] = {PixelFormat::kI420, PixelFormat::kNv12, PixelFormat::kP010};
const YuvMatrix kMatrices[] = {YuvMatrix::kBt601, YuvMatrix::kBt709};
const YuvRange kRanges[] = {YuvRange::kLimited, YuvRange::kFull};

TEST(Color, IsWithinOneLevelOfSwscale) {
  std::ifstream file(RFSEG_SOURCE_DIR "/tests/preprocess/data/color_swscale.bin", std::ios::binary);
  const std::vector<uint8_t> golden((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(golden.size(), 36720u);
  std::size_t at = 0;
  for (const PixelFormat format : kYuvFormats) {
    for (const YuvMatrix matrix : kMatrices) {
      for (const YuvRange range : kRanges) {
        YuvPicture picture(format, 34, 18);
        picture.view.matrix = matrix;
        picture.view.range = range;
        for (auto& plane : picture.planes) {
          std::copy_n(golden.begin() + at, plane.size(), plane.begin());
          at += plane.size();
        }
        const std::vector<uint8_t> rgb = to_rgb(picture.view);
        int worst = 0, differing = 0;
        for (std::size_t i = 0; i < rgb.size(); ++i) {
          const int difference = std::abs(rgb[i] - golden[at + i]);
          worst = std::max(worst, difference);
          differing += difference != 0;
        }
        at += rgb.size();
        EXPECT_LE(worst, 1) << static_cast<int>(format) << " " << static_cast<int>(matrix) << " "
                            << static_cast<int>(range) << ", " << differing << " of " << rgb.size()
                            << " differ";
      }
    }
  }
  EXPECT_EQ(at, golden.size());
}

// Every (Y, U, V) of 8 bits on a grid that holds the extremes, through the fast path.
TEST(Color, RoundsTheExactMatrix) {
  for (const YuvMatrix matrix : kMatrices) {
    for (const YuvRange range : kRanges) {
      YuvPicture picture(PixelFormat::kI420, 512, 2 * 18 * 18);
      picture.view.matrix = matrix;
      picture.view.range = range;
      for (int block = 0; block < 18 * 18; ++block) {
        for (int i = 0; i < 1024; ++i) {
          picture.planes[0][static_cast<std::size_t>(block) * 1024 + i] =
              static_cast<uint8_t>(i / 2);
        }
        for (int i = 0; i < 256; ++i) {
          picture.planes[1][static_cast<std::size_t>(block) * 256 + i] =
              static_cast<uint8_t>(block % 18 * 15);
          picture.planes[2][static_cast<std::size_t>(block) * 256 + i] =
              static_cast<uint8_t>(block / 18 * 15);
        }
      }
      // Half a level of rounding and what 13 fractional bits lose.
      EXPECT_LE(distance_to_exact(picture.view, to_rgb(picture.view)), 0.5 + 0.05);
    }
  }
}

TEST(Color, AllSizesAndStridesAgreeWithTheMatrix) {
  std::mt19937 random(7);
  for (const PixelFormat format : kYuvFormats) {
    for (const int width : {1, 2, 3, 31, 32, 33, 63, 64, 65, 97, 175}) {
      for (const int height : {1, 2, 3, 5}) {
        YuvPicture picture(format, width, height, 6);
        picture.fill(random);
        picture.view.matrix = kMatrices[random() % 2];
        picture.view.range = kRanges[random() % 2];
        EXPECT_LE(distance_to_exact(picture.view, to_rgb(picture.view)), 0.5 + 0.05)
            << static_cast<int>(format) << " " << width << "x" << height;
      }
    }
  }
}

// The last columns of a row go through the plain path: shifting a picture by one pair of columns
// moves every column from one path to the other, and must not change a bit.
TEST(Color, BothPathsGiveTheSameBits) {
  std::mt19937 random(8);
  for (const PixelFormat format : kYuvFormats) {
    const int bytes = format == PixelFormat::kP010 ? 2 : 1;
    YuvPicture picture(format, 256, 8);
    picture.fill(random);
    picture.view.matrix = YuvMatrix::kBt709;
    const std::vector<uint8_t> whole = to_rgb(picture.view);
    for (int x = 0; x < 256; x += 2) {
      ImageView part = picture.view;  // two columns: always the plain path
      part.width = 2;
      part.planes[0] += x * bytes;
      part.planes[1] += format == PixelFormat::kI420 ? x / 2 : x * bytes;
      if (format == PixelFormat::kI420) part.planes[2] += x / 2;
      const std::vector<uint8_t> rgb = to_rgb(part);
      for (int y = 0; y < 8; ++y) {
        for (int i = 0; i < 6; ++i) {
          ASSERT_EQ(rgb[y * 6 + i], whole[(static_cast<std::size_t>(y) * 256 + x) * 3 + i])
              << static_cast<int>(format) << " x " << x << " y " << y;
        }
      }
    }
  }
}

TEST(Color, KnownColours) {
  // 8-bit limited: black 16, white 235; 75 % red of BT.709 colour bars is (51, 109, 212).
  struct Case {
    int y, u, v, r, g, b;
  };
  for (const Case& c : {Case{16, 128, 128, 0, 0, 0}, Case{235, 128, 128, 255, 255, 255},
                        Case{51, 109, 212, 191, 0, 1}, Case{0, 128, 128, 0, 0, 0},
                        Case{255, 128, 128, 255, 255, 255}}) {
    YuvPicture picture(PixelFormat::kI420, 64, 2);
    picture.view.matrix = YuvMatrix::kBt709;
    std::fill(picture.planes[0].begin(), picture.planes[0].end(), static_cast<uint8_t>(c.y));
    std::fill(picture.planes[1].begin(), picture.planes[1].end(), static_cast<uint8_t>(c.u));
    std::fill(picture.planes[2].begin(), picture.planes[2].end(), static_cast<uint8_t>(c.v));
    const std::vector<uint8_t> rgb = to_rgb(picture.view);
    for (int x : {0, 63}) {
      EXPECT_NEAR(rgb[3 * x], c.r, 1);
      EXPECT_NEAR(rgb[3 * x + 1], c.g, 1);
      EXPECT_NEAR(rgb[3 * x + 2], c.b, 1);
    }
  }
}

TEST(Color, InterleavedFormatsKeepTheirSamples) {
  std::mt19937 random(9);
  struct Layout {
    PixelFormat format;
    int bytes, r, g, b;
  };
  for (const Layout& layout :
       {Layout{PixelFormat::kRgb8, 3, 0, 1, 2}, Layout{PixelFormat::kBgr8, 3, 2, 1, 0},
        Layout{PixelFormat::kRgba8, 4, 0, 1, 2}, Layout{PixelFormat::kGray8, 1, 0, 0, 0}}) {
    for (const int width : {1, 4, 5, 6, 7, 16, 21, 100}) {
      const int height = 3, stride = width * layout.bytes + 5;
      std::vector<uint8_t> pixels(static_cast<std::size_t>(stride) * height);
      for (uint8_t& byte : pixels) byte = static_cast<uint8_t>(random());
      ImageView view = ImageView::packed(pixels.data(), width, height, layout.format);
      view.planes[0] = pixels.data() + static_cast<std::size_t>(stride) * (height - 1);
      view.strides[0] = -stride;  // bottom up
      const std::vector<uint8_t> rgb = to_rgb(view);
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          const uint8_t* in = view.planes[0] + y * view.strides[0] + x * layout.bytes;
          const uint8_t* out = &rgb[(static_cast<std::size_t>(y) * width + x) * 3];
          ASSERT_EQ(out[0], in[layout.r]);
          ASSERT_EQ(out[1], in[layout.g]);
          ASSERT_EQ(out[2], in[layout.b]);
        }
      }
    }
  }
}

TEST(Color, RefusesEmptyAndIncompleteImages) {
  uint8_t pixel[3] = {1, 2, 3}, rgb[3];
  EXPECT_THROW(convert_to_rgb(ImageView::packed(pixel, 0, 1), rgb), Error);
  EXPECT_THROW(convert_to_rgb(ImageView::packed(pixel, 1, -1), rgb), Error);
  EXPECT_THROW(convert_to_rgb(ImageView::packed(nullptr, 1, 1), rgb), Error);
  ImageView nv12 = ImageView::packed(pixel, 1, 1, PixelFormat::kNv12);
  EXPECT_THROW(convert_to_rgb(nv12, rgb), Error);
}

}  // namespace
}  // namespace rfseg
