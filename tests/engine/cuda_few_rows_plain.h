#pragma once

// Random arrays, and the parts of a decoder layer in double over the same halves, for the tests of
// the kernels for few rows. To be included behind RFSEG_SIMT_EMULATION.

#include <cmath>
#include <random>
#include <vector>

#include "core/half.h"
#include "engine/cuda/small/query_layer.h"

namespace rfseg::cuda::few_rows {

constexpr int kColumns = 256;

inline std::mt19937 random_bits{5};
inline std::vector<float> floats(std::size_t count, float range, float center = 0) {
  std::uniform_real_distribution<float> of(center - range, center + range);
  std::vector<float> v(count);
  for (float& x : v) x = of(random_bits);
  return v;
}
inline std::vector<uint16_t> halves(std::size_t count, float range) {
  std::vector<uint16_t> v;
  for (float x : floats(count, range)) v.push_back(float_to_half(x));
  return v;
}
inline std::vector<double> widened(const std::vector<uint16_t>& v) {
  return {[&] {
    std::vector<double> w;
    for (uint16_t x : v) w.push_back(half_to_float(x));
    return w;
  }()};
}

using Row = std::vector<double>;
inline double rounded(double v) { return half_to_float(float_to_half(static_cast<float>(v))); }

struct Linear {
  int n, k;
  std::vector<uint16_t> weight;
  std::vector<float> bias;
  Linear(int out, int in)
      : n(out), k(in), weight(halves(std::size_t(out) * in, 0.1f)), bias(floats(out, 0.2f)) {}
  QueryProduct product() const { return {weight.data(), bias.data()}; }
  /// Of a row rounded to halves.
  Row operator()(const Row& x) const {
    Row out(n);
    for (int i = 0; i < n; ++i) {
      double sum = bias[i];
      for (int j = 0; j < k; ++j)
        sum += rounded(x[j]) * half_to_float(weight[std::size_t(i) * k + j]);
      out[i] = sum;
    }
    return out;
  }
};
struct Affine {
  std::vector<float> gamma = floats(kColumns, 0.3f, 1), beta = floats(kColumns, 0.2f);
  QueryNorm norm() const { return {gamma.data(), beta.data()}; }
  Row operator()(const Row& x, double eps) const {
    double mean = 0, squares = 0;
    for (double v : x) mean += v / kColumns;
    for (double v : x) squares += (v - mean) * (v - mean) / kColumns;
    Row out(kColumns);
    for (int i = 0; i < kColumns; ++i) {
      out[i] = (x[i] - mean) / std::sqrt(squares + eps) * gamma[i] + beta[i];
    }
    return out;
  }
};
inline Row plus(Row a, const Row& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
template <class T>
Row row_of(const std::vector<T>& v, int row, int width) {
  return {v.begin() + std::ptrdiff_t{row} * width, v.begin() + std::ptrdiff_t{row + 1} * width};
}

}  // namespace rfseg::cuda::few_rows
