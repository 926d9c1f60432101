// Against goldens.json, written by make_goldens.py from numpy, pycocotools, OpenCV and torch.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "core/coco_rle.h"
#include "golden_cases.h"
#include "postprocess/postprocess.h"

namespace rfseg {
namespace {

using namespace test;

/// Units in the last place between two floats of one sign.
int ulps(float a, float b) {
  return std::abs(static_cast<int>(std::bit_cast<uint32_t>(a)) -
                  static_cast<int>(std::bit_cast<uint32_t>(b)));
}

std::size_t differing(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return a.size() + b.size();
  std::size_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += a[i] != b[i] ? 1 : 0;
  return n;
}

/// Fills polygons whose edges run along the eight directions, borders included.
std::vector<uint8_t> fill(const std::vector<std::vector<float>>& polygons, int height, int width) {
  std::vector<uint8_t> mask(static_cast<std::size_t>(height) * width);
  const auto index = [width](int x, int y) { return static_cast<std::size_t>(y) * width + x; };
  for (const auto& polygon : polygons) {
    const std::size_t n = polygon.size() / 2;
    std::vector<uint8_t> border(mask.size());
    std::vector<std::vector<int>> crossings(static_cast<std::size_t>(height));
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t next = (i + 1) % n;
      int x = static_cast<int>(polygon[2 * i]), y = static_cast<int>(polygon[2 * i + 1]);
      const int x1 = static_cast<int>(polygon[2 * next]);
      const int y1 = static_cast<int>(polygon[2 * next + 1]);
      const int dx = (x1 > x) - (x1 < x), dy = (y1 > y) - (y1 < y);
      border[index(x, y)] = 1;
      while (x != x1 || y != y1) {
        // A step between two rows crosses the line just below the upper one.
        if (dy != 0) {
          const int upper = dy > 0 ? y : y - 1;
          crossings[static_cast<std::size_t>(upper)].push_back(dy > 0 ? x : x + dx);
        }
        x += dx;
        y += dy;
        border[index(x, y)] = 1;
      }
    }
    for (int y = 0; y < height; ++y) {
      const auto& row = crossings[static_cast<std::size_t>(y)];
      for (int x = 0; x < width; ++x) {
        const auto left = std::count_if(row.begin(), row.end(), [x](int c) { return c < x; });
        if (border[index(x, y)] || left % 2 == 1) mask[index(x, y)] = 1;
      }
    }
  }
  return mask;
}

/// The mask and what it encloses: all but the background that is 4-connected to the picture's edge.
std::vector<uint8_t> without_holes(const std::vector<uint8_t>& mask, int height, int width) {
  std::vector<uint8_t> closed(mask.size(), 1);
  std::vector<std::pair<int, int>> open;
  const auto visit = [&](int x, int y) {
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const std::size_t at = static_cast<std::size_t>(y) * width + x;
    if (mask[at] || !closed[at]) return;
    closed[at] = 0;
    open.emplace_back(x, y);
  };
  for (int x = 0; x < width; ++x) visit(x, 0), visit(x, height - 1);
  for (int y = 0; y < height; ++y) visit(0, y), visit(width - 1, y);
  while (!open.empty()) {
    const auto [x, y] = open.back();
    open.pop_back();
    visit(x - 1, y), visit(x + 1, y), visit(x, y - 1), visit(x, y + 1);
  }
  return closed;
}

class Golden : public ::testing::TestWithParam<Backend> {};

TEST_P(Golden, BoxesClassesOrderAndRunLengthBytes) {
  std::size_t masks = 0;
  for (const json& c : goldens()["cases"]) {
    const std::string name = c["name"];
    const Scene scene = golden_scene(c);
    PostprocessSpec spec = golden_spec(c);
    spec.backend = GetParam();
    const Detections found = postprocess(scene.view(), spec);
    EXPECT_EQ(found.height, spec.geometry.original_height);
    EXPECT_EQ(found.width, spec.geometry.original_width);
    const json& expected = c["detections"];
    ASSERT_EQ(found.items.size(), expected.size()) << name;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Detection& item = found.items[i];
      const json& e = expected[i];
      EXPECT_EQ(item.query, e["query"].get<int>()) << name << ", detection " << i;
      EXPECT_EQ(item.class_id, e["class_id"].get<int>()) << name << ", detection " << i;
      EXPECT_LE(ulps(item.score, e["score"].get<float>()), 2) << name << ", detection " << i;
      for (std::size_t k = 0; k < 4; ++k) {
        EXPECT_EQ(item.box_xyxy[k], e["box"][k].get<float>()) << name << ", detection " << i;
      }
      ASSERT_NE(item.mask, nullptr);
      EXPECT_EQ(item.mask->counts, e["counts"].get<std::string>()) << name << ", detection " << i;
      ++masks;
    }
  }
  EXPECT_GT(masks, 500u);
}

INSTANTIATE_TEST_SUITE_P(Backends, Golden, ::testing::Values(Backend::kReference, Backend::kCpu),
                         [](const auto& info) {
                           return info.param == Backend::kCpu ? "Fast" : "Reference";
                         });

