// Kernels for few rows beside those of a decoder layer: classes, masks and the convolution of few
// cells, on the emulator, against plain loops in double over the same halves.

#define RFSEG_SIMT_EMULATION 1

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "engine/cuda/portable/convolution.cu"
#include "engine/cuda/small/class_scores.cu"
#include "engine/cuda/small/mask_product.cu"
#include "engine/cuda_few_rows_plain.h"

namespace rfseg::cuda {

namespace {
int multiprocessors_now = 132;
}
int portable::multiprocessors() { return multiprocessors_now; }

namespace {

using namespace few_rows;

TEST(ClassScores, AreTheLargestLogits) {
  for (const int classes : {91, 3, 96}) {
    const int rows = 37;
    const Linear logits(classes, kColumns);
    std::vector<uint16_t> cells = halves(std::size_t{rows} * kColumns, 1);
    cells[5 * kColumns + 7] = 0x7e00;  // NaN
    std::vector<float> scores(rows + 1, -7);
    ClassScoresArguments a{cells.data(), logits.product(), scores.data(), rows, classes};
    class_scores({}, Math::kFp16, a);
    const Row wide = widened(cells);
    for (int r = 0; r < rows; ++r) {
      if (r == 5) {
        EXPECT_TRUE(std::isnan(scores[r]));
        continue;
      }
      const Row all = logits(row_of(wide, r, kColumns));
      const double best = *std::max_element(all.begin(), all.end());
      EXPECT_TRUE(std::abs(scores[r] - best) <= 1e-4) << r << ": " << scores[r] << ", " << best;
    }
    EXPECT_EQ(scores[rows], -7);
  }
}

TEST(MaskProduct, IsOfEveryQueryAndPixel) {
  for (const auto& [batch, m, n] : {std::tuple{1, 100, 100}, {2, 37, 52}, {1, 130, 48}}) {
    const std::vector<uint16_t> queries = halves(std::size_t(batch) * m * kColumns, 1);
    const std::vector<uint16_t> pixels = halves(std::size_t(batch) * n * kColumns, 0.5f);
    const std::vector<float> bias = floats(std::size_t(batch) * m, 1);
    const int ldo = n + 4;
    std::vector<uint16_t> out(std::size_t(batch) * m * ldo, 0x7e00);
    GemmArguments g;
    g.a = queries.data();
    g.b = pixels.data();
    g.lda = g.ldb = g.k = kColumns;
    g.m = m;
    g.n = n;
    g.batch = batch;
    g.a_step = int64_t{m} * kColumns;
    g.b_step = int64_t{n} * kColumns;
    g.row_bias = bias.data();
    g.row_bias_step = m;
    g.out = out.data();
    g.ldo = ldo;
    g.out_step = int64_t{m} * ldo;
    ASSERT_TRUE(mask_product({}, g));
    const Row rows = widened(queries), columns = widened(pixels);
    for (int r = 0; r < batch * m; ++r) {
      for (int i = 0; i < ldo; ++i) {
        const uint16_t got = out[std::size_t(r) * ldo + i];
        if (i >= n) {
          ASSERT_EQ(got, 0x7e00);
          continue;
        }
        double sum = bias[r];
        for (int k = 0; k < kColumns; ++k) {
          sum += rows[std::size_t(r) * kColumns + k] *
                 columns[(std::size_t(r / m) * n + i) * kColumns + k];
        }
        ASSERT_TRUE(std::abs(half_to_float(got) - sum) <= 1e-2) << r << ", " << i;
      }
    }
    g.n -= 2;
    EXPECT_FALSE(mask_product({}, g));
  }
}
void check_convolution(int batch, int rows, int cols, Activation activation) {
  constexpr int kChannels = 128, kLd = 320, kLdOut = 136;
  const int cells = batch * rows * cols;
  const std::vector<uint16_t> map = halves(std::size_t(cells) * kLd, 1);
  const std::vector<uint16_t> weight = halves(std::size_t{kChannels} * 9 * kChannels, 0.1f);
  const std::vector<float> gamma = floats(kChannels, 0.3f, 1), beta = floats(kChannels, 0.2f);
  std::vector<uint16_t> out(std::size_t(cells) * kLdOut, 0x7e00);
  GemmNormArguments a;
  GemmArguments& g = a.product;
  g.source = RowSource::kConv3x3;
  g.a = map.data() + kChannels;
  g.lda = kLd;
  g.map_rows = g.out_rows = rows;
  g.map_cols = g.out_cols = cols;
  g.channels = kChannels;
  g.b = weight.data();
  g.ldb = g.k = 9 * kChannels;
  g.b_fixed = true;
  g.m = cells;
  g.n = kChannels;
  a.gamma = gamma.data();
  a.beta = beta.data();
  a.eps = 1e-6f;
  a.activation = activation;
  a.out = out.data();
  a.ldo = kLdOut;
  ASSERT_TRUE(portable::convolution_norm({}, a));
  const Row wide_map = widened(map), wide_weight = widened(weight);
  for (int m = 0; m < cells; ++m) {
    const int x = m % cols, y = m / cols % rows;
    Row sums(kChannels);
    double mean = 0, squares = 0;
    for (int n = 0; n < kChannels; ++n) {
      for (int tap = 0; tap < 9; ++tap) {
        const int iy = y + tap / 3 - 1, ix = x + tap % 3 - 1;
        if (iy < 0 || iy >= rows || ix < 0 || ix >= cols) continue;
        const double* from = &wide_map[std::size_t(m + (iy - y) * cols + ix - x) * kLd + kChannels];
        const double* with = &wide_weight[(std::size_t(n) * 9 + tap) * kChannels];
        for (int c = 0; c < kChannels; ++c) sums[n] += from[c] * with[c];
      }
      mean += sums[n] / kChannels;
    }
    for (double v : sums) squares += (v - mean) * (v - mean) / kChannels;
    for (int n = 0; n < kLdOut; ++n) {
      const uint16_t got = out[std::size_t(m) * kLdOut + n];
      if (n >= kChannels) {
        ASSERT_EQ(got, 0x7e00);
        continue;
      }
      double v = (sums[n] - mean) / std::sqrt(squares + 1e-6) * gamma[n] + beta[n];
      if (activation == Activation::kSilu) v /= 1 + std::exp(-v);
      ASSERT_TRUE(std::abs(half_to_float(got) - v) <= 3e-3) << m << ", " << n;
    }
  }
}

TEST(Convolution, OfFewCellsWithItsNorm) {
  check_convolution(1, 5, 13, Activation::kSilu);
  check_convolution(2, 7, 9, Activation::kNone);
  check_convolution(1, 1, 3, Activation::kSilu);
  check_convolution(1, 3, 42, Activation::kSilu);
}

TEST(Convolution, OfTilesOf64CellsWhereThereAreTooFewMultiprocessorsForThoseOf32) {
  multiprocessors_now = 8;
  check_convolution(1, 5, 13, Activation::kSilu);
  check_convolution(2, 7, 9, Activation::kNone);
  check_convolution(1, 3, 41, Activation::kSilu);
  multiprocessors_now = 16;
  check_convolution(1, 4, 60, Activation::kSilu);  // more cells than have places computed early
  multiprocessors_now = 132;
}

}  // namespace
}  // namespace rfseg::cuda
