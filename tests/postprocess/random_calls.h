#pragma once

// Random calls of postprocess(): shapes, transforms, thresholds, scores that tie, odd values.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "postprocess/sigmoid.h"
#include "scenes.h"

namespace rfseg::test {

inline int random_side(Random& random, int cells) {
  switch (random.range(0, 8)) {
    case 0:
      return 1;
    case 1:
      return random.range(1, 4);
    case 2:
      return cells;
    case 3:
      return random.range(1, cells);
    case 4:
      return random.range(cells, 4 * cells);
    case 5:
      return random.one_in(20) ? random.range(1000, 3000) : random.range(1, 300);
    case 6:
    case 7:  // weights like 1/3: quantised cells cancel out but for the rounding, which then
             // decides
      return cells * random.range(2, cells < 30 ? 11 : 3);
    default:
      return random.range(1, 200);
  }
}

/// One axis of a letterbox or centre crop to `target` pixels.
inline void place_axis(Random& random, int size, int target, int* before, int* after) {
  const int rest = target - size;
  *before = rest >= 0 ? rest / 2 : -((-rest) / 2);
  if (random.one_in(4)) *before = rest >= 0 ? random.range(0, rest) : -random.range(0, -rest);
  *after = rest - *before;
}

inline PreprocessGeometry random_geometry(Random& random, int rows, int columns) {
  const int height = random_side(random, rows), width = random_side(random, columns);
  const int net_h = rows * 4, net_w = columns * 4;
  PreprocessGeometry g = PreprocessGeometry::stretch(height, width, net_h, net_w);
  if (random.one_in(3)) {
    g.crop_x = random.range(0, width - 1);
    g.crop_y = random.range(0, height - 1);
    g.crop_width = random.range(1, width - g.crop_x);
    g.crop_height = random.range(1, height - g.crop_y);
    if (random.one_in(4)) g.crop_x = g.crop_y = 0;
    g.scale_x = static_cast<double>(net_w) / g.crop_width;
    g.scale_y = static_cast<double>(net_h) / g.crop_height;
  }
  const int kind = random.range(0, 4);
  if (kind < 2) return g;
  g.intermediate_width = random.range(2, 400);
  g.intermediate_height = random.range(2, 400);
  int w = g.crop_width, h = g.crop_height;
  g.scale_x = g.scale_y = 1;
  if (kind == 2) {  // letterbox
    const double scale = std::min(static_cast<double>(g.intermediate_width) / w,
                                  static_cast<double>(g.intermediate_height) / h);
    g.scale_x = g.scale_y = scale;
    w = std::max(1, static_cast<int>(w * scale));
    h = std::max(1, static_cast<int>(h * scale));
  }
  place_axis(random, w, g.intermediate_width, &g.pad_left, &g.pad_right);
  place_axis(random, h, g.intermediate_height, &g.pad_top, &g.pad_bottom);
  return g;
}

inline PostprocessSpec random_spec(Random& random, const Scene& scene) {
  PostprocessSpec spec;
  spec.like = static_cast<Convention>(random.range(0, 2));
  const float thresholds[] = {0.5f, 0.3f, -1.0f, 0.0f, 1.0f, sigmoid(1.25f), sigmoid(-2.0f), 0.9f};
  spec.threshold = thresholds[random.range(0, 7)];
  if (random.one_in(3)) {
    for (int c = random.range(1, scene.classes); c > 0; --c) {
      spec.class_thresholds.push_back(thresholds[random.range(0, 7)]);
    }
  }
  if (random.one_in(2)) {
    for (int c = random.range(1, scene.classes + 1); c > 0; --c) {
      spec.class_map.push_back(random.range(-1, scene.classes));
    }
  }
  spec.num_select = random.one_in(8) ? 0 : random.range(1, 2 * scene.queries);
  spec.max_detections = random.one_in(3) ? random.range(0, 4) : 300;
  return spec;
}

inline Scene random_scene(Random& random) {
  const int limit = random.one_in(12) ? 110 : 24;
  Scene scene(random.range(1, 6), random.range(1, 5), random.range(1, limit),
              random.range(1, limit));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (float& v : scene.logits) {
    v = static_cast<float>(random.range(-12, 12)) / 4;  // quantised: ties
    if (random.one_in(3)) v = random.uniform(-10, 10);
    if (random.one_in(20)) v = std::numeric_limits<float>::quiet_NaN();
    if (random.one_in(20)) v = random.one_in(2) ? kInfinity : -kInfinity;
    if (random.one_in(20)) v = random.uniform(15, 19);  // scores that round to the same
  }
  for (float& v : scene.boxes) {
    v = random.uniform(-0.3f, 1.3f);
    if (random.one_in(4)) v = static_cast<float>(random.range(-2, 6)) / 4;
    if (random.one_in(60)) v = std::numeric_limits<float>::quiet_NaN();
    if (random.one_in(60)) v = kInfinity;
  }
  for (int q = 0; q < scene.queries; ++q) {
    test::fill_mask(random, scene.mask(q), scene.rows, scene.columns);
  }
  return scene;
}

inline uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }

inline ::testing::AssertionResult same(const Detections& a, const Detections& b) {
  if (a.items.size() != b.items.size() || a.width != b.width || a.height != b.height) {
    return ::testing::AssertionFailure() << a.items.size() << " and " << b.items.size();
  }
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    const Detection &x = a.items[i], &y = b.items[i];
    bool equal = x.class_id == y.class_id && x.query == y.query && bits(x.score) == bits(y.score);
    for (int k = 0; k < 4; ++k) equal = equal && bits(x.box_xyxy[k]) == bits(y.box_xyxy[k]);
    if (!equal) {
      return ::testing::AssertionFailure() << "detection " << i << " differs";
    }
    if (x.mask->height != y.mask->height || x.mask->width != y.mask->width ||
        x.mask->counts != y.mask->counts) {
      return ::testing::AssertionFailure() << "mask " << i << " of query " << x.query << ": "
                                           << x.mask->counts << " and " << y.mask->counts;
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace rfseg::test