// torch's CPU kernels round some positions elsewhere than its CUDA kernels, so isolated border
// pixels may differ.
TEST(GoldenTorch, MasksAgreeButForIsolatedPixels) {
  std::size_t masks = 0;
  for (const json& c : goldens()["cases"]) {
    const Detections found = postprocess(golden_scene(c).view(), golden_spec(c));
    for (std::size_t i = 0; i < found.items.size(); ++i) {
      const json& e = c["detections"].at(i);
      if (!e.contains("torch")) continue;
      const Mask torch{found.height, found.width, e["torch"]};
      const std::vector<uint8_t> pixels = found.items[i].mask->dense();
      EXPECT_LE(differing(pixels, torch.dense()), std::max<std::size_t>(2, pixels.size() / 2000))
          << c["name"] << ", detection " << i;
      ++masks;
    }
  }
  EXPECT_GT(masks, 40u);
}

/// contour_mask of make_goldens.py.
Mask contour_mask(uint64_t seed, std::vector<uint8_t>* pixels) {
  Random random(seed);
  const int height = random.range(1, 40), width = random.range(1, 40), kind = random.range(0, 5);
  const int cy = random.range(0, height), cx = random.range(0, width), step = random.range(3, 9);
  pixels->clear();
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const int n = random.range(0, 99);
      const int d = (y - cy) * (y - cy) + (x - cx) * (x - cx);
      int root = static_cast<int>(std::sqrt(d));
      while (root * root > d) --root;
      while ((root + 1) * (root + 1) <= d) ++root;
      const bool set[] = {n < 50,          n < 15,          n < 85, d / (step * step) % 2 == 0,
                          root % step < 2, d < 150 || n < 3};
      pixels->push_back(set[kind] ? 1 : 0);
    }
  }
  return {height, width, rle_to_string(rle_encode(pixels->data(), height, width))};
}

TEST(Polygons, EqualOpenCvInEveryVertexAndTheirOrder) {
  const json& contours = goldens()["contours"];
  ASSERT_EQ(contours["hashes"].size(), 600u);
  std::vector<uint8_t> pixels;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const Mask mask = contour_mask(seed, &pixels);
    const auto polygons = mask.polygons();
    uint64_t hash = 0xcbf29ce484222325u;
    const auto add = [&hash](uint64_t n) { hash = (hash ^ n) * 0x100000001b3u; };
    add(pixels.size());
    add(mask.area());
    add(polygons.size());
    for (const auto& polygon : polygons) {
      add(polygon.size());
      for (const float v : polygon) add(static_cast<uint64_t>(v));
    }
    EXPECT_EQ(std::to_string(hash), contours["hashes"][seed].get<std::string>()) << "seed " << seed;
    EXPECT_EQ(mask.dense(), pixels);
  }
  ASSERT_GT(contours["explicit"].size(), 5u);
  for (const json& e : contours["explicit"]) {
    const Mask mask = contour_mask(e["seed"], &pixels);
    EXPECT_EQ(mask.counts, e["counts"].get<std::string>());
    EXPECT_EQ(mask.polygons(), e["polygons"].get<std::vector<std::vector<float>>>());
  }
}

// `fill` is what the next test measures with, so it must be cv2.fillPoly to the pixel; and outer
// contours hold all of a mask but what its holes are.
TEST(Polygons, FilledByOpenCvTheyAreTheMaskWithItsHolesClosed) {
  const json& contours = goldens()["contours"];
  ASSERT_EQ(contours["fills"].size(), 600u);
  std::vector<uint8_t> pixels;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const Mask mask = contour_mask(seed, &pixels);
    const auto again = fill(mask.polygons(), mask.height, mask.width);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const uint8_t n : again) hash = (hash ^ n) * 0x100000001b3u;
    EXPECT_EQ(std::to_string(hash), contours["fills"][seed].get<std::string>()) << "seed " << seed;
    EXPECT_EQ(again, without_holes(pixels, mask.height, mask.width)) << "seed " << seed;
  }
}

TEST(Polygons, CoverTheirMasksAgain) {
  int large = 0;
  for (const json& c : goldens()["cases"]) {
    // Scenes of random cells are full of holes, which polygons do not have.
    if (c["geometry"]["original_width"].get<int>() > 700 || c["seed"].get<int>() >= 400) continue;
    const Detections found = postprocess(golden_scene(c).view(), golden_spec(c));
    for (const Detection& item : found.items) {
      if (item.mask->area() <= 100) continue;
      const auto pixels = item.mask->dense();
      const auto again = fill(item.mask->polygons(), found.height, found.width);
      std::size_t both = 0, any = 0;
      for (std::size_t i = 0; i < pixels.size(); ++i) {
        both += pixels[i] & again[i];
        any += pixels[i] | again[i];
      }
      EXPECT_GE(static_cast<double>(both), 0.98 * static_cast<double>(any)) << c["name"];
      EXPECT_EQ(again, without_holes(pixels, found.height, found.width)) << c["name"];
      ++large;
    }
  }
  EXPECT_GT(large, 100);
}

}  // namespace
}  // namespace rfseg
