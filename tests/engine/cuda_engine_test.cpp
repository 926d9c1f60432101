// The network on a GPU: against PyTorch's values, against the CPU, and what its contract promises.
// Skipped without a GPU.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sstream>
#include <thread>

#include "core/cpu.h"
#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/golden.h"
#include "rfseg/error.h"

namespace rfseg::testing {
namespace {

#define RFSEG_NEED_GPU() \
  std::string why;       \
  if (!cuda::usable(&why)) GTEST_SKIP() << why

std::unique_ptr<CudaEngine> engine_of(const ModelConfig& config, const WeightSource& weights,
                                      Precision precision, CudaEngineOptions options = {}) {
  options.precision = precision;
  options.threads = available_cpus();
  return create_cuda_engine(config, weights, options);
}

std::vector<int32_t> golden_order(const Golden& golden) {
  const GoldenPoint& point = golden.point("topk");
  std::vector<int32_t> order(static_cast<std::size_t>(golden.config.queries), 0);
  std::copy(point.values.begin(), point.values.end(), order.begin());
  return order;
}

using Outputs = std::vector<std::pair<std::string, const Tensor*>>;
Outputs outputs_of(const EngineOutputs& out) {
  Outputs all = {{"boxes", &out.boxes}, {"logits", &out.logits}};
  if (!out.masks.empty()) all.emplace_back("masks", &out.masks);
  return all;
}

bool same(const EngineOutputs& a, const EngineOutputs& b) {
  return a.boxes.data == b.boxes.data && a.logits.data == b.logits.data &&
         a.masks.data == b.masks.data;
}

/// For each query the largest difference over the range of all values; NaN counts as 1e9.
std::vector<double> query_errors(const Tensor& expected, const Tensor& found, int64_t queries) {
  const auto [low, high] = std::minmax_element(expected.data.begin(), expected.data.end());
  const double range = static_cast<double>(*high) - *low;
  const int64_t each = expected.size() / queries;
  std::vector<double> errors(static_cast<std::size_t>(queries), 0.0);
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(static_cast<double>(found.data[i]) - expected.data[i]) / range;
    double& worst = errors[static_cast<std::size_t>(i / each)];
    worst = error >= 0 ? std::max(worst, error) : 1e9;
  }
  return errors;
}

std::vector<std::string> all_networks() {
  std::vector<std::string> names = custom_networks();
  for (const std::string& name : rfseg::testing::stock_variants()) names.push_back(name);
  return names;
}

class CudaEngineTest : public ::testing::TestWithParam<std::string> {};

void expect_goldens_in_fp32(const std::string& network, const CudaEngineOptions& forced) {
  const Golden golden = load_golden(network);
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp32, forced);
  const Tensor input = golden.input();
  std::map<std::string, Tensor> points;
  ForwardOptions options;
  options.trace = [&](const std::string& name, const Tensor& value) { points[name] = value; };
  EngineOutputs traced, out;
  engine->forward(input.data.data(), 1, traced, options);
  engine->forward(input.data.data(), 1, out);
  EXPECT_TRUE(same(traced, out)) << "kernels one by one and as a graph differ";
  for (const auto& [name, tensor] : outputs_of(out)) points[name] = *tensor;
  int compared = 0;
  double worst = 0;
  for (GoldenPoint point : golden.points) {
    if (point.name == "mask_features") continue;  // folded into the queries
    if (point.name == "boxes" || point.name == "logits" || point.name == "masks") {
      point.shape.insert(point.shape.begin(), 1);
    }
    ASSERT_TRUE(points.contains(point.name)) << point.name;
    worst = std::max(worst, expect_matches(point, points[point.name], 1e-4));
    ++compared;
    if (::testing::Test::HasFailure()) break;  // what follows is wrong too
  }
  EXPECT_GT(compared, 10);
  std::printf("fp32 by %s kernels, %s: worst %.2e of the range over %d points\n", engine->kernels(),
              network.c_str(), worst, compared);
}

TEST_P(CudaEngineTest, EveryNamedPointInFp32MatchesTheGoldens) {
  RFSEG_NEED_GPU();
  expect_goldens_in_fp32(GetParam(), {});
}

