#include "pipeline/ablation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/cuda/usable.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

TEST(AblationScene, HasTheSurvivorsThatAreAskedFor) {
  const RecordedCase scene = ablation_scene(100, 25, 720, 1280);
  EXPECT_EQ(scene.entry.expected.items.size(), 25u);
  for (const Detection& d : scene.entry.expected.items) {
    ASSERT_NE(d.mask, nullptr);
    EXPECT_GT(d.mask->area(), 100u);
  }
  EXPECT_EQ(check_case(scene, Backend::kCpu, 0, {}), std::nullopt);
}

TEST(AblationScene, IsTheSameEveryTime) {
  const RecordedCase a = ablation_scene(30, 5, 90, 160), b = ablation_scene(30, 5, 90, 160);
  EXPECT_EQ(a.masks.data, b.masks.data);
  EXPECT_EQ(a.logits.data, b.logits.data);
  EXPECT_EQ(a.boxes.data, b.boxes.data);
  EXPECT_NE(a.masks.data, ablation_scene(30, 6, 90, 160).masks.data);
}

TEST(AblationScene, RefusesMoreSurvivorsThanQueries) {
  EXPECT_THROW(ablation_scene(4, 5, 90, 160), Error);
}

TEST(Ablation, EveryWayOfPostprocessingGivesTheReferencesAnswer) {
  std::string why;
  if (!cuda::usable(&why)) GTEST_SKIP() << why;
  AblationOptions options;
  options.warmup = 1;
  options.rounds = 2;
  int64_t calls = 0;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(total, 18);
  };
  for (const int width : {1280, 333}) {
    calls = 0;
    const RecordedCase scene = ablation_scene(300, 25, 720, width);
    const std::vector<AblationRow> rows = ablate_postprocess(scene, options);
    ASSERT_EQ(rows.size(), 6u);
    for (const AblationRow& row : rows) {
      EXPECT_EQ(row.difference, std::nullopt) << row.name;
      EXPECT_EQ(row.ms.size(), 2u) << row.name;
      EXPECT_GT(row.kernels, 0) << row.name;
      EXPECT_GE(row.kernels, row.launches) << row.name;
      EXPECT_GE(row.synchronisations, 1) << row.name;
    }
    // Each way does without something that the one before it needs.
    EXPECT_GT(rows[0].kernels, 10 * rows[4].kernels);
    EXPECT_EQ(rows[0].kernels, rows[1].kernels);
    EXPECT_GT(rows[2].bytes_to_host, 100 * rows[4].bytes_to_host);
    EXPECT_LT(rows[1].bytes_to_host, rows[4].bytes_to_host);
    EXPECT_EQ(rows[4].bytes_to_host, rows[5].bytes_to_host);
    EXPECT_EQ(rows[5].launches, 1);
  }
}

TEST(Ablation, TellsAWrongAnswer) {
  std::string why;
  if (!cuda::usable(&why)) GTEST_SKIP() << why;
  RecordedCase scene = ablation_scene(50, 5, 90, 160);
  scene.entry.expected.items[2].box_xyxy[0] += 1;
  for (const AblationRow& row : ablate_postprocess(scene, {0, 0, 1, {}})) {
    EXPECT_NE(row.difference, std::nullopt) << row.name;
  }
}

}  // namespace
}  // namespace rfseg
