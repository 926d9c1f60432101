#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>

#include "engine/golden.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

// The contract of Engine, for every backend of the build.

namespace rfseg::testing {
namespace {

/// Runs `action` and gives back the Error that it must throw.
template <class Action>
Error error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return Error(ErrorCode::kInternal, "");
}

void expect_same_bytes(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.shape, b.shape);
  EXPECT_TRUE(std::equal(a.data.begin(), a.data.end(), b.data.begin()));
  EXPECT_TRUE(std::all_of(a.data.begin(), a.data.end(), [](float v) { return std::isfinite(v); }));
}

class EngineTest : public ::testing::TestWithParam<Backend> {
 protected:
  std::unique_ptr<Engine> make(const Golden& golden, int threads = 1) const {
    return make(golden.config, golden.weights(), threads);
  }
  std::unique_ptr<Engine> make(const ModelConfig& config, const WeightSource& weights,
                               int threads = 1) const {
    EngineOptions options;
    options.backend = GetParam();
    options.threads = threads;
    return create_engine(config, weights, options);
  }
};

TEST_P(EngineTest, DescribesItself) {
  const Golden golden = load_golden("custom-rectangle");
  const auto engine = make(golden);
  EXPECT_EQ(engine->backend_name(), backend_label(GetParam()));
  EXPECT_EQ(engine->config().variant, "custom-rectangle");
  // At least the weights that inference reads (position table at its resampled size).
  int64_t weights = 0;
  for (const TensorSpec& spec : required_tensors(golden.config)) {
    weights += element_count(spec.shape);
  }
  EXPECT_GE(engine->memory_bytes(), static_cast<std::size_t>(weights));
  EXPECT_LE(engine->memory_bytes(), static_cast<std::size_t>(weights) * 12);
}

TEST_P(EngineTest, SameInputTwiceGivesSameBytes) {
  for (int threads : {1, 2}) {
    const Golden golden = load_golden("custom-rectangle");
    const auto engine = make(golden, threads);
    const Tensor input = hash_input(golden.config, 2, 5);
    EngineOutputs first, second;
    engine->forward(input.data.data(), 2, first);
    const float* boxes = first.boxes.data.data();
    const float* masks = first.masks.data.data();
    second = first;
    engine->forward(input.data.data(), 2, first);
    EXPECT_EQ(first.boxes.data.data(), boxes) << "buffers of the right size are reused";
    EXPECT_EQ(first.masks.data.data(), masks);
    expect_same_bytes(first.boxes, second.boxes);
    expect_same_bytes(first.logits, second.logits);
    expect_same_bytes(first.masks, second.masks);
  }
}

// What an earlier, larger or other batch left behind must not show.
TEST_P(EngineTest, PicturesOfABatchDoNotMix) {
  for (const char* name : {"custom-rectangle", "custom-two-levels", "custom-few-cells"}) {
    const Golden golden = load_golden(name);
    const auto engine = make(golden);
    constexpr int kBatch = 3;
    const Tensor input = hash_input(golden.config, kBatch, 11);
    EngineOutputs batch, one;
    engine->forward(input.data.data(), kBatch, batch);
    for (int image = kBatch - 1; image >= 0; --image) {
      engine->forward(input.data.data() + image * input.size() / kBatch, 1, one);
      const auto part = [&](const Tensor& whole) {
        Shape shape = whole.shape;
        if (shape.size() > 1) shape[0] = 1;
        Tensor t(shape);
        const auto begin = whole.data.begin() + image * (whole.size() / kBatch);
        std::copy(begin, begin + t.size(), t.data.begin());
        return t;
      };
      expect_close("boxes", part(batch.boxes), one.boxes, 1e-5);
      expect_close("logits", part(batch.logits), one.logits, 1e-5);
      expect_close("masks", part(batch.masks), one.masks, 1e-5);
    }
  }
}