TEST_P(CudaEngineTest, EveryNamedPointInFp32ByPortableKernelsMatchesTheGoldens) {
  RFSEG_NEED_GPU();
  CudaEngineOptions forced;
  forced.portable = true;
  expect_goldens_in_fp32(GetParam(), forced);
}

/// How far each named point in fp16 is from PyTorch's fp32: shows where precision is lost.
TEST_P(CudaEngineTest, NamedPointsInFp16StayNearTheGoldens) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden(GetParam());
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16);
  const Tensor input = golden.input();
  const std::vector<int32_t> order = golden_order(golden);
  ForwardOptions options;
  options.forced_topk = order.data();
  std::ostringstream line;
  options.trace = [&](const std::string& name, const Tensor& value) {
    if (name == "topk") return;
    line << ' ' << name << ' ' << expect_matches(golden.point(name), value, 2e-2);
  };
  EngineOutputs out;
  engine->forward(input.data.data(), 1, out, options);
  std::printf("fp16 %s:%s\n", GetParam().c_str(), line.str().c_str());
}

/// fp16 with fp32's two-stage order forced, three seeds, against fp32 on the CPU. In the largest
/// networks with random weights some queries are so sensitive that rounding the operands of
/// products alone takes them over the bounds (half_products.py: seg-2xlarge, second seed, logits of
/// one query of 300 by 7.8e-3; large-deprecated, third seed, by 3.2e-3), so a hundredth of theirs
/// may be: of large-deprecated's by the portable kernels alone, since Hopper's stay within.
TEST_P(CudaEngineTest, Fp16StaysNearFp32) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden(GetParam());
  const ModelConfig& config = golden.config;
  const bool xlarge = GetParam().find("xlarge") != std::string::npos;
  const char* wanted = std::getenv("RFSEG_CUDA_SEEDS");
  const int seeds = wanted != nullptr ? std::atoi(wanted) : 3;
  for (int seed = 0; seed < seeds; ++seed) {
    HashOptions options = golden.options;
    options.seed += static_cast<uint64_t>(seed);
    const HashWeights weights(config, options);
    const Tensor input = hash_input(config, 1, options.seed);
    std::vector<int32_t> order;
    ForwardOptions traced, forced;
    traced.trace = [&](const std::string& name, const Tensor& value) {
      if (name == "topk") order.assign(value.data.begin(), value.data.end());
    };
    EngineOutputs expected, found;
    engine_of(config, weights, Precision::kFp32)->forward(input.data.data(), 1, found, traced);
    ASSERT_FALSE(order.empty());
    order.resize(static_cast<std::size_t>(config.queries), 0);  // where there are fewer cells
    forced.forced_topk = order.data();
    create_cpu_engine(config, weights, available_cpus())
        ->forward(input.data.data(), 1, expected, forced);
    const auto engine = engine_of(config, weights, Precision::kFp16);
    engine->forward(input.data.data(), 1, found, forced);
    const bool portable = std::string(engine->kernels()) == "portable";
    const bool sensitive = xlarge || (portable && GetParam() == "large-deprecated");
    const double bounds[] = {2e-3, 3e-3, 5e-3};
    const Outputs e = outputs_of(expected), f = outputs_of(found);
    std::ostringstream line;
    for (std::size_t i = 0; i < e.size(); ++i) {
      std::vector<double> errors = query_errors(*e[i].second, *f[i].second, config.queries);
      std::sort(errors.begin(), errors.end());
      const auto within = std::upper_bound(errors.begin(), errors.end(), bounds[i]);
      const double share =
          static_cast<double>(within - errors.begin()) / static_cast<double>(errors.size());
      EXPECT_GE(share, sensitive ? 0.99 : 1.0)
          << e[i].first << " seed " << seed << ": worst " << errors.back();
      line << ' ' << e[i].first << ' ' << errors.back() << " (median query "
           << errors[errors.size() / 2] << ')';
    }
    std::printf("fp16 %s seed %d: worst of the range:%s\n", GetParam().c_str(), seed,
                line.str().c_str());
  }
}

