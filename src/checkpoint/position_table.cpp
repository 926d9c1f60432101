#include "checkpoint/position_table.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "checkpoint/convert.h"

namespace rfseg {
namespace {

struct Taps {
  int first = 0;
  std::vector<float> weights;
};

float cubic(float x) {
  constexpr float a = -0.5f;
  x = std::fabs(x);
  if (x < 1.0f) return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
  if (x < 2.0f) return (((x - 5.0f) * x + 8.0f) * x - 4.0f) * a;
  return 0.0f;
}

std::vector<Taps> make_taps(int in, int out) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float widen = std::max(scale, 1.0f);
  const float support = 2.0f * widen;
  std::vector<Taps> all(static_cast<std::size_t>(out));
  for (int j = 0; j < out; ++j) {
    const float centre = scale * (static_cast<float>(j) + 0.5f);
    Taps& taps = all[static_cast<std::size_t>(j)];
    taps.first = std::max(static_cast<int>(std::floor(centre - support + 0.5f)), 0);
    const int end = std::min(static_cast<int>(std::floor(centre + support + 0.5f)), in);
    float sum = 0.0f;
    for (int t = taps.first; t < end; ++t) {
      taps.weights.push_back(cubic((static_cast<float>(t) - centre + 0.5f) / widen));
      sum += taps.weights.back();
    }
    for (float& weight : taps.weights) weight /= sum;
  }
  return all;
}

}  // namespace

Tensor resample_position_table(const Tensor& table, int grid, DType dtype) {
  const int64_t dim = table.dim(2);
  const int stored =
      static_cast<int>(std::lround(std::sqrt(static_cast<double>(table.dim(1) - 1))));
  const std::vector<Taps> taps = make_taps(stored, grid);
  Tensor out({1, int64_t{grid} * grid + 1, dim});
  std::copy_n(table.data.begin(), dim, out.data.begin());
  const float* source = table.data.data() + dim;
  // Columns first, as torch does.
  std::vector<float> wide(static_cast<std::size_t>(int64_t{stored} * grid * dim), 0.0f);
  for (int64_t y = 0; y < stored; ++y) {
    for (int64_t x = 0; x < grid; ++x) {
      float* row = wide.data() + (y * grid + x) * dim;
      const Taps& t = taps[static_cast<std::size_t>(x)];
      for (std::size_t k = 0; k < t.weights.size(); ++k) {
        const float* from = source + (y * stored + t.first + static_cast<int64_t>(k)) * dim;
        for (int64_t d = 0; d < dim; ++d) row[d] += t.weights[k] * from[d];
      }
    }
  }
  for (int64_t y = 0; y < grid; ++y) {
    const Taps& t = taps[static_cast<std::size_t>(y)];
    for (int64_t x = 0; x < grid; ++x) {
      float* row = out.data.data() + (1 + y * grid + x) * dim;
      std::fill_n(row, dim, 0.0f);
      for (std::size_t k = 0; k < t.weights.size(); ++k) {
        const float* from = wide.data() + ((t.first + static_cast<int64_t>(k)) * grid + x) * dim;
        for (int64_t d = 0; d < dim; ++d) row[d] += t.weights[k] * from[d];
      }
      for (int64_t d = 0; d < dim; ++d) row[d] = round_to(dtype, row[d]);
    }
  }
  return out;
}

}  // namespace rfseg
