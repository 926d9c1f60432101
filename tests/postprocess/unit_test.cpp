#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <iostream>
#include <limits>
#include <string>

#include "core/coco_rle.h"
#include "postprocess/backends.h"
#include "postprocess/selection.h"
#include "postprocess/sigmoid.h"
#include "rfseg/error.h"
#include "scenes.h"

namespace rfseg {
namespace {

using test::Random;
using test::Scene;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// All floats were checked once; here blocks of neighbours all over the range.
TEST(Sigmoid, IsMonotoneAndWithinTwoUlpOfTheCorrectlyRounded) {
  constexpr uint32_t kBlock = 512, kStep = 65536;
  uint64_t checked = 0;
  for (const uint32_t sign : {0u, 0x80000000u}) {
    float previous = sign ? 1.0f : 0.0f;
    for (uint32_t from = 0; from < 0x42e00000u; from += kStep) {
      for (uint32_t bits = from; bits < from + kBlock; ++bits) {
        const float x = std::bit_cast<float>(bits | sign);
        const float found = sigmoid(x);
        const float exact = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x))));
        ASSERT_LE(std::abs(static_cast<int64_t>(std::bit_cast<int32_t>(found)) -
                           std::bit_cast<int32_t>(exact)),
                  2)
            << x;
        ASSERT_TRUE(sign ? found <= previous : found >= previous) << x;
        previous = found;
        ++checked;
      }
    }
  }
  EXPECT_GT(checked, 10'000'000u);
  EXPECT_EQ(sigmoid(0.0f), 0.5f);
  EXPECT_EQ(sigmoid(kInfinity), 1.0f);
  EXPECT_EQ(sigmoid(-kInfinity), 0.0f);
  EXPECT_TRUE(std::isnan(sigmoid(kNaN)));
}

TEST(Sigmoid, LowestPassingLogitIsTheBoundary) {
  Random random(5);
  for (int i = 0; i < 2000; ++i) {
    const float threshold = i % 2 ? random.uniform(0, 1) : sigmoid(random.uniform(-30, 18));
    float logit = 0;
    if (!lowest_passing_logit(threshold, &logit)) {
      EXPECT_EQ(threshold, 1.0f);
      continue;
    }
    EXPECT_GT(sigmoid(logit), threshold);
    EXPECT_LE(sigmoid(std::nextafter(logit, -kInfinity)), threshold);
  }
  float logit = 0;
  EXPECT_TRUE(lowest_passing_logit(-1.0f, &logit));
  EXPECT_EQ(logit, -kInfinity);
  EXPECT_FALSE(lowest_passing_logit(1.0f, &logit));
}

Scene small_scene(int queries, int classes) {
  Scene scene(queries, classes, 4, 4);
  for (float& v : scene.boxes) v = 0.5f;
  for (float& v : scene.masks) v = 1.0f;
  for (float& v : scene.logits) v = -5.0f;
  return scene;
}

PostprocessSpec small_spec() {
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(10, 20, 16, 16);
  return spec;
}

class Both : public ::testing::TestWithParam<Backend> {};
INSTANTIATE_TEST_SUITE_P(Backends, Both, ::testing::Values(Backend::kReference, Backend::kCpu),
                         [](const auto& info) {
                           return info.param == Backend::kCpu ? "Fast" : "Reference";
                         });

TEST_P(Both, TiesGoToTheLowerFlatIndexAndNaNIsNeverSelected) {
  Scene scene = small_scene(3, 4);
  scene.logits = {1, kNaN, 2, -5, 2, 1, kInfinity, kNaN, -kInfinity, 2, 40, 1};
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  const Detections found = postprocess(scene.view(), spec);
  const std::pair<int, int> expected[] = {{1, 2}, {2, 2}, {0, 2}, {1, 0},
                                          {2, 1}, {0, 0}, {1, 1}, {2, 3}};
  ASSERT_EQ(found.items.size(), std::size(expected));
  for (std::size_t i = 0; i < found.items.size(); ++i) {
    EXPECT_EQ(std::pair(found.items[i].query, found.items[i].class_id), expected[i]) << i;
  }
  EXPECT_EQ(found.items[0].score, 1.0f);
  EXPECT_EQ(found.items[0].mask, found.items[3].mask) << "one mask a query";
}

