#include "eval/parity.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "core/coco_rle.h"
#include "rfseg/error.h"

// Expected values are worked out by hand: boxes and masks are rectangles.

namespace rfseg {
namespace {

RunResults read(const std::string& text, const char* name = "run") {
  JsonBytes source(text, name);
  return read_run(source);
}

std::string error_of(const std::string& text) {
  try {
    read(text, "run.jsonl");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return {};
}

RunDetection boxed(int64_t class_id, double score, double x, double y, double w, double h) {
  RunDetection detection;
  detection.class_id = class_id;
  detection.score = score;
  detection.box_xyxy = {x, y, x + w, y + h};
  return detection;
}

// The rectangle is also the mask, of a picture of 100 x 100.
RunDetection masked(int64_t class_id, double score, int x, int y, int w, int h) {
  RunDetection detection = boxed(class_id, score, x, y, w, h);
  std::vector<uint8_t> pixels(100 * 100);
  for (int row = y; row < y + h; ++row) {
    for (int column = x; column < x + w; ++column) pixels[row * 100 + column] = 1;
  }
  detection.has_mask = true;
  detection.mask_height = detection.mask_width = 100;
  detection.counts = rle_to_string(rle_encode(pixels.data(), 100, 100));
  return detection;
}

RunResults one_picture(std::vector<RunDetection> detections) {
  RunResults run;
  run.pictures.push_back({"a.jpg", std::nullopt, std::move(detections)});
  return run;
}

TEST(RunResults, ReadsJsonLinesWithEveryKindOfMask) {
  const RunResults run = read(
      R"({"file": "a.jpg", "width": 5, "height": 4, "detections": [)"
      R"({"class_id": 3, "class_name": "cat", "score": 0.75, "box_xyxy": [1,1,3,3.5],)"
      R"( "segmentation": {"size": [4,5], "counts": [5,2,2,2,9]}},)"
      R"({"class_id": 4, "score": 0.5, "box_xyxy": [0,0,2,2], "segmentation": [[1,1,3,1,3,3,1,3]]},)"
      R"({"class_id": 4, "score": 0.5, "box_xyxy": [0,0,2,2], "segmentation": []},)"
      R"({"class_id": 5, "score": 0.25, "box_xyxy": [0,0,2,2]}]})"
      "\n\n"
      R"({"file": "v.mp4", "frame": 12, "time_s": 0.5, "width": 5, "height": 4, "detections": []})");
  EXPECT_FALSE(run.coco);
  ASSERT_EQ(run.pictures.size(), 2u);
  EXPECT_EQ(run.pictures[1].frame, 12);
  const auto& detections = run.pictures[0].detections;
  ASSERT_EQ(detections.size(), 4u);
  EXPECT_EQ(detections[0].class_name, "cat");
  EXPECT_EQ(detections[0].box_xyxy, (std::array<double, 4>{1, 1, 3, 3.5}));
  // Columns 1 and 2, rows 1 and 2: the same mask as run lengths and as a polygon.
  EXPECT_EQ(rle_from_string(detections[0].counts, 4, 5).counts,
            (std::vector<uint32_t>{5, 2, 2, 2, 9}));
  EXPECT_EQ(detections[1].counts, detections[0].counts);
  EXPECT_TRUE(detections[2].has_mask);
  EXPECT_EQ(rle_area(rle_from_string(detections[2].counts, 4, 5)), 0u);
  EXPECT_FALSE(detections[3].has_mask);
}

TEST(RunResults, ReadsCocoArrays) {
  const RunResults run = read(
      R"( [{"image_id": 9, "category_id": 3, "score": 0.5, "bbox": [1,2,3,4]},
          {"image_id": 7, "category_id": 3, "score": 0.5, "bbox": [1,1,2,2],
           "segmentation": {"size": [4,5], "counts": [5,2,2,2,9]}},
          {"image_id": 9, "category_id": 3, "score": 0.5,
           "segmentation": {"size": [4,5], "counts": [5,2,2,2,9]}}])");
  EXPECT_TRUE(run.coco);
  ASSERT_EQ(run.pictures.size(), 2u);
  EXPECT_EQ(run.pictures[0].file, "image 9");
  ASSERT_EQ(run.pictures[0].detections.size(), 2u);
  EXPECT_EQ(run.pictures[0].detections[0].box_xyxy, (std::array<double, 4>{1, 2, 4, 6}));
  EXPECT_EQ(run.pictures[0].detections[1].box_xyxy, (std::array<double, 4>{1, 1, 3, 3}));
}

TEST(RunResults, NamesTheLineAndWhatIsWrong) {
  const std::string head = R"({"file": "a", "width": 5, "height": 4, "detections": [)";
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "run.jsonl: line 1: has no 'file'"},
           {"\n[1]\n", "run.jsonl: entry 0"},
           {R"({"file": 3})", "'file' must be a string"},
           {R"({"file": "a", "frame": 1.5, "detections": []})", "'frame' must be a whole number"},
           {R"({"file": "a", "width": -1, "detections": []})", "'width' must be 0 to 65535"},
           {head + "3]}", "line 1: detections[0]: must be an object"},
           {head + R"({"class_id": 1e99}]})", "'class_id' must be a whole number"},
           {head + R"({"class_id": 1, "score": "x"}]})", "'score' must hold numbers"},
           {head + R"({"class_id": 1, "score": 1, "box_xyxy": [1,2,3]}]})", "four numbers"},
           {head + R"({"class_id": 1, "score": 1, "box_xyxy": [1,2,3,4],)"
                   R"("segmentation": {"size": [4,5], "counts": [5,2]}}]})",
            "segmentation: "},
           {head + R"({"class_id": 1, "score": 1, "box_xyxy": [1,2,3,4],)"
                   R"("segmentation": {"size": [4,99999999], "counts": ""}}]})",
            "'size' must be"},
           {head + R"({"class_id": 1, "score": 1, "box_xyxy": [1,2,3,4],)"
                   R"("segmentation": [[1,2,3,4]]}]})",
            "at least six numbers"},
           {"{\"file\": \"a\"", "not valid JSON: parse error at line 1, column 13: syntax error"},
           {std::string(100, '[') + "\n", "run.jsonl"},
           {R"({"file": )" + std::string(100, '[') + "}", "nested too deeply"}}) {
    EXPECT_NE(error_of(text).find(message), std::string::npos) << error_of(text);
  }
}

