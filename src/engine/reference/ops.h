#pragma once

#include "core/tensor.h"

// The layers of the network as plain functions on row-major float32 tensors whose last axis holds
// the channels. All sums are fp32.

namespace rfseg::reference {

/// x W^T + b over the last axis: x [.., in], weight [out, in], bias [out] -> [.., out].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, int threads);

/// Normalises the last axis: (x - mean) / sqrt(var + eps) * weight + bias, two passes.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);

/// Softmax of `n` consecutive values, in place.
void softmax(float* values, int64_t n);

/// Multi-head attention softmax(q k^T / sqrt(d)) v without a mask: q [n, C]; k, v [m, C] -> out
/// [n, C], channel = head * d + i.
void attention(const float* q, const float* k, const float* v, int64_t n, int64_t m,
               int64_t channels, int heads, float* out, int threads);

/// Convolution of a map [rows, cols, in] with weight [out, in, side, side], zero padding side / 2,
/// no bias -> [rows', cols', out].
Tensor conv2d(const Tensor& map, const Tensor& weight, int stride, int threads);

/// Transposed convolution with 2 x 2 kernels and stride 2: map [rows, cols, in], weight
/// [in, out, 2, 2], bias [out] -> [2 rows, 2 cols, out].
Tensor conv_transpose2x2(const Tensor& map, const Tensor& weight, const Tensor& bias, int threads);

/// Depthwise 3 x 3 convolution, padding 1: map [rows, cols, C], weight [C, 1, 3, 3], bias [C].
Tensor depthwise3x3(const Tensor& map, const Tensor& weight, const Tensor& bias);

/// Concatenates maps [rows, cols, C_i] along the channels.
Tensor concat_channels(const std::vector<const Tensor*>& maps);

// In place, element by element.
void relu(Tensor& x);
void silu(Tensor& x);
void gelu(Tensor& x);  ///< exact: 0.5 x (1 + erf(x / sqrt 2))
/// x += y
void add(Tensor& x, const Tensor& y);

}  // namespace rfseg::reference
