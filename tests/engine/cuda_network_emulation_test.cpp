// The sequence of the GPU's network with its small kernels on the emulator, products as plain
// loops, against the independent PyTorch implementation.

#define RFSEG_SIMT_EMULATION 1

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/small/map_kernels.cu"
#include "engine/cuda/small/query_kernels.cu"
#include "engine/cuda/small/query_layer.h"
#include "engine/cuda/small/row_kernels.cu"
#include "engine/golden.h"
#include "engine/plain_products.h"

namespace rfseg::cuda {

void gemm(const Queue&, Math math, const GemmArguments& arguments) { plain::gemm(math, arguments); }
// Both ways: q, k, v one way, the hidden layer the other.
bool gemm_prefers_normed(const Queue&, Math, int, int n, int) { return n == 3 * 384; }
void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments) {
  GemmNormArguments once = arguments;
  if (arguments.then_gamma != nullptr) once.out = nullptr;
  plain::gemm_norm(math, once);
  if (arguments.then_gamma == nullptr) return;
  NormArguments n;
  n.x = arguments.out_float;
  n.ldx = arguments.ldo_float;
  n.m = arguments.product.m;
  n.n = arguments.product.n;
  n.gamma = arguments.then_gamma;
  n.beta = arguments.then_beta;
  n.eps = arguments.eps;
  n.out = arguments.out;
  n.ldo = arguments.ldo;
  norm_rows(queue, math, n);
}
void attention(const Queue&, Math math, const AttentionArguments& arguments) {
  plain::attention(math, arguments);
}
bool hopper::usable() { return false; }
bool gemm_norm_takes_stream(const Queue&, Math, int, int, int) { return false; }
bool gemm_hands_on_norms(const Queue&, Math, int, int) { return false; }
bool takes_mask_block(const Queue&, Math, int) { return false; }
void mask_block(const Queue&, Math, const MaskBlockArguments&) {}
bool takes_query_layers(const Queue&, Math, int, int, int, int, int) { return false; }
bool takes_class_scores(const Queue&, Math, int, int, int) { return false; }
void class_scores(const Queue&, Math, const ClassScoresArguments&) {}
void query_start(const Queue&, Math, const QueryStartArguments&) {}
void query_attention(const Queue&, Math, const QueryAttentionArguments&) {}
void query_forward(const Queue&, Math, const QueryForwardArguments&) {}
void query_heads(const Queue&, Math, const QueryHeadsArguments&) {}
void query_masks(const Queue&, Math, const QueryMasksArguments&) {}

}  // namespace rfseg::cuda

namespace rfseg::testing {
namespace {

std::unique_ptr<CudaEngine> emulated(const Golden& golden, Precision precision) {
  CudaEngineOptions options;
  options.precision = precision;
  options.threads = 2;
  options.graphs = false;
  return create_cuda_engine(golden.config, golden.weights(), options);
}

// Both ways, for pictures of several windows: CLS tokens as they are in x, or as rows of zeros.
TEST(CudaEmbed, CutsPatchesInTheOrderOfTokens) {
  const cuda::TokenLayout layout{2, 2, 3};
  for (const bool with_cls : {false, true}) {
    for (const int patch : {2, 4}) {
      const int batch = 2, width = 16, area = patch * patch, ld = 64, side_rows = 4, side_cols = 6;
      const int h = side_rows * patch, w = side_cols * patch;
      std::vector<float> pictures(std::size_t(batch) * 3 * h * w);
      for (std::size_t i = 0; i < pictures.size(); ++i) pictures[i] = static_cast<float>(i + 1);
      std::vector<float> start(std::size_t(layout.tokens()) * width, 7),
          x(batch * start.size(), -1);
      const int rows = with_cls ? layout.tokens() : layout.cells();
      std::vector<float> patches(std::size_t(batch) * rows * ld + 1, -1);
      cuda::EmbedArguments a;
      a.pictures = pictures.data();
      a.start = start.data();
      a.patches = patches.data();
      a.x = with_cls ? nullptr : x.data();
      a.layout = layout;
      a.batch = batch;
      a.patch = patch;
      a.ld = ld;
      a.width = width;
      cuda::embed({}, cuda::Math::kFp32, a);
      for (int b = 0; b < batch; ++b) {
        for (int token = 0, row = b * rows; token < layout.tokens(); ++token) {
          const int cell = layout.cell_of(token);
          if (cell < 0 && !with_cls) {
            const float* cls = &x[(std::size_t(b) * layout.tokens() + token) * width];
            for (int i = 0; i < width; ++i) ASSERT_EQ(cls[i], 7);
            continue;
          }
          for (int k = 0; k < ld; ++k) {
            float want = 0;
            if (cell >= 0 && k < 3 * area) {
              const int y = cell / side_cols * patch + k % area / patch;
              const int column = cell % side_cols * patch + k % patch;
              want = pictures[(std::size_t(b) * 3 + k / area) * h * w + y * w + column];
            }
            ASSERT_EQ(patches[std::size_t(row) * ld + k], want) << b << " " << token << " " << k;
          }
          ++row;
        }
      }
      EXPECT_EQ(patches.back(), -1);
    }
  }
}

// More scores than are asked for at once, and more than a chunk of keys.
TEST(CudaSelect, RanksManyCells) {
  for (const int n : {5, 2049, 4097, 9000}) {
    const int batch = 2, queries = 300;
    std::vector<float> scores(std::size_t(batch) * n);
    uint32_t state = 1;
    for (float& v : scores) v = static_cast<float>((state = state * 1664525 + 1013904223) >> 22);
    std::vector<int32_t> chosen(std::size_t(batch) * queries, -9), rows(chosen);
    cuda::SelectArguments a;
    a.scores = scores.data();
    a.chosen = chosen.data();
    a.rows = rows.data();
    a.batch = batch;
    a.n = n;
    a.queries = queries;
    cuda::select_cells({}, a);
    for (int b = 0; b < batch; ++b) {
      std::vector<int> order(n);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int i, int j) {
        return scores[std::size_t(b) * n + i] > scores[std::size_t(b) * n + j];
      });
      for (int q = 0; q < queries; ++q) {
        const int want = q < n ? order[q] : -1;
        ASSERT_EQ(chosen[b * queries + q], want) << n << " " << q;
        ASSERT_EQ(rows[b * queries + q], b * n + std::max(want, 0));
      }
    }
  }
}