TEST(RunResults, ALongLineIsReadInTimeLikeItsLength) {
  std::string line = R"({"file": "a", "detections": [)";
  for (int i = 0; i < 150000; ++i) {
    line += R"({"class_id": 1, "score": 0.5, "box_xyxy": [1, 2, 3, 4]},)";
  }
  line.back() = ']';
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(read(line + "}").pictures[0].detections.size(), 150000u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));
}

TEST(Parity, EqualRunsAreEqual) {
  const RunResults run = one_picture({masked(1, 0.9, 10, 10, 20, 20), masked(2, 0.8, 5, 5, 3, 3)});
  const ParityReport report = compare_runs(run, run, {});
  EXPECT_EQ(report.matched, 2u);
  EXPECT_EQ(report.unmatched(), 0u);
  EXPECT_EQ(report.box_px.max, 0);
  EXPECT_EQ(report.identical_share(), 1);
  EXPECT_EQ(report.mask_iou.count, 1u) << "the mask of 9 pixels must not count";
  EXPECT_EQ(report.mask_iou.min, 1);
  ParityBounds strict;
  strict.max_box_px = strict.max_score = 0.0;
  strict.min_mask_iou = strict.min_mean_iou = strict.min_identical = 1.0;
  strict.max_unmatched = 0;
  EXPECT_TRUE(violations(report, strict).empty());
}

TEST(Parity, MeasuresBoxesScoresAndMasks) {
  // 20 x 20 against 20 x 19 in the same corner: IoU 380 / 400.
  const RunResults a =
      one_picture({masked(1, 0.9, 10, 10, 20, 20), masked(1, 0.8, 60, 60, 20, 20)});
  const RunResults b =
      one_picture({masked(1, 0.7, 60, 60, 20, 20), masked(1, 0.6, 10, 10, 20, 19)});
  const ParityReport report = compare_runs(a, b, {});
  ASSERT_EQ(report.matched, 2u);
  EXPECT_DOUBLE_EQ(report.box_px.max, 1);
  EXPECT_DOUBLE_EQ(report.box_px.mean, 0.5);
  EXPECT_NEAR(report.score.max, 0.3, 1e-12);
  EXPECT_NEAR(report.score.mean, 0.2, 1e-12);
  EXPECT_DOUBLE_EQ(report.mask_iou.min, 0.95);
  EXPECT_DOUBLE_EQ(report.mask_iou.mean, 0.975);
  EXPECT_DOUBLE_EQ(report.identical_share(), 0.5);

  ParityBounds bounds;
  bounds.max_box_px = 0.5;
  bounds.max_score = 0.1;
  bounds.min_mask_iou = 0.96;
  bounds.min_mean_iou = 0.98;
  bounds.min_identical = 0.6;
  EXPECT_EQ(violations(report, bounds).size(), 5u);
  bounds = {};
  bounds.max_box_px = 1;
  bounds.min_mask_iou = 0.95;
  bounds.min_mean_iou = 0.975;
  bounds.min_identical = 0.5;
  EXPECT_TRUE(violations(report, bounds).empty());
}

