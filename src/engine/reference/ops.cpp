#include "engine/reference/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/reference/gemm.h"

namespace rfseg::reference {
namespace {

/// Sum of f(x) in 16 interleaved partial sums: a fixed order that a compiler can vectorise, and a
/// smaller rounding error than one running sum.
template <class F>
float interleaved_sum(const float* x, int64_t n, F f) {
  float partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) partial[j] += f(x[i + j]);
  }
  for (; i < n; ++i) partial[i % 16] += f(x[i]);
  for (int64_t width = 8; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) partial[j] += partial[j + width];
  }
  return partial[0];
}

Shape with_last(Shape shape, int64_t last) {
  shape.back() = last;
  return shape;
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, int threads) {
  const int64_t in = x.shape.back(), out = weight.dim(0), rows = x.size() / in;
  Tensor y(with_last(x.shape, out));
  gemm(Second::kTransposed, rows, out, in, x.data.data(), in, weight.data.data(), in, y.data.data(),
       out, threads);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = y.data.data() + r * out;
    for (int64_t c = 0; c < out; ++c) row[c] += bias.data[c];
  }
  return y;
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  const int64_t width = x.shape.back();
  const float scale = 1.0f / static_cast<float>(width);
  Tensor y(x.shape);
  for (int64_t start = 0; start < x.size(); start += width) {
    const float* in = x.data.data() + start;
    float* out = y.data.data() + start;
    const float mean = interleaved_sum(in, width, [](float v) { return v; }) * scale;
    const float variance =
        interleaved_sum(in, width, [mean](float v) { return (v - mean) * (v - mean); }) * scale;
    const float deviation = std::sqrt(variance + eps);
    for (int64_t c = 0; c < width; ++c) {
      out[c] = (in[c] - mean) / deviation * weight.data[c] + bias.data[c];
    }
  }
  return y;
}

void softmax(float* values, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, values[i]);
  for (int64_t i = 0; i < n; ++i) values[i] = std::exp(values[i] - largest);
  const float sum = interleaved_sum(values, n, [](float v) { return v; });
  for (int64_t i = 0; i < n; ++i) values[i] /= sum;
}

void attention(const float* q, const float* k, const float* v, int64_t n, int64_t m,
               int64_t channels, int heads, float* out, int threads) {
  const int64_t d = channels / heads;
  const float root = std::sqrt(static_cast<float>(d));
  AlignedVector<float> scores(n * m);
  for (int64_t offset = 0; offset < channels; offset += d) {
    gemm(Second::kTransposed, n, m, d, q + offset, channels, k + offset, channels, scores.data(), m,
         threads);
    for (int64_t i = 0; i < n; ++i) {
      float* row = scores.data() + i * m;
      for (int64_t j = 0; j < m; ++j) row[j] /= root;
      softmax(row, m);
    }
    gemm(Second::kPlain, n, d, m, scores.data(), m, v + offset, channels, out + offset, channels,
         threads);
  }
}

Tensor conv2d(const Tensor& map, const Tensor& weight, int stride, int threads) {
  const int64_t rows = map.dim(0), cols = map.dim(1), in = map.dim(2);
  const int64_t out = weight.dim(0), side = weight.dim(2), pad = side / 2;
  const int64_t out_rows = (rows + 2 * pad - side) / stride + 1;
  const int64_t out_cols = (cols + 2 * pad - side) / stride + 1;
  Tensor result({out_rows, out_cols, out});
  const int64_t depth = in * side * side;
  if (side == 1 && stride == 1) {
    gemm(Second::kTransposed, rows * cols, out, in, map.data.data(), in, weight.data.data(), in,
         result.data.data(), out, threads);
    return result;
  }
  // One row of the result at a time: patches [out_cols, in * side * side] in the weight's order.
  AlignedVector<float> patches(out_cols * depth);
  for (int64_t y = 0; y < out_rows; ++y) {
    std::fill(patches.begin(), patches.end(), 0.0f);
    for (int64_t x = 0; x < out_cols; ++x) {
      for (int64_t ky = 0; ky < side; ++ky) {
        for (int64_t kx = 0; kx < side; ++kx) {
          const int64_t sy = y * stride + ky - pad, sx = x * stride + kx - pad;
          if (sy < 0 || sy >= rows || sx < 0 || sx >= cols) continue;
          const float* cell = map.data.data() + (sy * cols + sx) * in;
          float* column = patches.data() + x * depth + ky * side + kx;
          for (int64_t c = 0; c < in; ++c) column[c * side * side] = cell[c];
        }
      }
    }
    gemm(Second::kTransposed, out_cols, out, depth, patches.data(), depth, weight.data.data(),
         depth, result.data.data() + y * out_cols * out, out, threads);
  }
  return result;
}

