#pragma once

// What the tests of Hopper's kernels share: the fixture, and the product by a plain kernel that
// accumulates in double.

#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda_arrays.h"

namespace rfseg::cuda {

/// Skipped, and shown as such, without a GPU of compute capability 9.x.
class CudaHopper : public testing::Test {
 protected:
  void SetUp() override {
    if (!hopper::usable()) GTEST_SKIP() << "no GPU of compute capability 9.x";
  }
};

namespace {

__device__ double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kGelu:
      return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    case Activation::kSilu:
      return x / (1 + exp(-x));
    default:
      return x;
  }
}

/// One thread an element, to a dense [batch, m, n] double. `norm`: stops after the residual.
__global__ void plain_product(GemmArguments g, bool norm, double* out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= static_cast<int64_t>(g.batch) * g.m * g.n) return;
  const int column = static_cast<int>(i % g.n), row = static_cast<int>(i / g.n % g.m),
            picture = static_cast<int>(i / g.n / g.m);
  const __half* a =
      static_cast<const __half*>(g.split && column >= g.split ? g.a2 : g.a) + picture * g.a_step;
  const __half* b = static_cast<const __half*>(g.b) + picture * g.b_step + column * g.ldb;
  double sum = 0;
  if (g.source == RowSource::kConv3x3) {
    const int cells = g.out_rows * g.out_cols, map = row / cells;
    const int y = row % cells / g.out_cols, x = row % cells % g.out_cols;
    for (int tap = 0; tap < 9; ++tap) {
      const int from_y = y * g.stride + tap / 3 - 1, from_x = x * g.stride + tap % 3 - 1;
      if (from_y < 0 || from_y >= g.map_rows || from_x < 0 || from_x >= g.map_cols) continue;
      const __half* cell =
          a + ((static_cast<int64_t>(map) * g.map_rows + from_y) * g.map_cols + from_x) * g.lda;
      for (int c = 0; c < g.channels; ++c) {
        sum += static_cast<double>(__half2float(cell[c])) * __half2float(b[tap * g.channels + c]);
      }
    }
  } else {
    for (int k = 0; k < g.k; ++k) {
      sum += static_cast<double>(__half2float(a[row * g.lda + k])) * __half2float(b[k]);
    }
  }
  if (g.bias) sum += g.bias[column];
  if (!norm) {
    if (g.row_bias) sum += g.row_bias[picture * g.row_bias_step + row];
    sum = activate(sum, g.activation);
    if (g.scale) sum *= g.scale[column];
  }
  const int64_t to = !norm && g.out_group
                         ? row + row / g.out_group * static_cast<int64_t>(g.out_skip) + g.out_first
                         : row;
  if (g.residual) {
    const int64_t at = (g.residual_period ? to % g.residual_period : to) * g.ldr + column;
    sum += g.residual_float ? static_cast<const float*>(g.residual)[at]
                            : __half2float(static_cast<const __half*>(g.residual)[at]);
  }
  out[i] = sum;
}

std::vector<double> reference(const GemmArguments& g, bool norm = false) {
  const int64_t size = static_cast<int64_t>(g.batch) * g.m * g.n;
  Array<double> out(size);
  plain_product<<<static_cast<unsigned>((size + 127) / 128), 128>>>(g, norm, out.data());
  check(cudaGetLastError(), "launching the plain product");
  return out.read();
}

}  // namespace
}  // namespace rfseg::cuda