TEST(Parity, MatchesByScoreOrderAndLargestOverlap) {
  // The higher score chooses first and takes the better partner; the other takes what is left.
  const RunResults a = one_picture({boxed(1, 0.5, 0, 0, 10, 10), boxed(1, 0.9, 0, 0, 10, 9)});
  const RunResults b = one_picture({boxed(1, 0.6, 0, 0, 10, 9), boxed(1, 0.6, 0, 0, 10, 8)});
  const ParityReport report = compare_runs(a, b, {});
  EXPECT_EQ(report.matched, 2u);
  EXPECT_DOUBLE_EQ(report.box_px.min, 0);
  EXPECT_DOUBLE_EQ(report.box_px.max, 2);
  // Of equal overlaps the nearer score.
  const ParityReport tie =
      compare_runs(one_picture({boxed(1, 0.6, 0, 0, 10, 10)}),
                   one_picture({boxed(1, 0.9, 0, 0, 10, 10), boxed(1, 0.61, 0, 0, 10, 10)}), {});
  EXPECT_NEAR(tie.score.max, 0.01, 1e-12);
}

TEST(Parity, ScoresAtTheThresholdAreListedApart) {
  const RunResults a = one_picture({boxed(1, 0.9, 0, 0, 10, 10), boxed(2, 0.509, 50, 0, 10, 10)});
  const RunResults b = one_picture({boxed(1, 0.9, 0, 0, 10, 10), boxed(3, 0.52, 0, 50, 10, 10)});
  ParityOptions options;
  options.threshold = 0.5;
  ParityReport report = compare_runs(a, b, options);
  ASSERT_EQ(report.near_threshold_a.size(), 1u);
  EXPECT_EQ(report.near_threshold_a[0].class_id, 2);
  EXPECT_EQ(report.unmatched_a.size(), 0u);
  ASSERT_EQ(report.unmatched_b.size(), 1u);
  EXPECT_EQ(report.unmatched_b[0].file, "a.jpg");
  ParityBounds bounds;
  bounds.max_unmatched = 0;
  EXPECT_EQ(violations(report, bounds).size(), 1u);
  bounds.max_unmatched = 1;
  EXPECT_TRUE(violations(report, bounds).empty());
  // Without a threshold the lowest score of both counts, and a class may have its own.
  report = compare_runs(a, b, {});
  EXPECT_DOUBLE_EQ(report.threshold.value(), 0.509);
  EXPECT_EQ(report.near_threshold_a.size(), 1u);
  options.class_thresholds = {0.5f, 0.5f, 0.4f, 0.515f};
  report = compare_runs(a, b, options);
  EXPECT_EQ(report.near_threshold_a.size(), 0u);
  EXPECT_EQ(report.near_threshold_b.size(), 1u);
}

TEST(Parity, AGuessedThresholdExcusesNothing) {
  const RunResults a = one_picture({boxed(1, 0.99, 0, 0, 10, 10), boxed(1, 0.985, 50, 0, 10, 10)});
  const RunResults b = one_picture({boxed(1, 0.99, 0, 0, 10, 10)});
  ParityBounds bounds;
  bounds.max_unmatched = 0;
  const ParityReport guessed = compare_runs(a, b, {});
  EXPECT_EQ(guessed.unmatched(), 0u);
  ASSERT_EQ(violations(guessed, bounds).size(), 1u);
  EXPECT_NE(violations(guessed, bounds)[0].find("--threshold"), std::string::npos);
  ParityOptions options;
  options.threshold = 0.98;
  EXPECT_TRUE(violations(compare_runs(a, b, options), bounds).empty());
}

TEST(Parity, NoPartnerAtAllHoldsNoBound) {
  const RunResults a = one_picture({boxed(1, 0.505, 0, 0, 10, 10)}), b = one_picture({});
  ParityOptions options;
  options.threshold = 0.5;
  const ParityReport report = compare_runs(a, b, options);
  EXPECT_EQ(report.unmatched(), 0u);
  EXPECT_TRUE(violations(report, {}).empty());
  ParityBounds bounds;
  bounds.max_box_px = 1;
  EXPECT_EQ(violations(report, bounds).size(), 1u);
}