TEST_P(EngineTest, ForcedSelectionIsUsed) {
  const Golden golden = load_golden("custom-rectangle");
  const auto engine = make(golden);
  const Tensor input = golden.input();
  EngineOutputs own, forced;
  engine->forward(input.data.data(), 1, own);
  std::vector<int32_t> selection;
  for (float index : golden.point("topk").values) selection.push_back(static_cast<int32_t>(index));
  ForwardOptions options;
  options.forced_topk = selection.data();
  engine->forward(input.data.data(), 1, forced, options);
  expect_same_bytes(own.boxes, forced.boxes);
  expect_same_bytes(own.masks, forced.masks);

  // Another order pairs the cells with other learned queries.
  std::reverse(selection.begin(), selection.end());
  engine->forward(input.data.data(), 1, forced, options);
  EXPECT_NE(own.boxes.data, forced.boxes.data);
}

TEST_P(EngineTest, NanInputDoesNotCrash) {
  const Golden golden = load_golden("custom-rectangle");
  const auto engine = make(golden);
  Tensor input = golden.input();
  std::fill(input.data.begin(), input.data.end(), std::numeric_limits<float>::quiet_NaN());
  EngineOutputs out;
  engine->forward(input.data.data(), 1, out);
  EXPECT_TRUE(std::isnan(out.logits.data[0]));
  // The engine is as good as new afterwards.
  const Tensor good = golden.input();
  engine->forward(good.data.data(), 1, out);
  EXPECT_TRUE(std::all_of(out.logits.data.begin(), out.logits.data.end(),
                          [](float v) { return v < 1e6f; }));
}

