#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "engine/engine.h"
#include "engine/golden.h"

// Every backend against an independent PyTorch implementation on every variant at full depth, and
// the fast backend against the plain one in every value of the outputs.

namespace rfseg::testing {
namespace {

constexpr double kTolerance = 1e-4;  // of the range of a point, against PyTorch
constexpr double kAgreement = 1e-5;  // of the range of an output, between the two backends

int milliseconds(std::chrono::steady_clock::duration duration) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  EngineOutputs run(const Golden& golden, Backend backend) const {
    EngineOptions engine_options;
    engine_options.backend = backend;
    engine_options.threads = 1;  // ctest runs one network per core
    const auto start = std::chrono::steady_clock::now();
    const auto engine = create_engine(golden.config, golden.weights(), engine_options);
    EXPECT_EQ(engine->backend_name(), backend_label(backend));
    const Tensor input = golden.input();

    std::map<std::string, Tensor> points;
    std::vector<std::string> order;
    ForwardOptions options;
    if (backend == Backend::kReference) {
      options.trace = [&](const std::string& name, const Tensor& value) {
        order.push_back(name);
        points[name] = value;
      };
    }
    EngineOutputs out;
    const auto loaded = std::chrono::steady_clock::now();
    engine->forward(input.data.data(), 1, out, options);
    const auto done = std::chrono::steady_clock::now();
    EXPECT_EQ(out.masks.empty(), !golden.config.seg);

    const std::map<std::string, const Tensor*> outputs = {
        {"boxes", &out.boxes}, {"logits", &out.logits}, {"masks", &out.masks}};
    std::size_t traced = 0;
    double worst = 0;
    for (GoldenPoint point : golden.points) {
      const Tensor* found = nullptr;
      if (const auto output = outputs.find(point.name); output != outputs.end()) {
        point.shape.insert(point.shape.begin(), 1);
        found = output->second;
      } else if (traced < order.size()) {
        EXPECT_EQ(order[traced++], point.name);
        found = &points[point.name];
      } else {
        EXPECT_FALSE(options.trace) << point.name << " is not traced";
        continue;
      }
      worst = std::max(worst, expect_matches(point, *found, kTolerance));
    }
    EXPECT_EQ(traced, order.size());
    std::printf("  %s: load %d ms, forward %d ms, at most %.1e of the range from PyTorch\n",
                backend_label(backend).c_str(), milliseconds(loaded - start),
                milliseconds(done - loaded), worst);
    return out;
  }
};

TEST_P(GoldenTest, BackendsMatchPyTorchAndEachOther) {
  const Golden golden = load_golden(GetParam());
  const EngineOutputs reference = run(golden, Backend::kReference);
  // The goldens' selection has no close scores: without being told, both take the same cells in the
  // same order.
  const EngineOutputs fast = run(golden, Backend::kCpu);
  const double boxes = expect_close("boxes", reference.boxes, fast.boxes, kAgreement);
  const double logits = expect_close("logits", reference.logits, fast.logits, kAgreement);
  const double masks = expect_close("masks", reference.masks, fast.masks, kAgreement);
  std::printf("  from each other: boxes %.1e, logits %.1e, masks %.1e of the range\n", boxes,
              logits, masks);
}

std::string case_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Variants, GoldenTest, ::testing::ValuesIn(stock_variants()), case_name);
INSTANTIATE_TEST_SUITE_P(Custom, GoldenTest, ::testing::ValuesIn(custom_networks()), case_name);

}  // namespace
}  // namespace rfseg::testing