TEST(Parity, ABoundThatHoldsOfNothingDoesNotHold) {
  const RunResults nothing = one_picture({});
  const ParityReport report = compare_runs(nothing, nothing, {});
  ParityBounds bounds;
  bounds.max_unmatched = 0;
  EXPECT_TRUE(violations(report, bounds).empty()) << "as many as there may be";
  bounds.max_score = 0.1;
  ASSERT_EQ(violations(report, bounds).size(), 1u);
  EXPECT_NE(violations(report, bounds)[0].find("nothing was compared"), std::string::npos);
  EXPECT_TRUE(std::isnan(report.identical_share()));

  const RunResults small = one_picture({masked(1, 0.9, 5, 5, 10, 10), masked(1, 0.8, 50, 5, 3, 3)});
  const ParityReport of_small = compare_runs(small, small, {});
  EXPECT_EQ(of_small.small_masks, 2u);
  bounds = {};
  bounds.min_identical = 1;
  EXPECT_TRUE(violations(of_small, bounds).empty());
  bounds.min_mask_iou = bounds.min_mean_iou = 0;
  const std::vector<std::string> broken = violations(of_small, bounds);
  ASSERT_EQ(broken.size(), 2u);
  EXPECT_NE(broken[0].find("none of the 2 matched masks has more than 100 pixels"),
            std::string::npos)
      << broken[0];
}

TEST(Parity, APictureOfTwoSizesIsNamed) {
  RunResults a = one_picture({boxed(1, 0.9, 0, 0, 10, 10)}), b = a;
  a.pictures[0].width = b.pictures[0].height = 640;
  a.pictures[0].height = b.pictures[0].width = 480;
  const ParityReport report = compare_runs(a, b, {});
  EXPECT_EQ(report.size_changes, (std::vector<std::string>{"a.jpg: 480x640 in A, 640x480 in B"}));
  ParityBounds bounds;
  bounds.max_box_px = 1;
  ASSERT_EQ(violations(report, bounds).size(), 1u);
  EXPECT_NE(violations(report, bounds)[0].find("a.jpg: 480x640 in A"), std::string::npos);
  EXPECT_TRUE(compare_runs(a, a, {}).size_changes.empty());
  b.pictures[0].width = 0;  // not known
  EXPECT_TRUE(compare_runs(a, b, {}).size_changes.empty());

  const char* lines = R"({"file": "a", "width": 5, "height": 4, "detections": []})";
  EXPECT_EQ(read(lines).pictures[0].width, 5);
  EXPECT_EQ(read(lines).pictures[0].height, 4);
  const RunResults coco = read(R"([{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0,0,1,1],
                                    "segmentation": {"size": [4, 5], "counts": [20]}}])");
  EXPECT_EQ(coco.pictures[0].width, 5);
}

TEST(Parity, PicturesOfOtherFoldersAreMatchedWhereTheirNamesTellThemApart) {
  const std::vector<RunDetection> found = {boxed(1, 0.9, 0, 0, 10, 10)};
  const auto run_of = [&](const std::vector<std::string>& files) {
    RunResults run;
    for (const std::string& file : files) run.pictures.push_back({file, {}, found});
    return run;
  };
  const auto matched = [&](const std::vector<std::string>& a, const std::vector<std::string>& b) {
    const ParityReport report = compare_runs(run_of(a), run_of(b), {});
    EXPECT_EQ(report.matched + report.only_a.size(), a.size());
    EXPECT_EQ(report.matched + report.only_b.size(), b.size());
    return report.by_name;
  };
  EXPECT_EQ(matched({"/one/a.jpg", "/one/b.jpg"}, {"two/b.jpg", "a.jpg"}), 2u);
  EXPECT_EQ(matched({"/one/a/x.jpg", "/one/b/x.jpg"}, {"/two/b/x.jpg", "/two/a/x.jpg"}), 2u);
  EXPECT_EQ(matched({"a/x.jpg", "b/x.jpg"}, {"in/a/x.jpg", "in/b/x.jpg"}), 2u);
  EXPECT_EQ(matched({"a/x.jpg", "b/x.jpg"}, {"c/x.jpg"}), 0u) << "either could be meant";
  EXPECT_EQ(matched({"a/x.jpg", "b/x.jpg"}, {"a/x.jpg", "c/x.jpg"}), 0u);
  EXPECT_EQ(matched({"a/x.jpg"}, {"a/x.jpg"}), 0u) << "by its whole name";
  EXPECT_EQ(matched({"ax.jpg"}, {"x.jpg"}), 0u);
  // Frames of a video, too.
  RunResults a, b;
  a.pictures = {{"one/v.mp4", 1, found}, {"one/v.mp4", 2, found}};
  b.pictures = {{"two/v.mp4", 2, found}, {"two/v.mp4", 1, found}};
  EXPECT_EQ(compare_runs(a, b, {}).matched, 2u);
}

