#include "engine/position.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/half.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/// Rounds to the nearest bfloat16, ties to even; values are finite.
float round_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  bits += 0x7fff + ((bits >> 16) & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

Tensor resample_cubic(const Tensor& table, int rows, int cols) {
  if (table.dim(0) == rows && table.dim(1) == cols) return table;
  return resample_map(table, cubic_antialias_weights(static_cast<int>(table.dim(0)), rows),
                      cubic_antialias_weights(static_cast<int>(table.dim(1)), cols));
}

}  // namespace

Tensor cubic_antialias_weights(int n_in, int n_out) {
  Tensor weights({n_out, n_in});
  std::fill(weights.data.begin(), weights.data.end(), 0.0f);
  const double scale = static_cast<double>(n_in) / n_out;
  const double widen = std::max(scale, 1.0);
  std::vector<double> taps;
  for (int j = 0; j < n_out; ++j) {
    const double center = scale * (j + 0.5);
    const int begin = std::max(static_cast<int>(center - 2 * widen + 0.5), 0);
    const int end = std::min(static_cast<int>(center + 2 * widen + 0.5), n_in);
    taps.clear();
    double sum = 0;
    for (int t = begin; t < end; ++t) {
      taps.push_back(cubic((t - center + 0.5) / widen));
      sum += taps.back();
    }
    float* row = weights.data.data() + int64_t{j} * n_in;
    for (int t = begin; t < end; ++t) row[t] = static_cast<float>(taps[t - begin] / sum);
  }
  return weights;
}

Tensor linear_weights(int n_in, int n_out) {
  Tensor weights({n_out, n_in});
  std::fill(weights.data.begin(), weights.data.end(), 0.0f);
  for (int j = 0; j < n_out; ++j) {
    const double source = std::max((j + 0.5) * n_in / n_out - 0.5, 0.0);
    const int low = static_cast<int>(source);
    const double fraction = source - low;
    float* row = weights.data.data() + int64_t{j} * n_in;
    row[low] += static_cast<float>(1 - fraction);
    row[std::min(low + 1, n_in - 1)] += static_cast<float>(fraction);
  }
  return weights;
}

Tensor resample_map(const Tensor& map, const Tensor& y, const Tensor& x) {
  const int64_t rows = map.dim(0), cols = map.dim(1), channels = map.dim(2);
  const int64_t out_rows = y.dim(0), out_cols = x.dim(0);
  // Both passes skip zero weights: each output has a handful of taps.
  Tensor wide({rows, out_cols, channels});
  std::fill(wide.data.begin(), wide.data.end(), 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < out_cols; ++j) {
      float* out = wide.data.data() + (r * out_cols + j) * channels;
      for (int64_t t = 0; t < cols; ++t) {
        const float weight = x.data[j * cols + t];
        if (weight == 0) continue;
        const float* in = map.data.data() + (r * cols + t) * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] += weight * in[c];
      }
    }
  }
  Tensor result({out_rows, out_cols, channels});
  std::fill(result.data.begin(), result.data.end(), 0.0f);
  const int64_t row_size = out_cols * channels;
  for (int64_t i = 0; i < out_rows; ++i) {
    float* out = result.data.data() + i * row_size;
    for (int64_t t = 0; t < rows; ++t) {
      const float weight = y.data[i * rows + t];
      if (weight == 0) continue;
      const float* in = wide.data.data() + t * row_size;
      for (int64_t c = 0; c < row_size; ++c) out[c] += weight * in[c];
    }
  }
  return result;
}

PositionTable load_position_table(const ModelConfig& config, const WeightSource& weights) {
  const std::string name = kEncoderPrefix + "embeddings.position_embeddings";
  Tensor stored = weights.read(name);
  const int64_t width = config.enc_dim;
  const int64_t rows = stored.shape.size() == 3 ? stored.dim(1) : 0;
  const int side = static_cast<int>(std::lround(std::sqrt(static_cast<double>(rows - 1))));
  if (rows < 2 || stored.size() != rows * width || int64_t{side} * side != rows - 1) {
    throw Error(ErrorCode::kModel,
                fmt::format("{}: tensor '{}' has shape {}, expected [1, n*n+1, {}]",
                            weights.origin(), name, to_string(stored.shape), width));
  }
  PositionTable table;
  table.cls = weights.read(kEncoderPrefix + "embeddings.cls_token", {1, 1, width});
  table.cls.shape = {width};
  for (int64_t c = 0; c < width; ++c) table.cls.data[c] += stored.data[c];

  Tensor patches({side, side, width});
  std::copy(stored.data.begin() + width, stored.data.end(), patches.data.begin());
  if (side != config.pos_grid) {
    patches = resample_cubic(patches, config.pos_grid, config.pos_grid);
    const TensorInfo* info = weights.find(name);
    if (info != nullptr && info->dtype == DType::kF16) {
      for (float& v : patches.data) v = half_to_float(float_to_half(v));
    } else if (info != nullptr && info->dtype == DType::kBf16) {
      for (float& v : patches.data) v = round_to_bf16(v);
    }
  }
  table.patches = resample_cubic(patches, config.grid_rows(), config.grid_cols());
  return table;
}

}  // namespace rfseg
