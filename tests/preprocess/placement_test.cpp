#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "preprocess/preprocess.h"
#include "preprocess/test_picture.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

PreprocessSpec spec_312() {
  PreprocessSpec spec;
  spec.network_height = spec.network_width = 312;
  return spec;
}

TEST(Geometry, Stretch) {
  const PreprocessGeometry g = preprocess_geometry(480, 640, spec_312());
  EXPECT_EQ(g.original_height, 480);
  EXPECT_EQ(g.original_width, 640);
  EXPECT_EQ(g.crop_x, 0);
  EXPECT_EQ(g.crop_y, 0);
  EXPECT_EQ(g.crop_height, 480);
  EXPECT_EQ(g.crop_width, 640);
  EXPECT_EQ(g.pad_left + g.pad_right + g.pad_top + g.pad_bottom, 0);
  EXPECT_EQ(g.intermediate_height, 0);
  EXPECT_EQ(g.intermediate_width, 0);
  EXPECT_EQ(g.network_height, 312);
  EXPECT_DOUBLE_EQ(g.scale_x, 312.0 / 640);
  EXPECT_DOUBLE_EQ(g.scale_y, 312.0 / 480);
}

// int(x_min / 100 * W) in doubles: 29 % of 100 pixels is 28, as Python computes it.
TEST(Geometry, StaticCropTruncates) {
  PreprocessSpec spec = spec_312();
  spec.static_crop = StaticCrop{29, 58, 10, 95};
  const PreprocessGeometry g = preprocess_geometry(333, 100, spec);
  EXPECT_EQ(g.crop_x, 28);
  EXPECT_EQ(g.crop_width, 57 - 28);
  EXPECT_EQ(g.crop_y, 33);
  EXPECT_EQ(g.crop_height, 316 - 33);
  EXPECT_EQ(g.original_height, 333);
  EXPECT_EQ(g.original_width, 100);
  EXPECT_DOUBLE_EQ(g.scale_y, 312.0 / 283);
}

TEST(Geometry, LetterboxKeepsOneScale) {
  PreprocessSpec spec = spec_312();
  spec.placement = Placement::kLetterbox;
  spec.intermediate_width = 512;
  spec.intermediate_height = 301;
  const PreprocessGeometry g = preprocess_geometry(97, 333, spec);  // scale 512/333 -> 512 x 149
  EXPECT_DOUBLE_EQ(g.scale_x, 512.0 / 333);
  EXPECT_DOUBLE_EQ(g.scale_y, 512.0 / 333);
  EXPECT_EQ(g.pad_left, 0);
  EXPECT_EQ(g.pad_right, 0);
  EXPECT_EQ(g.pad_top, 76);
  EXPECT_EQ(g.pad_bottom, 76);
  EXPECT_EQ(g.intermediate_width, 512);
  EXPECT_EQ(g.intermediate_height, 301);
}

TEST(Geometry, CenterCropHasNegativePads) {
  PreprocessSpec spec = spec_312();
  spec.placement = Placement::kCenterCrop;
  spec.intermediate_width = 320;
  spec.intermediate_height = 321;
  const PreprocessGeometry g = preprocess_geometry(480, 101, spec);
  EXPECT_EQ(g.pad_left, 109);
  EXPECT_EQ(g.pad_right, 110);
  EXPECT_EQ(g.pad_top, -79);
  EXPECT_EQ(g.pad_bottom, -80);
  EXPECT_DOUBLE_EQ(g.scale_x, 1);
  EXPECT_DOUBLE_EQ(g.scale_y, 1);
}

TEST(Geometry, WithoutIntermediateSizeEveryPlacementStretches) {
  PreprocessSpec spec = spec_312();
  spec.placement = Placement::kLetterbox;
  const PreprocessGeometry g = preprocess_geometry(97, 333, spec);
  EXPECT_EQ(g.intermediate_width, 0);
  EXPECT_EQ(g.pad_top, 0);
  EXPECT_DOUBLE_EQ(g.scale_x, 312.0 / 333);
}

TEST(Geometry, SameFromPreprocess) {
  PreprocessSpec spec = spec_312();
  spec.static_crop = StaticCrop{10, 90, 20, 80};
  spec.placement = Placement::kLetterbox;
  spec.intermediate_width = spec.intermediate_height = 64;
  const Image image = test::noise_picture(90, 50, 1);
  std::vector<float> out(312 * 312 * 3);
  const PreprocessGeometry a = preprocess(image.view(), spec, out.data());
  const PreprocessGeometry b = preprocess_geometry(50, 90, spec);
  EXPECT_EQ(a.pad_top, b.pad_top);
  EXPECT_EQ(a.crop_width, b.crop_width);
  EXPECT_EQ(a.scale_x, b.scale_x);
  EXPECT_EQ(a.crop_width, 72);
  EXPECT_EQ(a.crop_height, 30);
}

void expect_input_error(const std::function<void()>& call, const std::string& part) {
  try {
    call();
    FAIL() << "expected an error with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Preconditions, EachIsRefused) {
  std::vector<float> out(312 * 312 * 3);
  const Image image = test::noise_picture(20, 10, 1);
  const auto run = [&](const ImageView& view, const PreprocessSpec& spec) {
    return [&out, view, spec] { preprocess(view, spec, out.data()); };
  };
  ImageView empty = image.view();
  empty.height = 0;
  expect_input_error(run(empty, spec_312()), "20x0");
  ImageView huge = image.view();
  huge.width = 65536;
  expect_input_error(run(huge, spec_312()), "65536x10");
  ImageView null = image.view();
  null.planes[0] = nullptr;
  expect_input_error(run(null, spec_312()), "without pixels");
  PreprocessSpec spec = spec_312();
  spec.network_width = 0;
  expect_input_error(run(image.view(), spec), "network input of 0x312");
  spec = spec_312();
  spec.padding_value = 256;
  expect_input_error(run(image.view(), spec), "padding value 256");
  spec = spec_312();
  spec.static_crop = StaticCrop{50, 50, 0, 100};
  expect_input_error(run(image.view(), spec), "static crop x 50..50");
  spec.static_crop = StaticCrop{0, 101, 0, 100};
  expect_input_error(run(image.view(), spec), "static crop x 0..101");
  spec.static_crop = StaticCrop{50, 52, 0, 100};
  expect_input_error(run(image.view(), spec), "leaves nothing");
  spec = spec_312();
  spec.placement = Placement::kLetterbox;
  spec.intermediate_width = 100;
  spec.intermediate_height = 1;
  const Image tall = test::noise_picture(2, 900, 1);
  expect_input_error(run(tall.view(), spec), "too narrow");
}

}  // namespace
}  // namespace rfseg