/// The kernels that every GPU runs, on whatever this one is.
TEST_P(CudaEngineTest, PortableKernelsStayNearTheGoldens) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden(GetParam());
  CudaEngineOptions portable;
  portable.portable = true;
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16, portable);
  EXPECT_STREQ(engine->kernels(), "portable");
  const Tensor input = golden.input();
  const std::vector<int32_t> order = golden_order(golden);
  ForwardOptions forced;
  forced.forced_topk = order.data();
  EngineOutputs out;
  engine->forward(input.data.data(), 1, out, forced);
  for (const auto& [output, tensor] : outputs_of(out)) {
    GoldenPoint point = golden.point(output);
    point.shape.insert(point.shape.begin(), 1);
    // Sampled values, of which a hundredth may be of queries that fp16 cannot hold there.
    if (GetParam() == "2xlarge" || GetParam() == "xlarge") continue;
    expect_matches(point, *tensor, output == "boxes" ? 2e-3 : output == "logits" ? 3e-3 : 5e-3);
  }
}

TEST(CudaEngine, TakesHoppersUnitsOnHopper) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("custom-patch16");
  cudaDeviceProp properties;
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  const bool hopper = properties.major == 9 && cuda::has_hopper_code();
  for (const Precision precision : {Precision::kFp16, Precision::kTf32, Precision::kFp32}) {
    EXPECT_STREQ(engine_of(golden.config, golden.weights(), precision)->kernels(),
                 hopper ? "hopper" : "portable");
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaEngineTest, ::testing::ValuesIn(all_networks()),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(CudaEngine, EveryWayOfLaunchingGivesTheSameBytes) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-nano");
  const Tensor input = hash_input(golden.config, 2, 3);
  for (const Precision precision : {Precision::kFp16, Precision::kFp32}) {
    EngineOutputs first;
    for (int way = 0; way < 8; ++way) {
      CudaEngineOptions options;
      options.graphs = (way & 1) != 0;
      options.overlap = (way & 2) != 0;
      options.two_streams = (way & 4) != 0;
      const auto engine = engine_of(golden.config, golden.weights(), precision, options);
      for (int repeat = 0; repeat < 3; ++repeat) {
        EngineOutputs out;
        engine->forward(input.data.data(), 2, out);
        if (way == 0 && repeat == 0) first = out;
        EXPECT_TRUE(same(first, out))
            << engine->precision() << ", way " << way << " repeat " << repeat;
      }
    }
  }
}

TEST(CudaEngine, AnswersDoNotDependOnTheLargestBatch) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-small");
  const Tensor input = hash_input(golden.config, 2, 3);
  for (const Precision precision : {Precision::kFp16, Precision::kFp32}) {
    EngineOutputs alone, two, after;
    engine_of(golden.config, golden.weights(), precision)->forward(input.data.data(), 1, alone);
    const auto engine = engine_of(golden.config, golden.weights(), precision);
    engine->forward(input.data.data(), 2, two);
    engine->forward(input.data.data(), 1, after);
    EXPECT_TRUE(same(alone, after)) << engine->precision();
  }
}

TEST(CudaEngine, Tf32IsBetweenTheOthers) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-nano");
  const Tensor input = golden.input();
  const std::vector<int32_t> order = golden_order(golden);
  ForwardOptions forced;
  forced.forced_topk = order.data();
  for (const auto& [precision, name, bound] :
       {std::tuple{Precision::kFp32, "fp32", 1e-4}, std::tuple{Precision::kTf32, "tf32", 5e-3},
        std::tuple{Precision::kFp16, "fp16", 5e-3}}) {
    const auto engine = engine_of(golden.config, golden.weights(), precision);
    EXPECT_STREQ(engine->precision(), name);
    EngineOutputs out;
    engine->forward(input.data.data(), 1, out, forced);
    for (const auto& [output, tensor] : outputs_of(out)) {
      GoldenPoint point = golden.point(output);
      point.shape.insert(point.shape.begin(), 1);
      expect_matches(point, *tensor, bound);
    }
  }
}

