#include "preprocess/float_axis.h"

#include <algorithm>
#include <cmath>

namespace rfseg {
namespace {

/// A half is added in float32 and the fraction cut off, towards zero.
int add_half_and_truncate(float value) {
  constexpr float kHalf = 0.5f;
  return static_cast<int>(value + kHalf);
}

}  // namespace

BilinearAxis make_bilinear_axis(int in, int out) {
  BilinearAxis axis;
  axis.in = in;
  axis.out = out;
  axis.low.resize(out);
  axis.high.resize(out);
  axis.weight0.resize(out);
  axis.weight1.resize(out);
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  for (int i = 0; i < out; ++i) {
    const float position = std::max(0.0f, std::fma(scale, static_cast<float>(i) + 0.5f, -0.5f));
    const int low = std::min(static_cast<int>(position), in - 1);
    axis.low[i] = low;
    axis.high[i] = low + (low < in - 1 ? 1 : 0);
    axis.weight1[i] = position - static_cast<float>(low);
    axis.weight0[i] = 1.0f - axis.weight1[i];
  }
  return axis;
}

AntialiasAxis make_antialias_axis(int in, int out) {
  AntialiasAxis axis;
  axis.in = in;
  axis.out = out;
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float support = std::max(1.0f, scale);
  const float inverse = scale >= 1.0f ? static_cast<float>(1.0 / static_cast<double>(scale)) : 1.0f;
  axis.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  axis.first.resize(out);
  axis.count.resize(out);
  axis.weights.assign(static_cast<std::size_t>(out) * axis.taps, 0.0f);
  for (int i = 0; i < out; ++i) {
    const float center = static_cast<float>(i) + 0.5f;
    const int low = std::max(0, add_half_and_truncate(std::fma(scale, center, -support)));
    const int high = std::min(in, add_half_and_truncate(std::fma(scale, center, support)));
    const int count = std::min(high - low, axis.taps);
    const float offset = std::fma(-scale, center, static_cast<float>(low));
    float* weights = axis.weights.data() + static_cast<std::size_t>(i) * axis.taps;
    float sum = 0;
    for (int j = 0; j < count; ++j) {
      const float distance = std::abs(((static_cast<float>(j) + offset) + 0.5f) * inverse);
      weights[j] = std::max(0.0f, 1.0f - distance);
      sum += weights[j];
    }
    for (int j = 0; j < count; ++j) {
      if (sum != 0.0f) weights[j] /= sum;
    }
    axis.first[i] = low;
    axis.count[i] = count;
  }
  return axis;
}

}  // namespace rfseg