TEST_P(EngineTest, RefusesBadCalls) {
  const Golden golden = load_golden("custom-rectangle");
  const auto engine = make(golden);
  const Tensor input = golden.input();
  EngineOutputs out;
  for (int batch : {0, -1}) {
    const Error error = error_of([&] { engine->forward(input.data.data(), batch, out); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("batch"), std::string::npos) << error.what();
  }
  const int32_t cells = golden.config.grid_rows() * golden.config.grid_cols();
  for (int32_t index : {-1, cells, std::numeric_limits<int32_t>::min()}) {
    std::vector<int32_t> selection(golden.config.queries, 0);
    selection.back() = index;
    ForwardOptions options;
    options.forced_topk = selection.data();
    const Error error = error_of([&] { engine->forward(input.data.data(), 1, out, options); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find(std::to_string(cells - 1)), std::string::npos)
        << error.what();
  }
  if (GetParam() != Backend::kReference) {
    ForwardOptions options;
    options.trace = [](const std::string&, const Tensor&) {};
    EXPECT_EQ(error_of([&] { engine->forward(input.data.data(), 1, out, options); }).code(),
              ErrorCode::kUsage);
  }
}

TEST_P(EngineTest, NamesTheMissingTensor) {
  const Golden golden = load_golden("custom-two-levels");
  for (const TensorSpec& spec : required_tensors(golden.config)) {
    HashWeights weights = golden.weights();
    weights.remove(spec.name);
    const Error error = error_of([&] { make(golden.config, weights); });
    EXPECT_EQ(error.code(), ErrorCode::kModel);
    EXPECT_NE(std::string(error.what()).find("'" + spec.name + "' is missing"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("hash weights"), std::string::npos) << error.what();
  }
}

TEST_P(EngineTest, NamesTheTensorOfAnotherShape) {
  const Golden golden = load_golden("custom-rectangle");
  struct Row {
    const char* name;
    Shape found;
    const char* expected;
  };
  const std::string e = "backbone.0.encoder.encoder.embeddings.";
  const Row rows[] = {
      {"class_embed.weight", {8, 256}, "[7, 256]"},
      {"class_embed.bias", {7, 1}, "[7]"},
      {"query_feat.weight", {36, 256}, "[37, 256] or more rows"},
      {"refpoint_embed.weight", {481, 5}, "[37, 4]"},
      {"transformer.decoder.layers.1.self_attn.in_proj_weight", {512, 256}, "[768, 256]"},
      {"segmentation_head.blocks.0.dwconv.weight", {256, 3, 3}, "[256, 1, 3, 3]"},
      {"backbone.0.encoder.encoder.embeddings.position_embeddings", {1, 83, 384}, "n*n+1"},
      {"backbone.0.encoder.encoder.embeddings.position_embeddings", {1, 1, 384}, "n*n+1"},
      {"backbone.0.encoder.encoder.embeddings.position_embeddings", {0, 0, 384}, "n*n+1"},
      {"backbone.0.encoder.encoder.embeddings.cls_token", {2, 1, 384}, "[1, 1, 384]"},
  };
  for (const Row& row : rows) {
    HashWeights weights = golden.weights();
    weights.reshape(row.name, row.found);
    const Error error = error_of([&] { make(golden.config, weights); });
    EXPECT_EQ(error.code(), ErrorCode::kModel) << row.name;
    const std::string text = error.what();
    EXPECT_NE(text.find(std::string("'") + row.name + "'"), std::string::npos) << text;
    EXPECT_NE(text.find(to_string(row.found)), std::string::npos) << text;
    EXPECT_NE(text.find(row.expected), std::string::npos) << text;
  }
}

TEST_P(EngineTest, RefusesNanWeights) {
  const Golden golden = load_golden("custom-rectangle");
  for (const char* name : {"backbone.0.encoder.encoder.encoder.layer.1.mlp.fc1.weight",
                           "backbone.0.encoder.encoder.embeddings.position_embeddings",
                           "segmentation_head.bias", "query_feat.weight"}) {
    HashWeights weights = golden.weights();
    weights.poison(name);
    const Error error = error_of([&] { make(golden.config, weights); });
    EXPECT_EQ(error.code(), ErrorCode::kModel);
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
  }
}

TEST_P(EngineTest, RefusesConfigurationsThatCannotRun) {
  const Golden golden = load_golden("custom-rectangle");
  const auto expect_refused = [&](const char* word, auto change) {
    ModelConfig config = golden.config;
    change(config);
    const Error error = error_of([&] { make(config, golden.weights()); });
    EXPECT_EQ(error.code(), ErrorCode::kModel);
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  };
  expect_refused("divisible by 24", [](ModelConfig& c) { c.width += 12; });
  expect_refused("height", [](ModelConfig& c) { c.height = 0; });
  expect_refused("queries", [](ModelConfig& c) { c.queries = -1; });
  expect_refused("dec_layers", [](ModelConfig& c) { c.dec_layers = 0; });
  expect_refused("logits", [](ModelConfig& c) { c.logits = std::numeric_limits<int>::max(); });
  expect_refused("enc_heads", [](ModelConfig& c) { c.enc_heads = 5; });
  expect_refused("taps", [](ModelConfig& c) { c.taps.clear(); });
  expect_refused("ascend", [](ModelConfig& c) { c.taps = {2, 1}; });
  expect_refused("enc_layers", [](ModelConfig& c) { c.enc_layers = 3; });
  expect_refused("levels", [](ModelConfig& c) { c.levels.clear(); });
}

INSTANTIATE_TEST_SUITE_P(Backends, EngineTest, ::testing::ValuesIn(built_backends()),
                         [](const auto& info) { return backend_label(info.param); });

TEST(ReferenceEngine, TracesABatchWithALeadingAxis) {
  const Golden golden = load_golden("custom-rectangle");
  EngineOptions engine_options;
  engine_options.backend = Backend::kReference;
  const auto engine = create_engine(golden.config, golden.weights(), engine_options);
  constexpr int kBatch = 2;
  const Tensor input = hash_input(golden.config, kBatch, golden.options.seed);
  std::map<std::string, Tensor> batch;
  ForwardOptions options;
  options.trace = [&](const std::string& name, const Tensor& value) { batch[name] = value; };
  EngineOutputs out;
  engine->forward(input.data.data(), kBatch, out, options);
  for (const GoldenPoint& point : golden.points) {
    if (!batch.count(point.name)) continue;
    Tensor first = batch.at(point.name);
    ASSERT_EQ(first.shape.at(0), kBatch) << point.name;
    first.shape.erase(first.shape.begin());
    first.data.resize(static_cast<std::size_t>(element_count(first.shape)));
    expect_matches(point, first, 1e-4);  // picture 0 is the golden's input
  }
  EXPECT_EQ(batch.size() + 3, golden.points.size());
}

// Two implementations of the same arithmetic are closer to each other than to PyTorch's tolerance.
TEST(Backends, AgreeWithTheReference) {
  for (Backend backend : built_backends()) {
    if (backend == Backend::kReference) continue;
    for (const char* name : {"custom-rectangle", "custom-two-levels", "custom-few-cells",
                             "custom-patch16", "seg-nano", "nano"}) {
      SCOPED_TRACE(name);
      const Golden golden = load_golden(name);
      const int batch = 2;
      const Tensor input = hash_input(golden.config, batch, golden.options.seed);
      EngineOutputs expected, found;
      EngineOptions options;
      options.threads = 1;
      options.backend = Backend::kReference;
      std::vector<int32_t> selection;
      ForwardOptions forward;
      forward.trace = [&](const std::string& point, const Tensor& value) {
        if (point != "topk") return;
        // Rows of Q indices, of which the first min(Q, N) are used.
        const int64_t used = value.dim(1);
        selection.assign(int64_t{batch} * golden.config.queries, 0);
        for (int64_t i = 0; i < value.size(); ++i) {
          selection[i / used * golden.config.queries + i % used] =
              static_cast<int32_t>(value.data[i]);
        }
      };
      create_engine(golden.config, golden.weights(), options)
          ->forward(input.data.data(), batch, expected, forward);
      options.backend = backend;
      options.threads = 2;
      // The second picture's scores were not chosen to be far apart: the order is given.
      ForwardOptions forced;
      forced.forced_topk = selection.data();
      create_engine(golden.config, golden.weights(), options)
          ->forward(input.data.data(), batch, found, forced);
      expect_close("boxes", expected.boxes, found.boxes, 1e-5);
      expect_close("logits", expected.logits, found.logits, 1e-5);
      expect_close("masks", expected.masks, found.masks, 1e-5);
    }
  }
}

class BackendChoice : public ::testing::Test {
 protected:
  void TearDown() override { unsetenv("RFSEG_BACKEND"); }
  std::string chosen(Backend backend) {
    const Golden golden = load_golden("custom-few-cells");
    EngineOptions options;
    options.backend = backend;
    return create_engine(golden.config, golden.weights(), options)->backend_name();
  }
};

TEST_F(BackendChoice, FastestByDefaultAndForcedByTheEnvironment) {
  unsetenv("RFSEG_BACKEND");
  EXPECT_EQ(chosen(Backend::kAuto), backend_label(built_backends().back()));
  setenv("RFSEG_BACKEND", "reference", 1);
  EXPECT_EQ(chosen(Backend::kAuto), "reference");
  // An explicit choice stands over the environment.
  EXPECT_EQ(chosen(built_backends().back()), backend_label(built_backends().back()));
  setenv("RFSEG_BACKEND", "fastest", 1);
  const Error error = error_of([&] { chosen(Backend::kAuto); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_NE(std::string(error.what()).find("'reference', 'cpu'"), std::string::npos);
}

TEST_F(BackendChoice, ABackendThatWasNotBuiltIsAnError) {
  if (built_backends().back() == Backend::kCpu) {
    setenv("RFSEG_BACKEND", "cpu", 1);
    EXPECT_EQ(chosen(Backend::kAuto), "cpu");
  } else {
    EXPECT_EQ(error_of([&] { chosen(Backend::kCpu); }).code(), ErrorCode::kDevice);
  }
}

}  // namespace
}  // namespace rfseg::testing
