#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "postprocess/postprocess.h"

namespace rfseg::test {

/// SplitMix64 (public domain, S. Vigna): the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// low <= value <= high
  int range(int low, int high) {
    return low + static_cast<int>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int n) { return range(1, n) == 1; }
  float uniform(float low, float high) {
    return low + (high - low) * (static_cast<float>(next() >> 40) * 0x1p-24f);
  }

 private:
  uint64_t state_;
};

/// Network outputs that own their memory.
struct Scene {
  int queries = 0, classes = 0, rows = 0, columns = 0;
  std::vector<float> boxes, logits, masks;

  Scene(int q, int k, int mask_rows, int mask_columns)
      : queries(q),
        classes(k),
        rows(mask_rows),
        columns(mask_columns),
        boxes(static_cast<std::size_t>(q) * 4),
        logits(static_cast<std::size_t>(q) * k),
        masks(static_cast<std::size_t>(q) * mask_rows * mask_columns) {}

  float* mask(int q) { return masks.data() + static_cast<std::size_t>(q) * rows * columns; }
  NetworkOutputs view() const {
    NetworkOutputs outputs;
    outputs.boxes = boxes.data();
    outputs.logits = logits.data();
    outputs.masks = masks.data();
    outputs.queries = queries;
    outputs.classes = classes;
    outputs.mask_rows = rows;
    outputs.mask_cols = columns;
    return outputs;
  }
};

/// Fills one mask with what a mask head gives, and with what it should never give.
inline void fill_mask(Random& random, float* mask, int rows, int columns) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int n = rows * columns;
  const int kind = random.range(0, 15);
  const int blobs = random.range(1, 3);
  float centre[3][4];
  for (auto& c : centre) {
    c[0] = random.uniform(-0.2f, 1.2f) * static_cast<float>(rows);
    c[1] = random.uniform(-0.2f, 1.2f) * static_cast<float>(columns);
    c[2] = random.uniform(0.05f, 0.6f) * static_cast<float>(rows) + 0.5f;
    c[3] = random.uniform(0.05f, 0.6f) * static_cast<float>(columns) + 0.5f;
  }
  for (int i = 0; i < n; ++i) {
    float value = -20;
    for (int b = 0; b < blobs; ++b) {
      const float dy = (static_cast<float>(i / columns) - centre[b][0]) / centre[b][2];
      const float dx = (static_cast<float>(i % columns) - centre[b][1]) / centre[b][3];
      value = std::fmax(value, 6 * (1 - dy * dy - dx * dx));
    }
    switch (kind) {
      case 0:
        value = 0;
        break;
      case 1:
        value = 1;
        break;
      case 2:
        value = -1;
        break;
      case 3:
        value = static_cast<float>(random.range(-4, 4)) / 4;
        break;  // many exact zeros
      case 4:
        value = random.uniform(-5, 5);
        break;
      case 5:
        value = random.one_in(12) ? 3.0f : -2.0f;
        break;
      case 6:
        value = std::round(value);
        break;
      case 7:
        value = std::round(value * 8) / 8;
        break;
      case 8:
        value = static_cast<float>(random.range(-3, 3)) * 1e-45f;
        break;  // products vanish
      case 9:
        value = static_cast<float>(random.range(-3, 3)) * 1e-38f;
        break;
      case 10:
        value *= random.one_in(8) ? 1e38f : 1e36f;
        break;  // sums overflow
      case 11:
        if (random.one_in(30)) value = kNaN;
        break;
      case 12:
        if (random.one_in(30)) value = random.one_in(2) ? kInfinity : -kInfinity;
        break;
      case 13:
        value = random.one_in(3) ? random.uniform(-1, 1) * 1e-9f : value;
        break;
      case 14:
        value = (i / columns + i % columns) % 2 ? 1.0f : -1.0f;
        break;
      default:
        value += random.uniform(-0.4f, 0.4f);
    }
    mask[i] = value;
  }
}

}  // namespace rfseg::test
