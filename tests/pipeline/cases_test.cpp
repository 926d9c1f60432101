#include "pipeline/cases.h"

#include <gtest/gtest.h>

#include <cmath>

#include "rfseg/error.h"

namespace rfseg {
namespace {

TEST(Cases, PicturesOfOddSizesArePackedAndSeenAgain) {
  // 5 x 3 pixels: chroma planes of 3 x 2 samples. Rows are padded by 7 bytes of 0xee.
  constexpr int kWidth = 5, kHeight = 3;
  for (const auto& [format, row_bytes, rows] :
       std::vector<std::tuple<PixelFormat, std::vector<int>, std::vector<int>>>{
           {PixelFormat::kGray8, {5}, {3}},
           {PixelFormat::kBgr8, {15}, {3}},
           {PixelFormat::kRgba8, {20}, {3}},
           {PixelFormat::kNv12, {5, 6}, {3, 2}},
           {PixelFormat::kI420, {5, 3, 3}, {3, 2, 2}},
           {PixelFormat::kP010, {10, 12}, {3, 2}}}) {
    ImageView view;
    view.width = kWidth;
    view.height = kHeight;
    view.format = format;
    view.matrix = YuvMatrix::kBt709;
    std::vector<std::vector<uint8_t>> planes;
    std::vector<uint8_t> expected;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      planes.emplace_back(static_cast<std::size_t>(rows[i]) * (row_bytes[i] + 7), 0xee);
      for (int row = 0; row < rows[i]; ++row) {
        for (int byte = 0; byte < row_bytes[i]; ++byte) {
          expected.push_back(static_cast<uint8_t>(expected.size() % 200));
          planes[i][static_cast<std::size_t>(row) * (row_bytes[i] + 7) + byte] = expected.back();
        }
      }
      view.planes[i] = planes[i].data();
      view.strides[i] = row_bytes[i] + 7;
    }
    EXPECT_EQ(pack_picture(view), expected);
    const PictureLayout layout{kWidth, kHeight, format, view.matrix, view.range};
    ASSERT_EQ(packed_bytes(layout), expected.size());
    const ImageView again = packed_view(expected.data(), layout);
    EXPECT_EQ(pack_picture(again), expected);
    EXPECT_EQ(again.matrix, YuvMatrix::kBt709);
  }
}

TEST(Cases, EveryFieldOfTheManifestIsReadBack) {
  CaseManifest manifest;
  manifest.made_by["model"] = "m.pth";
  manifest.cases.reserve(2);  // references stay good
  CaseEntry& post = manifest.cases.emplace_back();
  post.name = "a";
  post.source = "v.mp4";
  post.frame = 7;
  post.boxes = "b.npy";
  post.logits = "l.npy";
  post.masks = "m.npy";
  PostprocessSpec& spec = post.postprocess;
  spec.like = Convention::kInference;
  spec.threshold = 0.1f;
  spec.class_thresholds = {0.2f, 0.3f};
  spec.class_map = {1, -1, 0};
  spec.num_select = 17;
  spec.max_detections = 9;
  PreprocessGeometry& g = spec.geometry;
  g = PreprocessGeometry::stretch(40, 30, 24, 48);
  g.crop_x = 1;
  g.crop_y = 2;
  g.pad_left = -3;
  g.pad_bottom = 4;
  g.intermediate_width = 50;
  g.scale_x = 1.0 / 3;
  post.expected.width = 30;
  post.expected.height = 40;
  Detection detection;
  detection.class_id = 2;
  detection.query = 5;
  detection.score = 0.7f;
  detection.box_xyxy[2] = 12.3f;
  detection.mask = std::make_shared<const Mask>(Mask{40, 30, "`U1"});  // [1200]
  post.expected.items.push_back(detection);
  CaseEntry& pre = manifest.cases.emplace_back();
  pre.stage = CaseEntry::Stage::kPreprocess;
  pre.name = "b";
  pre.pixels = "p.npy";
  pre.tensor = "t.npy";
  pre.picture = {5, 3, PixelFormat::kP010, YuvMatrix::kBt709, YuvRange::kFull};
  pre.preprocess.network_height = 24;
  pre.preprocess.network_width = 48;
  pre.preprocess.resize = ResizeMode::kPil13;
  pre.preprocess.static_crop = StaticCrop{1, 99, 2, 98};
  pre.preprocess.placement = Placement::kLetterbox;
  pre.preprocess.padding_value = 114;

  const std::string text = manifest_text(manifest);
  const CaseManifest again = parse_manifest(text, "m.json");
  EXPECT_EQ(manifest_text(again), text);
  ASSERT_EQ(again.cases.size(), 2u);
  EXPECT_EQ(again.made_by, manifest.made_by);
  EXPECT_EQ(again.cases[0].frame, 7);
  EXPECT_EQ(again.cases[0].postprocess.threshold, 0.1f);
  EXPECT_EQ(again.cases[0].postprocess.class_map, spec.class_map);
  EXPECT_EQ(again.cases[0].postprocess.geometry.pad_left, -3);
  EXPECT_EQ(again.cases[0].postprocess.geometry.scale_x, 1.0 / 3);
  EXPECT_EQ(again.cases[0].expected.items[0].mask->counts, "`U1");
  EXPECT_EQ(again.cases[1].picture.format, PixelFormat::kP010);
  EXPECT_EQ(again.cases[1].preprocess.std[2], 0.225f);
  ASSERT_TRUE(again.cases[1].preprocess.static_crop.has_value());
  EXPECT_EQ(again.cases[1].preprocess.static_crop->y_max, 98);

  manifest.cases[0].expected.items[0].score = NAN;
  EXPECT_THROW(manifest_text(manifest), Error);
}

}  // namespace
}  // namespace rfseg
