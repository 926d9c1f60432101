#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "engine/golden.h"
#include "engine/position.h"
#include "engine/reference/gemm.h"
#include "engine/two_stage.h"
#include "rfseg/error.h"

// The parts that the backends share, and the reference's matrix product.

namespace rfseg::testing {
namespace {

TEST(SelectTopk, DescendsAndBreaksTiesByLowerIndex) {
  const float scores[] = {1, 5, 3, 5, -2, 3, 5};
  EXPECT_EQ(select_topk(scores, 7, 5), (std::vector<int32_t>{1, 3, 6, 2, 5}));
  EXPECT_EQ(select_topk(scores, 7, 7), (std::vector<int32_t>{1, 3, 6, 2, 5, 0, 4}));
  EXPECT_EQ(select_topk(scores, 7, 2), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(select_topk(scores, 7, 0), (std::vector<int32_t>{}));
  const std::vector<float> equal(1000, 0.0f);
  const std::vector<int32_t> first = select_topk(equal.data(), 1000, 300);
  for (int32_t i = 0; i < 300; ++i) ASSERT_EQ(first[i], i);
}

TEST(SelectTopk, IsDefinedForNanAndInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const float scores[] = {-inf, nan, 0.0f, -0.0f, inf, nan};
  EXPECT_EQ(select_topk(scores, 6, 6), (std::vector<int32_t>{1, 5, 4, 2, 3, 0}));
}

ModelConfig grid_config(int rows, int cols, std::vector<Level> levels) {
  ModelConfig config;
  config.patch = 1;
  config.height = rows;
  config.width = cols;
  config.queries = 3;
  config.levels = std::move(levels);
  return config;
}

TEST(Proposals, CellCentresWithLevelSides) {
  const Proposals p = make_proposals(grid_config(3, 4, {Level::kP3, Level::kP5}));
  ASSERT_EQ(p.count, 6 * 8 + 2 * 2);
  EXPECT_TRUE(p.all_valid);
  const float* last = p.boxes.data.data() + (p.count - 1) * 4;
  EXPECT_FLOAT_EQ(last[0], 0.75f);
  EXPECT_FLOAT_EQ(last[1], 0.75f);
  EXPECT_FLOAT_EQ(last[2], 0.1f);
  EXPECT_FLOAT_EQ(p.boxes.data[4], 1.5f / 8);
  EXPECT_FLOAT_EQ(p.boxes.data[5], 0.5f / 6);
  EXPECT_FLOAT_EQ(p.boxes.data[7], 0.05f);
}

// 0.5 / 50 is not inside the open interval (0.01, 0.99), 0.5 / 49 is; each axis by itself.
TEST(Proposals, BorderCellsOfFineGridsAreInvalid) {
  EXPECT_TRUE(make_proposals(grid_config(49, 49, {Level::kP4})).all_valid);
  const Proposals p = make_proposals(grid_config(50, 3, {Level::kP4}));
  EXPECT_FALSE(p.all_valid);
  for (int y = 0; y < 50; ++y) {
    for (int x = 0; x < 3; ++x) {
      const bool valid = y > 0 && y < 49;
      EXPECT_EQ(p.valid[y * 3 + x] != 0, valid) << y;
      EXPECT_EQ(p.boxes.data[(y * 3 + x) * 4 + 2], valid ? 0.05f : 0.0f) << y;
    }
  }
}

TEST(Position, StoredTypeRoundsOnlyAResampledTable) {
  const Golden golden = load_golden("custom-rectangle");  // stored 9, configured 10, grid 8 x 12
  ModelConfig config = golden.config;
  const auto load = [&](DType dtype) {
    HashWeights weights = golden.weights();
    weights.set_dtype("backbone.0.encoder.encoder.embeddings.position_embeddings", dtype);
    return load_position_table(config, weights).patches;
  };
  config.height = config.width = 120;  // the grid is the configured one: one resampling
  const Tensor exact = load(DType::kF32), half = load(DType::kF16), brain = load(DType::kBf16);
  int changed = 0;
  for (int64_t i = 0; i < exact.size(); ++i) {
    ASSERT_EQ(half.data[i], half_to_float(float_to_half(exact.data[i])));
    ASSERT_EQ(std::bit_cast<uint32_t>(brain.data[i]) & 0xffff, 0u);
    ASSERT_NEAR(brain.data[i], exact.data[i], std::abs(exact.data[i]) * 0x1p-8);
    changed += half.data[i] != exact.data[i];
  }
  EXPECT_GT(changed, exact.size() / 2);
  config.pos_grid = 9;  // as stored: only the input's grid differs, and that keeps fp32
  EXPECT_EQ(load(DType::kF32).data, load(DType::kF16).data);
}

TEST(Position, WeightsSumToOne) {
  for (int in : {1, 2, 5, 26, 37, 64}) {
    for (int out : {1, 2, 3, 26, 40, 64, 100}) {
      for (const Tensor& weights : {cubic_antialias_weights(in, out), linear_weights(in, out)}) {
        for (int j = 0; j < out; ++j) {
          double sum = 0;
          for (int t = 0; t < in; ++t) sum += weights.data[j * in + t];
          ASSERT_NEAR(sum, 1, 1e-6) << in << " to " << out;
        }
      }
    }
  }
}

TEST(SineEmbedding, CoordinatesInOrderSineAtEvenChannels) {
  const float box[] = {0.1f, 0.2f, 0.3f, 0.4f};  // cx, cy, w, h
  constexpr int kDim = 8;
  float out[2 * kDim];
  sine_embedding(box, 1, kDim, out);
  const double order[] = {0.2, 0.1, 0.3, 0.4};
  for (int block = 0; block < 4; ++block) {
    for (int k = 0; k < 4; ++k) {
      const double wave = std::pow(10000.0, (k / 2) * 2 / 4.0);
      const double phase = 2 * M_PI * order[block] / wave;
      EXPECT_NEAR(out[block * 4 + k], k % 2 == 0 ? std::sin(phase) : std::cos(phase), 1e-6);
    }
  }
}

TEST(RefineBox, MayWriteOverItsInput) {
  float box[] = {0.5f, 0.25f, 0.1f, 0.2f};
  const float delta[] = {1, -1, 0, std::log(2.0f)};
  refine_box(delta, box, box);
  EXPECT_FLOAT_EQ(box[0], 0.6f);
  EXPECT_FLOAT_EQ(box[1], 0.05f);
  EXPECT_FLOAT_EQ(box[2], 0.1f);
  EXPECT_FLOAT_EQ(box[3], 0.4f);
}

TEST(Gemm, BothProductsMatchASumInDouble) {
  using reference::Second;
  struct Size {
    int64_t m, n, k;
  };
  const Size sizes[] = {{1, 1, 1},    {1, 65, 3},   {3, 64, 16},  {5, 17, 257},
                        {31, 33, 13}, {65, 1, 511}, {4, 130, 256}};
  for (const Size& s : sizes) {
    for (Second second : {Second::kPlain, Second::kTransposed}) {
      const int64_t lda = s.k + 3, ldc = s.n + 5;
      const int64_t ldb = (second == Second::kPlain ? s.n : s.k) + 7;
      Tensor a({s.m, lda}), b({second == Second::kPlain ? s.k : s.n, ldb});
      hash_fill(a.data.data(), a.size(), hash_name("a", 1), 0, 1);
      hash_fill(b.data.data(), b.size(), hash_name("b", 1), 0, 1);
      Tensor plain({s.m, ldc}), fast({s.m, ldc});
      std::fill(plain.data.begin(), plain.data.end(), -7.0f);
      fast.data = plain.data;
      reference::plain_gemm(second, s.m, s.n, s.k, a.data.data(), lda, b.data.data(), ldb,
                            plain.data.data(), ldc);
      reference::gemm(second, s.m, s.n, s.k, a.data.data(), lda, b.data.data(), ldb,
                      fast.data.data(), ldc, 2);
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < ldc; ++j) {
          double sum = -7;  // columns past n are not touched
          if (j < s.n) {
            sum = 0;
            for (int64_t p = 0; p < s.k; ++p) {
              const float factor =
                  second == Second::kPlain ? b.data[p * ldb + j] : b.data[j * ldb + p];
              sum += double{a.data[i * lda + p]} * factor;
            }
          }
          const double tolerance = 1e-6 * std::sqrt(static_cast<double>(s.k)) * 4;
          ASSERT_NEAR(plain.data[i * ldc + j], sum, tolerance) << s.m << " " << s.n << " " << s.k;
          ASSERT_NEAR(fast.data[i * ldc + j], sum, tolerance) << s.m << " " << s.n << " " << s.k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace rfseg::testing
