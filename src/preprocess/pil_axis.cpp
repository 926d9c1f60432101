#include "preprocess/pil_axis.h"

#include <algorithm>
#include <cmath>

namespace rfseg {
namespace {

/// Pillow's rounding: a half is added and the fraction cut off, towards zero.
int add_half_and_truncate(double value) {
  constexpr double kHalf = 0.5;
  return static_cast<int>(value + kHalf);
}

}  // namespace

PilAxis make_pil_axis(int in, int out) {
  PilAxis axis;
  axis.in = in;
  axis.out = out;
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = filter_scale;
  const double inverse = 1.0 / filter_scale;
  axis.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  axis.first.resize(out);
  axis.count.resize(out);
  axis.weights.assign(static_cast<std::size_t>(out) * axis.taps, 0);
  std::vector<double> row(axis.taps);
  for (int i = 0; i < out; ++i) {
    const double center = (i + 0.5) * scale;
    const int low = std::max(0, add_half_and_truncate(center - support));
    const int high = std::min(in, add_half_and_truncate(center + support));
    const int count = high - low;
    double sum = 0;
    for (int k = 0; k < count; ++k) {
      const double distance = std::abs((k + low - center + 0.5) * inverse);
      row[k] = distance < 1.0 ? 1.0 - distance : 0.0;
      sum += row[k];
    }
    axis.first[i] = low;
    axis.count[i] = count;
    int32_t* weights = axis.weights.data() + static_cast<std::size_t>(i) * axis.taps;
    for (int k = 0; k < count; ++k) {
      const double weight = sum != 0.0 ? row[k] / sum : row[k];
      weights[k] = add_half_and_truncate(weight * (1 << kPilBits));
    }
  }
  return axis;
}

}  // namespace rfseg
