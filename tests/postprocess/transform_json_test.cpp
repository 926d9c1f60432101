#include "postprocess/transform_json.h"

#include <gtest/gtest.h>

#include "rfseg/error.h"

namespace rfseg {
namespace {

template <class F>
void expect_error(F&& f, const std::string& text) {
  try {
    f();
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).rfind("t.json: ", 0), 0u) << error.what();
  }
}

TEST(ClassMapJson, ReadsAndRefuses) {
  EXPECT_EQ(parse_class_map("[0, -1, 5, 2.0]", "t.json"), (std::vector<int>{0, -1, 5, 2}));
  const std::pair<const char*, const char*> bad[] = {
      {"", "JSON"},         {"{}", "array"},
      {"[]", "1..1048576"}, {"[1, -2]", "entry 1"},
      {"[1.5]", "entry 0"}, {"[\"a\"]", "entry 0"},
      {"[1e300]", "entry"}, {"[99999999999]", "entry"},
      {"[1", "JSON"},       {"[[[1]]]", "entry 0"},
      {"[null]", "entry 0"}};
  for (const auto& entry : bad) {
    expect_error([&] { parse_class_map(entry.first, "t.json"); }, entry.second);
  }
  expect_error([] { parse_class_map(std::string(100000, '['), "t.json"); }, "deep");
}

TEST(TransformJson, ReadsAllFields) {
  const PreprocessGeometry g = parse_transform(
      R"({"pad_left": 3, "pad_top": -4, "pad_right": 5, "pad_bottom": -6,
          "original_size": {"height": 480, "width": 640},
          "size_after_pre_processing": {"height": 300, "width": 400},
          "inference_size": {"height": 312, "width": 312}, "scale_width": 0.5, "scale_height": 1.25,
          "static_crop_offset": {"offset_x": 10, "offset_y": 20, "crop_width": 400, "crop_height": 300},
          "nonsquare_intermediate_size": {"height": 500, "width": 208}})",
      "t.json", 480, 640);
  EXPECT_EQ(g.original_height, 480);
  EXPECT_EQ(g.original_width, 640);
  EXPECT_EQ(g.crop_x, 10);
  EXPECT_EQ(g.crop_y, 20);
  EXPECT_EQ(g.crop_width, 400);
  EXPECT_EQ(g.crop_height, 300);
  EXPECT_EQ(g.pad_left, 3);
  EXPECT_EQ(g.pad_top, -4);
  EXPECT_EQ(g.pad_right, 5);
  EXPECT_EQ(g.pad_bottom, -6);
  EXPECT_EQ(g.scale_x, 0.5);
  EXPECT_EQ(g.scale_y, 1.25);
  EXPECT_EQ(g.network_height, 312);
  EXPECT_EQ(g.network_width, 312);
  EXPECT_EQ(g.intermediate_height, 500);
  EXPECT_EQ(g.intermediate_width, 208);
}

TEST(TransformJson, FillsWhatIsLeftOut) {
  const PreprocessGeometry g = parse_transform(
      R"({"inference_size": {"height": 312, "width": 384}, "nonsquare_intermediate_size": null})",
      "t.json", 100, 200);
  const PreprocessGeometry stretch = PreprocessGeometry::stretch(100, 200, 312, 384);
  EXPECT_EQ(g.crop_width, stretch.crop_width);
  EXPECT_EQ(g.crop_height, stretch.crop_height);
  EXPECT_EQ(g.scale_x, stretch.scale_x);
  EXPECT_EQ(g.scale_y, stretch.scale_y);
  EXPECT_EQ(g.intermediate_width, 0);
}

TEST(TransformJson, NamesWhatIsWrong) {
  const std::string size = R"("inference_size": {"height": 312, "width": 312})";
  const std::pair<std::string, const char*> bad[] = {
      {"[]", "must be an object"},
      {"{}", "inference_size"},
      {"{" + size + R"(, "pad": 1})", "unknown field 'pad'"},
      {"{" + size + R"(, "pad_left": 1.5})", "pad_left"},
      {"{" + size + R"(, "pad_left": 400})", "leave nothing"},
      {"{" + size + R"(, "scale_width": 0})", "scale_width"},
      {"{" + size + R"(, "scale_height": "1"})", "scale_height"},
      {"{" + size + R"(, "original_size": {"height": 10, "width": 200}})",
       "original_size is 10x200"},
      {"{" + size + R"(, "size_after_pre_processing": {"height": 9, "width": 9}})", "9x9"},
      {"{" + size + R"(, "static_crop_offset": {"offset_x": 0}})", "offset_y"},
      {"{" + size +
           R"(, "static_crop_offset": {"offset_x": 150, "offset_y": 0, "crop_width": 100, "crop_height": 5}})",
       "crop of 100 pixels at 150"},
      {R"({"inference_size": {"height": 0, "width": 312}})", "inference_size.height"},
      {R"({"inference_size": {"height": 312}})", "width"},
      {R"({"inference_size": 312})", "object"}};
  for (const auto& entry : bad) {
    expect_error([&] { parse_transform(entry.first, "t.json", 100, 200); }, entry.second);
  }
}

}  // namespace
}  // namespace rfseg
