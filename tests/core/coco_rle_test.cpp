#include "core/coco_rle.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "rfseg/error.h"

// Goldens: data/coco_rle.json, written by make_goldens.py with pycocotools and NumPy.

namespace rfseg {
namespace {

using Json = nlohmann::json;

const Json& goldens() {
  static const Json json = [] {
    std::ifstream file(RFSEG_SOURCE_DIR "/tests/core/data/coco_rle.json");
    return Json::parse(file);
  }();
  return json;
}

std::vector<uint8_t> unpack_bits(const std::string& hex, std::size_t pixels) {
  std::vector<uint8_t> mask(pixels);
  for (std::size_t i = 0; i < pixels; ++i) {
    const int byte = std::stoi(hex.substr(i / 8 * 2, 2), nullptr, 16);
    mask[i] = (byte >> (7 - i % 8)) & 1;
  }
  return mask;
}

struct Size {
  int height, width;
};
Size size_of(const Json& entry) { return {entry["size"][0], entry["size"][1]}; }

Rle parse(const Json& entry, const Json& counts) {
  const auto [height, width] = size_of(entry);
  return rle_from_string(counts.get<std::string>(), height, width);
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
  return "no error";
}

TEST(CocoRle, MasksAsPycocotools) {
  ASSERT_GE(goldens()["masks"].size(), 50u);
  for (const Json& entry : goldens()["masks"]) {
    const auto [height, width] = size_of(entry);
    SCOPED_TRACE(entry["counts"].get<std::string>());
    auto dense = unpack_bits(entry["bits"], static_cast<std::size_t>(height) * width);
    const Rle rle = rle_encode(dense.data(), height, width);
    EXPECT_EQ(rle.height, height);
    EXPECT_EQ(rle.width, width);
    EXPECT_EQ(rle.counts, entry["runs"].get<std::vector<uint32_t>>());
    EXPECT_EQ(rle_to_string(rle), entry["counts"].get<std::string>());
    EXPECT_EQ(rle_area(rle), entry["area"].get<uint64_t>());
    double bbox[4];
    rle_to_bbox(rle, bbox);
    EXPECT_EQ(std::vector<double>(bbox, bbox + 4), entry["bbox"].get<std::vector<double>>());
    EXPECT_EQ(rle_decode(rle), dense);
    EXPECT_EQ(parse(entry, entry["counts"]).counts, rle.counts);
    EXPECT_EQ(rle_from_counts(entry["runs"], height, width).counts, rle.counts);
    for (uint8_t& pixel : dense) pixel = pixel ? 255 : 0;
    EXPECT_EQ(rle_encode(dense.data(), height, width).counts, rle.counts);
  }
}

TEST(CocoRle, MergeAndIouAsPycocotools) {
  ASSERT_GE(goldens()["groups"].size(), 20u);
  for (const Json& entry : goldens()["groups"]) {
    std::vector<Rle> masks;
    for (const Json& counts : entry["counts"]) masks.push_back(parse(entry, counts));
    EXPECT_EQ(rle_to_string(rle_merge(masks, false)), entry["union"].get<std::string>());
    EXPECT_EQ(rle_to_string(rle_merge(masks, true)), entry["intersection"].get<std::string>());
    for (std::size_t d = 0; d < masks.size(); ++d) {
      for (std::size_t g = 0; g < masks.size(); ++g) {
        const double iou = rle_iou(masks[d], masks[g], entry["crowd"][g] == 1);
        EXPECT_EQ(iou, entry["iou"][d][g].get<double>());
      }
    }
  }
}

TEST(CocoRle, PolygonsAsPycocotools) {
  ASSERT_GE(goldens()["polygons"].size(), 200u);
  for (const Json& entry : goldens()["polygons"]) {
    const auto [height, width] = size_of(entry);
    const Rle rle = rle_from_polygon(entry["xy"], height, width);
    EXPECT_EQ(rle_to_string(rle), entry["counts"].get<std::string>()) << entry.dump();
  }
}

TEST(CocoRle, PolygonFarOutsideTakesNoTimeOrMemory) {
  const Rle rle = rle_from_polygon({-9e7, -9e7, 9e7, -9e7, 9e7, 9e7, -9e7, 9e7}, 50, 70);
  EXPECT_EQ(rle.counts, (std::vector<uint32_t>{0, 3500}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(rle_from_polygon({0, 0, nan, 0, 5, 5}, 10, 10), Error);
  EXPECT_THROW(rle_from_polygon({0, 0, 1e300, 0, 5, 5}, 10, 10), Error);
  // Four edges across 2^25 columns each.
  EXPECT_THROW(rle_from_polygon({0, 0, 9e7, 1, 0, 0, 9e7, 1}, 1, 1 << 25), Error);
  EXPECT_EQ(rle_from_polygon({}, 3, 3).counts, std::vector<uint32_t>{9});
  EXPECT_EQ(rle_from_polygon({1, 1}, 3, 3).counts, std::vector<uint32_t>{9});
}

TEST(CocoRle, EmptyPicture) {
  const Rle rle = rle_encode(nullptr, 0, 5);
  EXPECT_EQ(rle.counts, std::vector<uint32_t>{0});
  EXPECT_TRUE(rle_decode(rle).empty());
  double bbox[4];
  rle_to_bbox(rle, bbox);
  EXPECT_EQ(bbox[2], 0);
  EXPECT_EQ(rle_area(rle_merge({}, false)), 0u);
}

TEST(CocoRle, RunsWithoutLengthDoNotCount) {
  // Decoders meet such lists: a foreground run of no pixels, and one that is cut in two.
  const Rle empty_run = rle_from_counts({5, 0, 20}, 5, 5);
  double bbox[4];
  rle_to_bbox(empty_run, bbox);
  EXPECT_EQ(bbox[2], 0);
  const Rle split = rle_from_counts({3, 2, 0, 4, 16, 0}, 5, 5);
  const Rle whole = rle_from_counts({3, 6, 16}, 5, 5);
  EXPECT_EQ(rle_decode(split), rle_decode(whole));
  EXPECT_EQ(rle_iou(split, whole, false), 1);
  EXPECT_EQ(rle_merge({split, whole}, false).counts, whole.counts);
  EXPECT_EQ(rle_area(split), 6u);
}

// The decoder of cocoapi writes past its buffer for runs that cover more than the picture.
TEST(CocoRle, CountsThatDoNotFitThePictureAreRefused) {
  const std::string nine = rle_to_string({3, 3, {4, 5}});
  EXPECT_EQ(rle_from_string(nine, 3, 3).counts, (std::vector<uint32_t>{4, 5}));
  EXPECT_NE(error_of([&] { rle_from_string(nine, 2, 4); }).find("more than"), std::string::npos);
  EXPECT_NE(error_of([&] { rle_from_string(nine, 3, 4); }).find("9 of the"), std::string::npos);
  EXPECT_NE(error_of([&] { rle_from_string("", 3, 4); }).find("0 of the"), std::string::npos);
  EXPECT_THROW(rle_from_counts({4, 6}, 3, 3), Error);
  EXPECT_THROW(rle_from_counts({4, 4}, 3, 3), Error);
  EXPECT_THROW(rle_from_counts({10, -1}, 3, 3), Error);
  EXPECT_THROW(rle_from_counts({4, std::numeric_limits<int64_t>::max()}, 3, 3), Error);
  EXPECT_THROW(rle_decode({3, 3, {4, 6}}), Error);
  EXPECT_THROW(rle_decode({3, 3, {4, 4}}), Error);
  EXPECT_THROW(rle_decode({3, 3, {4, 0xffffffff, 6}}), Error);
}

TEST(CocoRle, MalformedBytesAreRefused) {
  EXPECT_NE(error_of([] { rle_from_string("P", 3, 3); }).find("end within"), std::string::npos);
  EXPECT_NE(error_of([] { rle_from_string("9 ", 3, 3); }).find("byte 1"), std::string::npos);
  EXPECT_NE(error_of([] { rle_from_string("9\xff", 3, 3); }).find("byte 1"), std::string::npos);
  EXPECT_NE(error_of([] { rle_from_string("PPPPPPPP0", 3, 3); }).find("longer"), std::string::npos);
  EXPECT_NE(error_of([] { rle_from_string("O:", 3, 3); }).find("negative"), std::string::npos);
  EXPECT_THROW(rle_from_string("ooooooO", 3, 3), Error);
}

TEST(CocoRle, LyingSizesAreRefusedBeforeAllocation) {
  EXPECT_THROW(rle_from_string("0", -1, 3), Error);
  EXPECT_THROW(rle_decode({1 << 20, 1 << 20, {0}}), Error);
  EXPECT_THROW(rle_encode(nullptr, 1 << 30, 1 << 30), Error);
  EXPECT_THROW(rle_iou({2, 3, {6}}, {3, 2, {6}}, false), Error);
  EXPECT_THROW(rle_merge({{2, 3, {6}}, {3, 2, {6}}}, false), Error);
}

}  // namespace
}  // namespace rfseg