Tensor conv_transpose2x2(const Tensor& map, const Tensor& weight, const Tensor& bias, int threads) {
  const int64_t rows = map.dim(0), cols = map.dim(1), in = map.dim(2), out = weight.dim(1);
  // [cells, out * 4]: every cell gives a 2 x 2 block that overlaps no other.
  AlignedVector<float> blocks(rows * cols * out * 4);
  gemm(Second::kPlain, rows * cols, out * 4, in, map.data.data(), in, weight.data.data(), out * 4,
       blocks.data(), out * 4, threads);
  Tensor result({2 * rows, 2 * cols, out});
  for (int64_t y = 0; y < 2 * rows; ++y) {
    for (int64_t x = 0; x < 2 * cols; ++x) {
      const float* block = blocks.data() + ((y / 2) * cols + x / 2) * out * 4;
      float* cell = result.data.data() + (y * 2 * cols + x) * out;
      const int64_t corner = (y % 2) * 2 + x % 2;
      for (int64_t c = 0; c < out; ++c) cell[c] = block[c * 4 + corner] + bias.data[c];
    }
  }
  return result;
}

Tensor depthwise3x3(const Tensor& map, const Tensor& weight, const Tensor& bias) {
  const int64_t rows = map.dim(0), cols = map.dim(1), channels = map.dim(2);
  AlignedVector<float> taps(9 * channels);  // [ky, kx, C], so that channels are consecutive
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < 9; ++t) taps[t * channels + c] = weight.data[c * 9 + t];
  }
  Tensor result(map.shape);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < cols; ++x) {
      float* out = result.data.data() + (y * cols + x) * channels;
      std::fill_n(out, channels, 0.0f);
      for (int64_t t = 0; t < 9; ++t) {
        const int64_t sy = y + t / 3 - 1, sx = x + t % 3 - 1;
        if (sy < 0 || sy >= rows || sx < 0 || sx >= cols) continue;
        const float* in = map.data.data() + (sy * cols + sx) * channels;
        const float* tap = taps.data() + t * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] += in[c] * tap[c];
      }
      for (int64_t c = 0; c < channels; ++c) out[c] += bias.data[c];
    }
  }
  return result;
}

Tensor concat_channels(const std::vector<const Tensor*>& maps) {
  int64_t channels = 0;
  for (const Tensor* map : maps) channels += map->dim(2);
  const int64_t rows = maps.front()->dim(0), cols = maps.front()->dim(1);
  Tensor result({rows, cols, channels});
  for (int64_t cell = 0; cell < rows * cols; ++cell) {
    float* out = result.data.data() + cell * channels;
    for (const Tensor* map : maps) {
      out = std::copy_n(map->data.data() + cell * map->dim(2), map->dim(2), out);
    }
  }
  return result;
}

void relu(Tensor& x) {
  for (float& v : x.data) v = v < 0 ? 0 : v;  // keeps NaN, as torch's clamp does
}

void silu(Tensor& x) {
  for (float& v : x.data) v *= 1 / (1 + std::exp(-v));
}

void gelu(Tensor& x) {
  for (float& v : x.data) v = 0.5f * v * (1 + std::erf(v / std::numbers::sqrt2_v<float>));
}

void add(Tensor& x, const Tensor& y) {
  for (int64_t i = 0; i < x.size(); ++i) x.data[i] += y.data[i];
}

}  // namespace rfseg::reference