class CudaNetwork : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaNetwork, EveryNamedPointMatchesTheGoldens) {
  const Golden golden = load_golden(GetParam());
  const auto engine = emulated(golden, Precision::kFp32);
  const Tensor input = golden.input();
  std::map<std::string, Tensor> points;
  ForwardOptions options;
  options.trace = [&](const std::string& name, const Tensor& value) { points[name] = value; };
  EngineOutputs out;
  engine->forward(input.data.data(), 1, out, options);
  points["boxes"] = out.boxes;
  points["logits"] = out.logits;
  if (golden.config.seg) points["masks"] = out.masks;
  int compared = 0;
  for (GoldenPoint point : golden.points) {
    if (point.name == "mask_features") continue;  // folded into the queries
    const bool output = point.name == "boxes" || point.name == "logits" || point.name == "masks";
    if (output) point.shape.insert(point.shape.begin(), 1);
    ASSERT_TRUE(points.contains(point.name)) << point.name;
    expect_matches(point, points[point.name], 1e-4);
    ++compared;
    if (HasFailure()) break;  // what follows is wrong too
  }
  EXPECT_GT(compared, 10);
}

std::vector<int32_t> golden_order(const Golden& golden) {
  const GoldenPoint& order = golden.point("topk");
  std::vector<int32_t> forced(static_cast<std::size_t>(golden.config.queries), 0);
  for (std::size_t i = 0; i < order.values.size(); ++i) {
    forced[i] = static_cast<int32_t>(order.values[i]);
  }
  return forced;
}

TEST_P(CudaNetwork, StaysNearTheGoldensInHalves) {
  const Golden golden = load_golden(GetParam());
  const auto engine = emulated(golden, Precision::kFp16);
  const Tensor input = golden.input();
  const std::vector<int32_t> forced = golden_order(golden);
  ForwardOptions options;
  options.forced_topk = forced.data();
  EngineOutputs out;
  engine->forward(input.data.data(), 1, out, options);
  const std::pair<const char*, const Tensor*> outputs[] = {
      {"boxes", &out.boxes}, {"logits", &out.logits}, {"masks", &out.masks}};
  const double bounds[] = {2e-3, 3e-3, 5e-3};
  for (int i = 0; i < (golden.config.seg ? 3 : 2); ++i) {
    GoldenPoint point = golden.point(outputs[i].first);
    point.shape.insert(point.shape.begin(), 1);
    expect_matches(point, *outputs[i].second, bounds[i]);
  }
}

TEST_P(CudaNetwork, ABatchIsItsPictures) {
  const Golden golden = load_golden(GetParam());
  const auto engine = emulated(golden, Precision::kFp32);
  const Tensor input = hash_input(golden.config, 2, 7);
  EngineOutputs both, one;
  engine->forward(input.data.data(), 2, both);
  for (int b = 0; b < 2; ++b) {
    engine->forward(input.data.data() + b * input.size() / 2, 1, one);
    const auto equal = [&](const Tensor& single, const Tensor& pair) {
      return std::equal(single.data.begin(), single.data.end(),
                        pair.data.begin() + b * single.size());
    };
    EXPECT_TRUE(equal(one.boxes, both.boxes));
    EXPECT_TRUE(equal(one.logits, both.logits));
    EXPECT_TRUE(equal(one.masks, both.masks));
  }
}

INSTANTIATE_TEST_SUITE_P(Custom, CudaNetwork, ::testing::ValuesIn(custom_networks()),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace rfseg::testing