// Every pair looked at would be 3.6 thousand million.
TEST(Parity, ManyDetectionsOfOnePictureTakeNoSquareOfTime) {
  constexpr int kMany = 60000;
  std::vector<RunDetection> grid;
  for (int i = 0; i < kMany; ++i) {
    grid.push_back(boxed(i % 2, 0.9, 12.0 * (i % 5000), 12.0 * (i / 5000), 10, 10));
  }
  const RunResults a = one_picture(grid);
  for (RunDetection& detection : grid) detection.class_id ^= 1;
  const RunResults other_class = one_picture(grid);
  ParityOptions options;
  options.threshold = 0.5;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(compare_runs(a, a, options).matched, static_cast<std::size_t>(kMany));
  EXPECT_EQ(compare_runs(a, other_class, options).class_changes.size(),
            static_cast<std::size_t>(kMany));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(Parity, AChangedClassIsNamedAndUnmatchedOnBothSides) {
  const RunResults a = one_picture({boxed(1, 0.9, 0, 0, 10, 10)});
  const RunResults b = one_picture({boxed(2, 0.8, 0, 0, 10, 10)});
  ParityOptions options;
  options.threshold = 0.5;
  const ParityReport report = compare_runs(a, b, options);
  EXPECT_EQ(report.matched, 0u);
  EXPECT_EQ(report.unmatched(), 2u);
  ASSERT_EQ(report.class_changes.size(), 1u);
  EXPECT_EQ(report.class_changes[0].a.class_id, 1);
  EXPECT_EQ(report.class_changes[0].b.class_id, 2);
}

TEST(Parity, PicturesAreMatchedByFileAndFrame) {
  RunResults a, b;
  a.pictures = {{"v.mp4", 1, {boxed(1, 0.9, 0, 0, 10, 10)}}, {"v.mp4", 2, {}}, {"x.jpg", {}, {}}};
  b.pictures = {{"x.jpg", {}, {}}, {"v.mp4", 1, {boxed(1, 0.9, 0, 0, 10, 10)}}, {"x.jpg", {}, {}}};
  const ParityReport report = compare_runs(a, b, {});
  EXPECT_EQ(report.pictures, 4u);
  EXPECT_EQ(report.matched, 1u);
  EXPECT_EQ(report.only_a, (std::vector<std::string>{"v.mp4 frame 2"}));
  EXPECT_EQ(report.only_b, (std::vector<std::string>{"x.jpg"})) << "the second of this name";
  ParityBounds bounds;
  EXPECT_TRUE(violations(report, bounds).empty()) << "without a bound nothing fails";
  bounds.max_unmatched = 1000;
  EXPECT_EQ(violations(report, bounds).size(), 1u);
}

TEST(Parity, AMissingMaskIsNoEqualMask) {
  RunDetection bare = masked(1, 0.9, 10, 10, 20, 20);
  const RunResults a = one_picture({bare});
  bare.has_mask = false;
  bare.counts.clear();
  const RunResults b = one_picture({bare});
  ParityBounds bounds;
  bounds.min_identical = 0.1;
  bounds.min_mask_iou = 0.1;
  const ParityReport report = compare_runs(a, b, {});
  EXPECT_EQ(report.one_sided_masks, 1u);
  EXPECT_EQ(report.mask_iou.min, 0);
  const std::vector<std::string> broken = violations(report, bounds);
  ASSERT_EQ(broken.size(), 2u);
  for (const std::string& line : broken) {
    EXPECT_NE(line.find("1 of 1 matched detections have a mask on one side only"),
              std::string::npos)
        << line;
  }
  EXPECT_EQ(violations(compare_runs(b, b, {}), bounds).size(), 2u) << "no masks to compare";
}

TEST(Parity, RefusesRunsThatCannotBeCompared) {
  RunResults lines = one_picture({}), coco = one_picture({}), empty;
  coco.coco = true;
  EXPECT_THROW(compare_runs(lines, coco, {}), Error);
  EXPECT_THROW(compare_runs(empty, empty, {}), Error);
  EXPECT_EQ(compare_runs(coco, coco, {}).pictures, 1u);
}

}  // namespace
}  // namespace rfseg