TEST_P(Both, DroppedClassesTakeUpSelection) {
  Scene scene = small_scene(2, 3);
  scene.logits = {4, 3, 2, 1, 0.5f, 0.25f};
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  spec.class_map = {-1, 7};  // the third column is beyond the map
  spec.num_select = 4;
  Detections found = postprocess(scene.view(), spec);
  ASSERT_EQ(found.items.size(), 1u);
  EXPECT_EQ(found.items[0].class_id, 7);
  EXPECT_EQ(found.items[0].query, 0);
  spec.num_select = 5;
  EXPECT_EQ(postprocess(scene.view(), spec).items.size(), 2u);
  spec.max_detections = 1;
  EXPECT_EQ(postprocess(scene.view(), spec).items.size(), 1u);
}

TEST_P(Both, ThresholdIsStrict) {
  Scene scene = small_scene(1, 2);
  scene.logits = {0, std::nextafter(1e-7f, 1.0f)};
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  spec.threshold = 0.5f;
  Detections found = postprocess(scene.view(), spec);
  ASSERT_EQ(found.items.size(), 1u);
  EXPECT_EQ(found.items[0].class_id, 1);
  spec.class_thresholds = {0.4f, 0.9f};
  found = postprocess(scene.view(), spec);
  ASSERT_EQ(found.items.size(), 1u);
  EXPECT_EQ(found.items[0].class_id, 0);
  spec.class_thresholds.clear();
  spec.threshold = 1.0f;
  EXPECT_TRUE(postprocess(scene.view(), spec).items.empty());
}

TEST_P(Both, EmptyFullAndMissingMasks) {
  Scene scene = small_scene(2, 1);
  scene.logits = {2, 1};
  for (int i = 0; i < 16; ++i) scene.mask(1)[i] = 0.0f;  // zero is background
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  Detections found = postprocess(scene.view(), spec);
  ASSERT_EQ(found.items.size(), 2u);
  EXPECT_EQ(found.items[0].mask->counts, rle_to_string({10, 20, {0, 200}}));
  EXPECT_EQ(found.items[1].mask->counts, rle_to_string({10, 20, {200}}));
  EXPECT_EQ(found.items[0].mask->area(), 200u);
  EXPECT_TRUE(found.items[1].mask->polygons().empty());
  const std::vector<std::vector<float>> frame = {{0, 0, 0, 9, 19, 9, 19, 0}};
  EXPECT_EQ(found.items[0].mask->polygons(), frame);

  NetworkOutputs outputs = scene.view();
  outputs.masks = nullptr;
  EXPECT_EQ(postprocess(outputs, spec).items[0].mask, nullptr);
  spec.masks = MaskFormat::kNone;
  EXPECT_EQ(postprocess(scene.view(), spec).items[0].mask, nullptr);
}

TEST_P(Both, NothingIsAnAnswer) {
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  const Detections none = postprocess(NetworkOutputs{}, spec);
  EXPECT_TRUE(none.items.empty());
  EXPECT_EQ(none.width, 20);
  EXPECT_EQ(none.height, 10);
  EXPECT_TRUE(postprocess(small_scene(3, 2).view(), spec).items.empty());
}

TEST_P(Both, BoxesAreClippedAndNeverNaN) {
  Scene scene = small_scene(3, 1);
  scene.logits = {3, 2, 1};
  scene.boxes = {0.5f, 0.5f, 4, -1, kNaN, 0.5f, 0.5f, kInfinity, 0.25f, 0.75f, 0.25f, 0.5f};
  PostprocessSpec spec = small_spec();
  spec.backend = GetParam();
  const Detections found = postprocess(scene.view(), spec);
  const float expected[3][4] = {{0, 5, 20, 5}, {0, 0, 0, 10}, {2.5f, 5, 7.5f, 10}};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t k = 0; k < 4; ++k) EXPECT_EQ(found.items[i].box_xyxy[k], expected[i][k]);
  }
}

