#include "pipeline/pipeline.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>

#include "engine/hash_weights.h"
#include "output/results.h"
#include "pipeline/tiny_model.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using testing::HashWeights;
using testing::tiny_config;

// Pictures of many sizes made from a seed; every `bad_every`-th cannot be read.
class FakeSource : public FrameSource {
 public:
  FakeSource(int count, int bad_every) : count_(count), bad_every_(bad_every) {}

  bool next(SourceFrame& frame) override {
    if (at_ == count_) return false;
    frame.file = "picture" + std::to_string(at_);
    frame.frame = at_;
    frame.time_s = at_ * 0.04;
    frame.error.clear();
    frame.view = {};
    if (bad_every_ > 0 && at_ % bad_every_ == bad_every_ - 1) {
      frame.error = frame.file + ": broken";
    } else {
      std::mt19937 random(static_cast<unsigned>(at_));
      frame.storage = Image(20 + at_ % 37, 15 + at_ % 23);
      for (uint8_t& value : frame.storage.pixels) value = static_cast<uint8_t>(random());
      frame.view = frame.storage.view();
    }
    ++at_;
    return true;
  }

 private:
  int count_, bad_every_, at_ = 0;
};

// Over both engines; the fast one with a team of its own.
class PipelineTest : public ::testing::TestWithParam<Backend> {
 protected:
  PipelineTest() : config_(tiny_config()) {
    EngineOptions options;
    options.backend = GetParam();
    options.threads = GetParam() == Backend::kReference ? 1 : 2;
    engine_ = create_engine(config_, HashWeights(config_), options);
    PredictOptions predict;
    predict.threshold = 0.0f;
    resolved_ = resolve_options(predict, config_);
  }

  // All results as text, failures included.
  std::vector<std::string> run(int count, int bad_every, int batch, int depth) {
    FakeSource source(count, bad_every);
    PipelineOptions options;
    options.batch = batch;
    options.depth = depth;
    options.keep_images = true;
    std::vector<std::string> lines;
    const PipelineStats stats =
        run_pipeline(*engine_, source, resolved_, options, [&](PipelineFrame& frame) {
          EXPECT_EQ(frame.image.empty(), !frame.error.empty());
          lines.push_back(frame.error.empty()
                              ? to_json_line(frame.record, resolved_.class_names, MaskFormat::kRle)
                              : frame.error);
        });
    EXPECT_EQ(stats.frames + stats.failed, count);
    EXPECT_LE(stats.input_queue.max, static_cast<std::size_t>(depth));
    EXPECT_LE(stats.output_queue.max, static_cast<std::size_t>(depth));
    return lines;
  }

  ModelConfig config_;
  std::unique_ptr<Engine> engine_;
  ResolvedOptions resolved_;
};

TEST_P(PipelineTest, DepthAndBatchDoNotChangeResults) {
  const std::vector<std::string> expected = run(41, 5, 1, 1);
  ASSERT_EQ(expected.size(), 41u);
  EXPECT_EQ(expected[4], "picture4: broken");
  EXPECT_NE(expected[3].find("\"counts\""), std::string::npos) << expected[3];
  EXPECT_NE(expected[2], expected[3]);
  for (const int depth : {1, 2, 4}) {
    for (const int batch : {1, 3, 8}) {
      EXPECT_EQ(run(41, 5, batch, depth), expected) << "depth " << depth << ", batch " << batch;
    }
  }
}

TEST_P(PipelineTest, AFailingSinkStopsEverythingAndItsErrorComesThrough) {
  for (const int depth : {1, 3}) {
    FakeSource source(1000, 0);
    PipelineOptions options;
    options.depth = depth;
    int seen = 0;
    try {
      run_pipeline(*engine_, source, resolved_, options, [&](PipelineFrame&) {
        if (++seen == 3) throw Error(ErrorCode::kOutput, "disk full");
      });
      FAIL() << "the error was lost";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "disk full");
    }
    EXPECT_EQ(seen, 3);
  }
}

TEST_P(PipelineTest, CancellingFinishesTheFramesInFlight) {
  for (const int depth : {1, 2}) {
    FakeSource source(1000, 0);
    PipelineOptions options;
    options.depth = depth;
    std::atomic<int> seen{0};
    options.cancelled = [&] { return seen >= 2; };
    std::vector<int64_t> frames;
    const PipelineStats stats =
        run_pipeline(*engine_, source, resolved_, options, [&](PipelineFrame& frame) {
          frames.push_back(*frame.record.frame);
          ++seen;
        });
    EXPECT_EQ(stats.frames, static_cast<int64_t>(frames.size()));
    EXPECT_GE(frames.size(), 2u);
    EXPECT_LE(frames.size(), 2u + 4u * static_cast<std::size_t>(depth));
    for (std::size_t i = 0; i < frames.size(); ++i) EXPECT_EQ(frames[i], static_cast<int64_t>(i));
  }
}

TEST_P(PipelineTest, NothingInNothingOut) { EXPECT_TRUE(run(0, 0, 4, 2).empty()); }

TEST_P(PipelineTest, OnlyBadInputs) {
  const std::vector<std::string> lines = run(5, 1, 4, 2);
  EXPECT_EQ(lines.back(), "picture4: broken");
}

INSTANTIATE_TEST_SUITE_P(Engines, PipelineTest,
                         ::testing::Values(Backend::kReference, Backend::kCpu),
                         [](const auto& info) {
                           return info.param == Backend::kReference ? "reference" : "cpu";
                         });

}  // namespace
}  // namespace rfseg
