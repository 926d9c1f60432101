// Hopper's block of the segmentation head against a plain kernel.

#include "engine/cuda/hopper/mask_block.h"
#include "engine/cuda_hopper_plain.h"

namespace rfseg::cuda {
namespace {

/// A block of threads a cell, a thread a channel.
__global__ void plain_mask_block(MaskBlockArguments a, double* out) {
  __shared__ double v[256], other[256];
  const int c = threadIdx.x, x = blockIdx.x % a.cols, y = blockIdx.x / a.cols % a.rows,
            picture = blockIdx.x / a.cols / a.rows;
  const auto cell = [&](int y, int x) {
    return static_cast<const __half*>(a.map) +
           ((static_cast<int64_t>(picture) * a.rows + y) * a.cols + x) * a.channels;
  };
  double sum = a.depthwise_bias[c];
  for (int tap = 0; tap < 9; ++tap) {
    const int from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
    if (from_y < 0 || from_y >= a.rows || from_x < 0 || from_x >= a.cols) continue;
    sum += static_cast<double>(a.depthwise[tap * a.channels + c]) *
           __half2float(cell(from_y, from_x)[c]);
  }
  v[c] = sum;
  __syncthreads();
  double mean = 0, variance = 0;
  for (int i = 0; i < a.channels; ++i) mean += v[i] / a.channels;
  for (int i = 0; i < a.channels; ++i) variance += (v[i] - mean) * (v[i] - mean) / a.channels;
  other[c] = (v[c] - mean) / sqrt(variance + a.eps);
  __syncthreads();
  double product = a.bias[c];
  for (int i = 0; i < a.channels; ++i) {
    product += __half2float(static_cast<const __half*>(a.weight)[c * a.channels + i]) * other[i];
  }
  out[static_cast<int64_t>(blockIdx.x) * a.channels + c] =
      __half2float(cell(y, x)[c]) + activate(product, Activation::kGelu);
}

void try_mask_block(int batch, int rows, int cols, float mean, bool overlap = false) {
  std::printf("mask block: %d maps of %d x %d cells, mean %g\n", batch, rows, cols, mean);
  constexpr int kChannels = 256;
  const int64_t size = static_cast<int64_t>(batch) * rows * cols * kChannels;
  Array<__half> map(size), weight(kChannels * kChannels), out(size + 1024);
  fill(map, size, 2.0f, 1);
  fill(weight, kChannels * kChannels, 0.125f, 2);
  Array<float> depthwise(9 * kChannels), depthwise_bias(kChannels), bias(kChannels),
      sums(kChannels);
  fill(depthwise, 9 * kChannels, 0.5f, 3);
  fill(depthwise_bias, kChannels, 1.0f, 4);
  fill(bias, kChannels, 1.0f, 5);
  std::vector<float> host = depthwise.read();
  for (float& v : host) v = to_float(__float2half_rn(v));  // the kernel's precision
  depthwise.write(host);
  host = depthwise_bias.read();
  for (float& v : host) v += mean;
  depthwise_bias.write(host);
  const std::vector<__half> rounded = weight.read();
  std::vector<float> row_sums(kChannels, 0.0f);
  for (int i = 0; i < kChannels * kChannels; ++i) row_sums[i / kChannels] += to_float(rounded[i]);
  sums.write(row_sums);
  MaskBlockArguments a;
  a.map = map.data();
  a.out = out.data();
  a.depthwise = depthwise.data();
  a.depthwise_bias = depthwise_bias.data();
  a.eps = 1e-6f;
  a.weight = weight.data();
  a.bias = bias.data();
  a.row_sums = sums.data();
  a.batch = batch;
  a.rows = rows;
  a.cols = cols;
  a.channels = kChannels;
  Array<double> plain(size);
  plain_mask_block<<<static_cast<unsigned>(batch * rows * cols), kChannels>>>(a, plain.data());
  check(cudaGetLastError(), "launching the plain block");
  const std::vector<double> want = plain.read();
  ASSERT_TRUE(hopper::mask_block({nullptr, overlap}, a));
  check(cudaDeviceSynchronize(), "running a mask block");
  const std::vector<__half> first = out.read();
  // The product's rows are halves, of values about `mean`.
  expect_close(
      first, want, 1e-3, 1e-3 * (1 + std::abs(mean)), [](int64_t i) { return i; }, "mask block");
  out.poison();
  ASSERT_TRUE(hopper::mask_block({nullptr, overlap}, a));
  const std::vector<__half> again = out.read();
  EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 2), 0);
}

TEST_F(CudaHopper, MaskBlock) {
  try_mask_block(1, 8, 8, 0);
  try_mask_block(1, 78, 78, 0, true);
  try_mask_block(3, 13, 27, 0);
  try_mask_block(7, 1, 1, 0);
  try_mask_block(5, 96, 78, 1, true);
}
TEST_F(CudaHopper, MaskBlockTakesItsWidthAlone) {
  MaskBlockArguments a;
  a.batch = a.rows = a.cols = 1;
  a.channels = 384;
  EXPECT_FALSE(hopper::mask_block({}, a));
}

}  // namespace
}  // namespace rfseg::cuda
