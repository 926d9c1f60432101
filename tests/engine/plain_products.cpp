#include "engine/plain_products.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "engine/activate.h"

namespace rfseg::cuda::plain {
namespace {

double read(Math math, const void* p, int64_t i) {
  return math == Math::kFp16 ? half_to_float(static_cast<const uint16_t*>(p)[i])
                             : static_cast<const float*>(p)[i];
}
void write(bool as_float, void* p, int64_t i, double v) {
  if (as_float) {
    static_cast<float*>(p)[i] = static_cast<float>(v);
  } else {
    static_cast<uint16_t*>(p)[i] = float_to_half(static_cast<float>(v));
  }
}

/// Row m of A, as the products see it, for columns of B on either side of the split.
std::vector<double> row_of(Math math, const GemmArguments& g, int m, const void* a, int64_t step) {
  std::vector<double> row(static_cast<std::size_t>(g.k));
  if (g.source == RowSource::kConv3x3) {
    const int x = m % g.out_cols, y = m / g.out_cols % g.out_rows;
    const int64_t picture = m / (g.out_cols * g.out_rows);
    for (int k = 0; k < g.k; ++k) {
      const int cell = k / g.channels, channel = k % g.channels;
      const int iy = y * g.stride + cell / 3 - 1, ix = x * g.stride + cell % 3 - 1;
      const bool inside = iy >= 0 && iy < g.map_rows && ix >= 0 && ix < g.map_cols;
      row[k] = inside
                   ? read(math, a,
                          step + ((picture * g.map_rows + iy) * g.map_cols + ix) * g.lda + channel)
                   : 0.0;
    }
    return row;
  }
  const int64_t from = (g.index != nullptr ? g.index[m] : m) * g.lda + step;
  if (g.source == RowSource::kRows) {
    for (int k = 0; k < g.k; ++k) row[k] = read(math, a, from + k);
    return row;
  }
  double mean = 0, variance = 0;
  const float* x = static_cast<const float*>(a) + from;
  for (int k = 0; k < g.k; ++k) mean += x[k] / static_cast<double>(g.k);
  for (int k = 0; k < g.k; ++k) variance += (x[k] - mean) * (x[k] - mean) / g.k;
  for (int k = 0; k < g.k; ++k) row[k] = (x[k] - mean) / std::sqrt(variance + g.eps);
  if (math == Math::kFp16) {
    for (double& v : row) v = half_to_float(float_to_half(static_cast<float>(v)));
  }
  return row;
}

double dot(Math math, const std::vector<double>& row, const GemmArguments& g, int n, int64_t step) {
  double sum = 0;
  for (int k = 0; k < g.k; ++k) {
    sum += row[static_cast<std::size_t>(k)] * read(math, g.b, step + int64_t{n} * g.ldb + k);
  }
  return sum;
}

}  // namespace

void gemm(Math math, const GemmArguments& g) {
  for (int p = 0; p < g.batch; ++p) {
    for (int m = 0; m < g.m; ++m) {
      const std::vector<double> row = row_of(math, g, m, g.a, p * g.a_step);
      const std::vector<double> second =
          g.split > 0 ? row_of(math, g, m, g.a2, p * g.a_step) : std::vector<double>{};
      const int64_t to =
          m + (g.out_group > 0 ? int64_t{m / g.out_group} * g.out_skip : 0) + g.out_first;
      for (int n = 0; n < g.n; ++n) {
        double v = dot(math, g.split > 0 && n >= g.split ? second : row, g, n, p * g.b_step);
        if (g.bias != nullptr) v += g.bias[n];
        if (g.row_bias != nullptr) v += g.row_bias[p * g.row_bias_step + m];
        v = activated(g.activation, v);
        if (g.scale != nullptr) v *= g.scale[n];
        if (g.residual != nullptr) {
          const int64_t from = g.residual_period > 0 ? to % g.residual_period : to;
          v += read(g.residual_float ? Math::kFp32 : math, g.residual,
                    p * g.out_step + from * g.ldr + n);
        }
        write(g.out_float || math != Math::kFp16, g.out, p * g.out_step + to * g.ldo + n, v);
      }
    }
  }
}

void gemm_norm(Math math, const GemmNormArguments& a) {
  const GemmArguments& g = a.product;
  for (int m = 0; m < g.m; ++m) {
    const std::vector<double> row = row_of(math, g, m, g.a, 0);
    std::vector<double> y(static_cast<std::size_t>(g.n));
    double mean = 0, variance = 0;
    for (int n = 0; n < g.n; ++n) {
      y[n] = dot(math, row, g, n, 0);
      if (g.bias != nullptr) y[n] += g.bias[n];
      if (g.residual != nullptr) {
        y[n] += read(g.residual_float ? Math::kFp32 : math, g.residual, m * g.ldr + n);
      }
      mean += y[n] / g.n;
    }
    for (double v : y) variance += (v - mean) * (v - mean) / g.n;
    for (int n = 0; n < g.n; ++n) {
      const double z = activated(
          a.activation, (y[n] - mean) / std::sqrt(variance + a.eps) * a.gamma[n] + a.beta[n]);
      const bool floats = math != Math::kFp16;
      if (a.out_float != nullptr) a.out_float[m * a.ldo_float + n] = static_cast<float>(z);
      if (a.out != nullptr) write(floats, a.out, m * a.ldo + n, z);
      if (a.out_plus != nullptr) {
        write(floats, a.out_plus, int64_t{m} * g.n + n, z + a.plus[int64_t{m} * g.n + n]);
      }
    }
  }
}

void attention(Math math, const AttentionArguments& a) {
  std::vector<double> weights(static_cast<std::size_t>(a.length));
  for (int s = 0; s < a.sequences; ++s) {
    for (int h = 0; h < a.heads; ++h) {
      for (int i = 0; i < a.length; ++i) {
        const int64_t first = int64_t{s} * a.length, column = int64_t{h} * a.head_dim;
        double largest = -INFINITY, total = 0;
        for (int j = 0; j < a.length; ++j) {
          double sum = 0;
          for (int d = 0; d < a.head_dim; ++d) {
            sum += read(math, a.q, (first + i) * a.ldq + column + d) *
                   read(math, a.k, (first + j) * a.ldk + column + d);
          }
          weights[j] = sum * a.scale;
          largest = std::max(largest, weights[j]);
        }
        for (double& w : weights) total += w = std::exp(w - largest);
        for (int d = 0; d < a.head_dim; ++d) {
          double sum = 0;
          for (int j = 0; j < a.length; ++j) {
            sum += weights[j] * read(math, a.v, (first + j) * a.ldv + column + d);
          }
          write(math != Math::kFp16, a.out, (first + i) * a.ldo + column + d, sum / total);
        }
      }
    }
  }
}

}  // namespace rfseg::cuda::plain
