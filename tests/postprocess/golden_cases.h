#pragma once

// The cases of goldens.json, written by make_goldens.py.

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "scenes.h"

namespace rfseg::test {

using nlohmann::json;

inline const json& goldens() {
  static const json value = [] {
    std::ifstream file(RFSEG_SOURCE_DIR "/tests/postprocess/goldens.json");
    if (!file) throw std::runtime_error("goldens.json is missing");
    return json::parse(file);
  }();
  return value;
}

inline int floor_to(int v, int step) {
  const int rest = ((v % step) + step) % step;
  return v - rest;
}

/// make_scene of make_goldens.py.
inline Scene golden_scene(const json& c) {
  Scene scene(c["queries"], c["classes"], c["rows"], c["columns"]);
  const int quantum = c["quantum"];
  Random random(c["seed"].get<uint64_t>());
  for (float& v : scene.logits) {
    v = static_cast<float>(floor_to(random.range(-3000, 2000), 8)) / 1024;
  }
  for (float& v : scene.boxes) v = static_cast<float>(random.range(0, 1100)) / 1024;
  for (int q = 0; q < scene.queries; ++q) {
    const int cy = random.range(0, 16 * scene.rows), cx = random.range(0, 16 * scene.columns);
    const int a = random.range(1, 12), b = random.range(1, 12), top = random.range(500, 12000);
    for (int y = 0; y < scene.rows; ++y) {
      for (int x = 0; x < scene.columns; ++x) {
        const int dy = 16 * y - cy, dx = 16 * x - cx;
        int v = top - (a * dy * dy + b * dx * dx) / 16;
        v = std::min(std::max(v, -14000), 12000) + random.range(-300, 300);
        if (c["seed"].get<int>() >= 400) v = 1024 * random.range(-3, 3);
        scene.mask(q)[y * scene.columns + x] = static_cast<float>(floor_to(v, quantum)) / 1024;
      }
    }
  }
  return scene;
}

inline PostprocessSpec golden_spec(const json& c) {
  PostprocessSpec spec;
  spec.like = c["like"] == "inference" ? Convention::kInference : Convention::kRfdetr;
  spec.threshold = c["threshold"];
  spec.num_select = c["num_select"];
  spec.max_detections = c["max_detections"];
  spec.class_map = c["class_map"].get<std::vector<int>>();
  spec.class_thresholds = c["class_thresholds"].get<std::vector<float>>();
  const json& g = c["geometry"];
  PreprocessGeometry& to = spec.geometry;
  to.original_height = g["original_height"];
  to.original_width = g["original_width"];
  to.crop_x = g["crop_x"];
  to.crop_y = g["crop_y"];
  to.crop_width = g["crop_width"];
  to.crop_height = g["crop_height"];
  to.pad_left = g["pad_left"];
  to.pad_top = g["pad_top"];
  to.pad_right = g["pad_right"];
  to.pad_bottom = g["pad_bottom"];
  to.scale_x = g["scale_x"];
  to.scale_y = g["scale_y"];
  to.intermediate_height = g["intermediate_height"];
  to.intermediate_width = g["intermediate_width"];
  to.network_height = g["network_height"];
  to.network_width = g["network_width"];
  return spec;
}

}  // namespace rfseg::test