/// Batches of these sizes hold what single pictures give, boxes, logits and masks within `bounds`.
void expect_batches_hold_their_pictures(Precision precision, const std::vector<int>& batches,
                                        const double (&bounds)[3]) {
  const Golden golden = load_golden("seg-nano");
  const ModelConfig& config = golden.config;
  const auto engine = engine_of(config, golden.weights(), precision);
  const int64_t plane = int64_t{3} * config.height * config.width;
  const Tensor input = hash_input(config, 64, 11);
  std::vector<int32_t> order;
  for (int b = 0; b < 64; ++b) {
    const std::vector<int32_t> one = golden_order(golden);
    order.insert(order.end(), one.begin(), one.end());
  }
  ForwardOptions forced;
  forced.forced_topk = order.data();
  std::map<int, EngineOutputs> singles;
  for (int batch : batches) {
    EngineOutputs out;
    engine->forward(input.data.data(), batch, out, forced);
    for (int b : std::set<int>{0, batch / 2, batch - 1}) {
      if (!singles.contains(b)) {
        engine->forward(input.data.data() + b * plane, 1, singles[b], forced);
      }
      const Outputs all = outputs_of(out), single = outputs_of(singles[b]);
      for (std::size_t i = 0; i < all.size(); ++i) {
        Tensor part(single[i].second->shape);
        std::copy_n(all[i].second->data.begin() + b * part.size(), part.size(), part.data.begin());
        expect_close(
            all[i].first + " of picture " + std::to_string(b) + " of " + std::to_string(batch),
            *single[i].second, part, bounds[i]);
      }
    }
  }
}

TEST(CudaEngine, BatchesHoldTheirPictures) {
  RFSEG_NEED_GPU();
  expect_batches_hold_their_pictures(Precision::kFp16, {1, 2, 3, 5, 8, 17, 32, 64},
                                     {2e-3, 3e-3, 5e-3});
}

TEST(CudaEngine, BatchesInFp32HoldTheirPictures) {
  RFSEG_NEED_GPU();
  expect_batches_hold_their_pictures(Precision::kFp32, {1, 2, 4, 7, 16}, {1e-4, 1e-4, 1e-4});
}

TEST(CudaEngine, AllocatesAndCapturesOnceABatchSize) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-nano");
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16);
  const Tensor input = hash_input(golden.config, 4, 5);
  EngineOutputs out;
  engine->forward(input.data.data(), 4, out);
  engine->forward(input.data.data(), 1, out);
  const CudaEngine::Counters before = engine->counters();
  for (int i = 0; i < 10; ++i) {
    engine->forward(input.data.data(), 1 + 3 * (i % 2), out);
  }
  EXPECT_EQ(engine->counters().allocations, before.allocations);
  EXPECT_EQ(engine->counters().captures, before.captures);
  EXPECT_EQ(before.captures, 2u);
}

TEST(CudaEngine, MemoryOfABatchOfOneIsBounded) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-nano");
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16);
  const std::size_t weights = engine->memory_bytes();
  engine->prepare(1);
  EXPECT_GT(weights, 50u << 20);
  EXPECT_LT(weights, 70u << 20);
  EXPECT_LT(engine->memory_bytes() - weights, 150u << 20);
  std::printf("seg-nano: weights %.1f MB, workspace %.1f MB\n", static_cast<double>(weights) / 1e6,
              static_cast<double>(engine->memory_bytes() - weights) / 1e6);
}

TEST(CudaEngine, OutOfMemoryIsAnErrorAndTheEngineGoesOn) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("seg-nano");
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16);
  const Tensor input = golden.input();
  EngineOutputs before, after;
  engine->forward(input.data.data(), 1, before);
  try {
    engine->prepare(100000);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDevice);
    EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
  }
  engine->forward(input.data.data(), 1, after);
  EXPECT_TRUE(same(before, after));
}

TEST(CudaEngine, SeveralModelsWorkSideBySide) {
  RFSEG_NEED_GPU();
  const Golden one = load_golden("seg-nano"), two = load_golden("custom-two-levels");
  const auto a = engine_of(one.config, one.weights(), Precision::kFp16);
  const auto b = engine_of(two.config, two.weights(), Precision::kFp16);
  const auto c = engine_of(one.config, one.weights(), Precision::kFp16);
  const Tensor x = one.input(), y = two.input();
  EngineOutputs a1, b1, out;
  a->forward(x.data.data(), 1, a1);
  b->forward(y.data.data(), 1, b1);
  for (int i = 0; i < 3; ++i) {
    c->forward(x.data.data(), 1, out);
    EXPECT_TRUE(same(a1, out));
    b->forward(y.data.data(), 1, out);
    EXPECT_TRUE(same(b1, out));
    a->forward(x.data.data(), 1, out);
    EXPECT_TRUE(same(a1, out));
  }
}

