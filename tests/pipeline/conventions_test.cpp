#include "pipeline/conventions.h"

#include <gtest/gtest.h>

#include "pipeline/tiny_model.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using testing::tiny_config;

TEST(Conventions, EachNameSetsItsOwnDefaults) {
  PredictOptions options;
  ResolvedOptions resolved = resolve_options(options, tiny_config());
  EXPECT_EQ(resolved.preprocess.resize, ResizeMode::kBilinear);
  EXPECT_EQ(resolved.postprocess.threshold, 0.5f);
  EXPECT_TRUE(resolved.postprocess.class_map.empty());

  options.like = Convention::kRfdetrEval;
  resolved = resolve_options(options, tiny_config());
  EXPECT_EQ(resolved.preprocess.resize, ResizeMode::kPil);
  EXPECT_LT(resolved.postprocess.threshold, 0);

  options.like = Convention::kInference;
  ModelConfig config = tiny_config();
  config.class_names.pop_back();  // the no-object column has no name there
  resolved = resolve_options(options, config);
  EXPECT_EQ(resolved.preprocess.resize, ResizeMode::kPil);
  EXPECT_EQ(resolved.postprocess.threshold, 0.4f);
  EXPECT_EQ(resolved.postprocess.num_select, config.queries);
  EXPECT_EQ(resolved.postprocess.class_map, (std::vector<int>{0, 1, 2, 3, -1}));
}

TEST(Conventions, OptionsOverrideSinglePoints) {
  PredictOptions options;
  options.like = Convention::kInference;
  options.resize = ResizeMode::kAntialias;
  options.threshold = 0.25f;
  options.num_select = 3;
  const ResolvedOptions resolved = resolve_options(options, tiny_config());
  EXPECT_EQ(resolved.preprocess.resize, ResizeMode::kAntialias);
  EXPECT_EQ(resolved.postprocess.threshold, 0.25f);
  EXPECT_EQ(resolved.postprocess.num_select, 3);
}

TEST(Conventions, KeepDropAndClassThresholdsGoByName) {
  PredictOptions options;
  options.keep = {"cat", "dog"};
  options.drop = {"dog"};
  options.class_thresholds = {{"cat", 0.9f}};
  const ResolvedOptions resolved = resolve_options(options, tiny_config());
  EXPECT_EQ(resolved.postprocess.class_map, (std::vector<int>{-1, 1, -1, -1, -1}));
  EXPECT_EQ(resolved.postprocess.class_thresholds,
            (std::vector<float>{0.5f, 0.9f, 0.5f, 0.5f, 0.5f}));
}

TEST(Conventions, BadOptionsAreUsageErrorsThatNameThem) {
  const auto rejection = [](const PredictOptions& options) -> std::string {
    try {
      resolve_options(options, tiny_config());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "accepted";
  };
  PredictOptions options;
  options.keep = {"horse"};
  EXPECT_NE(rejection(options).find("--keep: the model has no class 'horse'; it has: cat, dog"),
            std::string::npos);
  options = {};
  options.threshold = 1.5f;
  EXPECT_NE(rejection(options).find("--threshold"), std::string::npos);
  options = {};
  options.max_detections = 0;
  EXPECT_NE(rejection(options).find("--max-detections"), std::string::npos);
  options = {};
  options.class_thresholds = {{"cat", -1.0f}};
  EXPECT_NE(rejection(options).find("--class-threshold"), std::string::npos);
}

}  // namespace
}  // namespace rfseg