void expect_error(const NetworkOutputs& outputs, const PostprocessSpec& spec, ErrorCode code,
                  const std::string& text) {
  try {
    postprocess(outputs, spec);
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Errors, NameWhatIsWrong) {
  const Scene scene = small_scene(1, 1);
  const PostprocessSpec good = small_spec();
  PostprocessSpec spec = good;
  spec.threshold = kNaN;
  expect_error(scene.view(), spec, ErrorCode::kUsage, "threshold");
  spec = good;
  spec.num_select = -1;
  expect_error(scene.view(), spec, ErrorCode::kUsage, "num_select -1");
  spec = good;
  spec.geometry.original_width = 0;
  expect_error(scene.view(), spec, ErrorCode::kInput, "picture's width of 0");
  spec = good;
  spec.geometry.crop_x = 5;
  expect_error(scene.view(), spec, ErrorCode::kInput, "crop of 20 pixels at 5");
  spec = good;
  spec.geometry.pad_left = 9;
  spec.geometry.pad_right = 7;
  expect_error(scene.view(), spec, ErrorCode::kInput, "leave nothing");
  spec = good;
  spec.geometry.original_height = spec.geometry.crop_height = 65535;
  spec.geometry.original_width = spec.geometry.crop_width = 65535;
  expect_error(scene.view(), spec, ErrorCode::kInput, "2^30");
  spec = good;
  spec.like = Convention::kInference;
  spec.geometry.scale_x = 0;
  expect_error(scene.view(), spec, ErrorCode::kInput, "scale");
  NetworkOutputs outputs = scene.view();
  outputs.logits = nullptr;
  expect_error(outputs, good, ErrorCode::kInput, "logits");
  outputs = scene.view();
  outputs.mask_rows = 0;
  expect_error(outputs, good, ErrorCode::kInput, "0x4 cells");
}

TEST(Masks, RefuseCountsThatDoNotFit) {
  const Mask mask{3, 3, "1"};
  EXPECT_THROW(mask.dense(), Error);
  EXPECT_THROW(mask.area(), Error);
  EXPECT_THROW(mask.polygons(), Error);
}

/// A line of /proc/self/status, in bytes: VmHWM is the peak, VmRSS what is resident now.
int64_t memory_status(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  ADD_FAILURE() << key << " is not in /proc/self/status";
  return 0;
}

void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

TEST(Memory, TwelveMegapixelsWithThreeHundredDetections) {
  constexpr int kQueries = 300, kGrid = 192;
  Scene scene(kQueries, 1, kGrid, kGrid);
  Random random(3);
  for (float& v : scene.logits) v = 3;
  for (float& v : scene.boxes) v = 0.5f;
  for (int q = 0; q < kQueries; ++q) {
    const float cy = random.uniform(0, kGrid), cx = random.uniform(0, kGrid);
    const float r = random.uniform(20, 90);
    for (int i = 0; i < kGrid * kGrid; ++i) {
      const int row = i / kGrid, column = i % kGrid;
      const float dy = static_cast<float>(row) - cy, dx = static_cast<float>(column) - cx;
      scene.mask(q)[i] = (r * r - dy * dy - dx * dx) / 200 + random.uniform(-0.5f, 0.5f);
    }
  }
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(3000, 4000, 768, 768);
  for (const Backend backend : {Backend::kCpu, Backend::kReference}) {
    spec.backend = backend;
    if (backend == Backend::kReference) spec.max_detections = 2;
    reset_peak();
    const int64_t before = memory_status("VmRSS");
    const Detections found = postprocess(scene.view(), spec);
    const int64_t used = memory_status("VmHWM") - before;
    EXPECT_EQ(found.items.size(), static_cast<std::size_t>(spec.max_detections));
    EXPECT_LT(used, 300'000'000);
    EXPECT_GT(found.items[1].mask->area(), 10000u);
    std::cout << (backend == Backend::kCpu ? "fast: " : "reference: ") << used / 1000000
              << " MB more at the peak\n";
  }
}

}  // namespace
}  // namespace rfseg