/// Passes over one picture on a stream of their own, and how often which output was another one.
class Repeated {
 public:
  Repeated(std::unique_ptr<CudaEngine> engine, const Golden& golden, const Tensor& input)
      : engine_(std::move(engine)) {
    const ModelConfig& c = golden.config;
    const std::size_t queries = static_cast<std::size_t>(c.queries);
    bytes_[0] = queries * 4 * sizeof(float);
    bytes_[1] = queries * static_cast<std::size_t>(c.logits) * sizeof(float);
    bytes_[2] = queries * static_cast<std::size_t>(c.mask_rows()) *
                static_cast<std::size_t>(c.mask_cols()) * 2;
    engine_->prepare(1);
    cuda::upload(engine_->input(), input.data.data(), input.data.size() * sizeof(float),
                 "copying a picture");
    for (std::size_t i = 0; i < 3; ++i) {
      first_.emplace_back(cuda::Buffer::Kind::kPinned).reserve(bytes_[i]);
      now_.emplace_back(cuda::Buffer::Kind::kPinned).reserve(bytes_[i]);
    }
    pass(first_);
  }

  void run(int passes) {
    for (int n = 0; n < passes; ++n) {
      pass(now_);
      for (std::size_t i = 0; i < 3; ++i) others[i] += !equal(i, now_);
    }
  }
  bool starts_as(const Repeated& other) const {
    return equal(0, other.first_) && equal(1, other.first_) && equal(2, other.first_);
  }

  int others[3] = {};  ///< of boxes, logits, masks

 private:
  bool equal(std::size_t i, const std::vector<cuda::Buffer>& other) const {
    return std::memcmp(first_[i].data(), other[i].data(), bytes_[i]) == 0;
  }
  void pass(const std::vector<cuda::Buffer>& to) {
    engine_->begin(stream_);
    const DeviceHeads heads = engine_->enqueue(1, stream_);
    const void* from[] = {heads.boxes, heads.logits, heads.masks};
    for (std::size_t i = 0; i < 3; ++i) {
      cuda::check(
          cudaMemcpyAsync(to[i].data(), from[i], bytes_[i], cudaMemcpyDeviceToHost, stream_),
          "copying results");
    }
    engine_->end(stream_);
    stream_.synchronize("waiting for a pass");
  }

  std::unique_ptr<CudaEngine> engine_;
  cuda::Stream stream_;
  std::size_t bytes_[3] = {};
  std::vector<cuda::Buffer> first_, now_;  // boxes, logits, masks
};

/// What a kernel reads before it was written shows only when others keep its predecessors waiting.
TEST(CudaEngine, PassesBesideEachOtherGiveTheSameBytes) {
  RFSEG_NEED_GPU();
  const char* wanted = std::getenv("RFSEG_CUDA_PASSES");
  const int passes = wanted != nullptr ? std::atoi(wanted) : 1000;
  const Golden golden = load_golden("seg-nano");
  const Tensor input = golden.input();
  std::vector<std::unique_ptr<Repeated>> all;
  auto first = engine_of(golden.config, golden.weights(), Precision::kFp16);
  for (int i = 1; i < 4; ++i) {
    all.push_back(std::make_unique<Repeated>(first->share(), golden, input));
  }
  all.push_back(std::make_unique<Repeated>(std::move(first), golden, input));
  std::vector<std::thread> threads;
  for (const auto& one : all) {
    EXPECT_TRUE(one->starts_as(*all[0]));
    threads.emplace_back([&one, passes] { one->run(passes); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : all) {
    EXPECT_EQ(one->others[0], 0) << "boxes of " << passes << " passes";
    EXPECT_EQ(one->others[1], 0) << "logits of " << passes << " passes";
    EXPECT_EQ(one->others[2], 0) << "masks of " << passes << " passes";
  }
}

TEST(CudaEngine, RefusesAnOrderWithCellsThatDoNotExist) {
  RFSEG_NEED_GPU();
  const Golden golden = load_golden("custom-patch16");
  const auto engine = engine_of(golden.config, golden.weights(), Precision::kFp16);
  std::vector<int32_t> order(static_cast<std::size_t>(golden.config.queries), 100000);
  ForwardOptions options;
  options.forced_topk = order.data();
  EngineOutputs out;
  EXPECT_THROW(engine->forward(golden.input().data.data(), 1, out, options), Error);
}

}  // namespace
}  // namespace rfseg::testing
