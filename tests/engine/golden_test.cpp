#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <ostream>

#include "engine/engine.h"
#include "engine/golden.h"

// Every backend against an independent PyTorch implementation on every variant at full depth.

namespace rfseg::testing {
namespace {

constexpr double kTolerance = 1e-4;  // of the range of a point

struct Case {
  std::string network;
  Backend backend;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.network << " on " << backend_label(c.backend);
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.network + "_" + backend_label(info.param.backend);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<Case> cases(const std::vector<std::string>& networks) {
  std::vector<Case> all;
  for (const std::string& network : networks) {
    for (Backend backend : built_backends()) all.push_back({network, backend});
  }
  return all;
}

class GoldenTest : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenTest, Matches) {
  const Golden golden = load_golden(GetParam().network);
  EngineOptions engine_options;
  engine_options.backend = GetParam().backend;
  engine_options.threads = 1;  // ctest runs one network per core
  const auto start = std::chrono::steady_clock::now();
  const auto engine = create_engine(golden.config, golden.weights(), engine_options);
  ASSERT_EQ(engine->backend_name(), backend_label(GetParam().backend));
  const Tensor input = golden.input();

  std::map<std::string, Tensor> found;
  std::vector<std::string> order;
  ForwardOptions options;
  if (GetParam().backend == Backend::kReference) {
    options.trace = [&](const std::string& name, const Tensor& value) {
      order.push_back(name);
      found[name] = value;
    };
  }
  EngineOutputs out;
  const auto loaded = std::chrono::steady_clock::now();
  engine->forward(input.data.data(), 1, out, options);
  const auto done = std::chrono::steady_clock::now();

  found["boxes"] = std::move(out.boxes);
  found["logits"] = std::move(out.logits);
  found["masks"] = std::move(out.masks);
  EXPECT_EQ(found["masks"].empty(), !golden.config.seg);
  std::size_t traced = 0;
  double worst = 0;
  for (GoldenPoint point : golden.points) {
    const bool output = point.name == "boxes" || point.name == "logits" || point.name == "masks";
    if (output) {
      point.shape.insert(point.shape.begin(), 1);
    } else if (options.trace) {
      ASSERT_LT(traced, order.size());
      EXPECT_EQ(order[traced++], point.name);
    } else {
      continue;
    }
    worst = std::max(worst, expect_matches(point, found.at(point.name), kTolerance));
  }
  EXPECT_EQ(traced, order.size());
  const auto ms = [](auto duration) {
    return static_cast<int>(
        std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
  };
  RecordProperty("load_ms", ms(loaded - start));
  RecordProperty("forward_ms", ms(done - loaded));
  std::printf("  load %d ms, forward %d ms, largest difference %.1e of the range\n",
              ms(loaded - start), ms(done - loaded), worst);
}

INSTANTIATE_TEST_SUITE_P(Variants, GoldenTest, ::testing::ValuesIn(cases(stock_variants())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Custom, GoldenTest, ::testing::ValuesIn(cases(custom_networks())),
                         case_name);

}  // namespace
}  // namespace rfseg::testing
