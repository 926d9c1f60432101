#include "output/results.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "output/dense_masks.h"
#include "rfseg/error.h"
#include "test_data.h"

namespace rfseg {
namespace {

using Json = nlohmann::json;

const std::vector<std::string> kNames = {"", "person", "bi\"cycle"};

ResultRecord sample() {
  ResultRecord record;
  record.file = "photos/a.jpg";
  record.detections.width = 6;
  record.detections.height = 5;
  record.detections.items = {
      detection(1, 0.931f, 1.25f, 1, 4, 4.5f, box_mask(5, 6, 1, 1, 4, 4)),
      detection(2, 0.1f, 0, 0, 6, 5, box_mask(5, 6, 0, 0, 6, 5)),
      detection(7, 1e-5f, 0, 0, 0, 0, nullptr),
  };
  return record;
}

template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  return {ErrorCode::kInternal, "no error"};
}

TEST(Results, ClassNames) {
  EXPECT_EQ(class_name(kNames, 1), "person");
  EXPECT_EQ(class_name(kNames, 0), "class_0");
  EXPECT_EQ(class_name(kNames, 3), "class_3");
  EXPECT_EQ(class_name({}, -1), "class_-1");
}

TEST(Results, JsonLine) {
  EXPECT_EQ(
      to_json_line(sample(), kNames, MaskFormat::kNone),
      R"({"file": "photos/a.jpg", "width": 6, "height": 5, "detections": [)"
      R"({"class_id": 1, "class_name": "person", "score": 0.931, "box_xyxy": [1.25, 1.0, 4.0, 4.5]}, )"
      R"({"class_id": 2, "class_name": "bi\"cycle", "score": 0.1, "box_xyxy": [0.0, 0.0, 6.0, 5.0]}, )"
      R"({"class_id": 7, "class_name": "class_7", "score": 1e-05, "box_xyxy": [0.0, 0.0, 0.0, 0.0]}]})");
  const Json json = Json::parse(to_json_line(sample(), kNames, MaskFormat::kRle));
  const Json& first = json["detections"][0]["segmentation"];
  EXPECT_EQ(first["size"], Json({5, 6}));
  EXPECT_EQ(first["counts"], "6320009");  // pycocotools 2.0.11
  EXPECT_EQ(json["detections"][1]["segmentation"]["counts"], "0n0");
  EXPECT_FALSE(json["detections"][2].contains("segmentation"));
  EXPECT_FALSE(json.contains("frame"));
}

TEST(Results, JsonLineOfAVideoFrame) {
  ResultRecord record;
  record.file = "v\xff.mp4";
  record.frame = 12;
  record.time_s = 0.48;
  record.detections.width = 640;
  record.detections.height = 480;
  EXPECT_EQ(to_json_line(record, {}, MaskFormat::kRle),
            R"({"file": "v\\xff.mp4", "frame": 12, "time_s": 0.48, "width": 640, "height": 480, )"
            R"("detections": []})");
}

TEST(Results, CountsWithBackslashesStayValidJson) {
  // Runs of 12 give the byte '\' in compressed counts only after a difference; find one by search.
  ResultRecord record = sample();
  bool met = false;
  for (int x = 1; x < 60 && !met; ++x) {
    record.detections.items[0].mask = box_mask(60, 60, 1, 1, 59, x + 1);
    const std::string& counts = record.detections.items[0].mask->counts;
    met = counts.find('\\') != std::string::npos;
    const Json json = Json::parse(to_json_line(record, kNames, MaskFormat::kRle));
    EXPECT_EQ(json["detections"][0]["segmentation"]["counts"], counts);
  }
  EXPECT_TRUE(met);
}

TEST(Results, Polygons) {
  const Json json = Json::parse(to_json_line(sample(), kNames, MaskFormat::kPolygon));
  const Json& polygons = json["detections"][0]["segmentation"];
  ASSERT_EQ(polygons.size(), 1u);
  EXPECT_EQ(polygons[0], Json({1, 1, 1, 3, 3, 3, 3, 1}));  // cv2.findContours

  // pycocotools wants three points at least; a lone pixel is not lost for that.
  ResultRecord record = sample();
  record.detections.items[0].mask = box_mask(5, 5, 2, 3, 3, 4);
  const Json lone = Json::parse(to_json_line(record, kNames, MaskFormat::kPolygon));
  const Json& points = lone["detections"][0]["segmentation"];
  ASSERT_EQ(points.size(), 1u);
  ASSERT_EQ(points[0].size(), 6u);
  EXPECT_EQ(points[0][0], points[0][4]);
  EXPECT_EQ(points[0][1], points[0][5]);
}

TEST(Results, JsonLinesFile) {
  const TemporaryFolder folder;
  const std::string path = folder / "out.jsonl";
  auto writer = create_jsonl_writer(path, kNames, MaskFormat::kRle);
  writer->write(sample());
  writer->write(sample());
  EXPECT_FALSE(std::filesystem::exists(path));
  writer->finish();
  const std::string line = to_json_line(sample(), kNames, MaskFormat::kRle) + "\n";
  EXPECT_EQ(read_text(path), line + line);
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Results, UnfinishedFilesLeaveNothing) {
  const TemporaryFolder folder;
  create_jsonl_writer(folder / "a.jsonl", kNames, MaskFormat::kRle)->write(sample());
  create_coco_writer(folder / "b.json", {}, MaskFormat::kRle)->write(sample());
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(Results, CocoArrayWithCountedIds) {
  const TemporaryFolder folder;
  const std::string path = folder / "out.json";
  auto writer = create_coco_writer(path, {}, MaskFormat::kRle);
  ResultRecord frame = sample();
  frame.file = "v.mp4";
  frame.frame = 3;
  frame.time_s = 0.125;
  ResultRecord empty = sample();
  empty.file = "empty.jpg";
  empty.detections.items.clear();
  writer->write(sample());
  writer->write(empty);
  writer->write(frame);
  writer->finish();
  const Json results = Json::parse(read_text(path));
  ASSERT_EQ(results.size(), 6u);
  EXPECT_EQ(results[0], Json::parse(R"({"image_id": 1, "category_id": 1, "score": 0.931,
      "bbox": [1.25, 1, 2.75, 3.5], "segmentation": {"size": [5, 6], "counts": "6320009"}})"));
  EXPECT_EQ(results[2], Json::parse(R"({"image_id": 1, "category_id": 7, "score": 1e-05,
      "bbox": [0, 0, 0, 0]})"));
  EXPECT_EQ(results[5]["image_id"], 3);
  EXPECT_EQ(Json::parse(read_text(path + ".images.json")), Json::parse(R"([
      {"id": 1, "file_name": "photos/a.jpg", "width": 6, "height": 5},
      {"id": 2, "file_name": "empty.jpg", "width": 6, "height": 5},
      {"id": 3, "file_name": "v.mp4", "frame": 3, "time_s": 0.125, "width": 6, "height": 5}])"));
  EXPECT_EQ(folder.entries(), 2u);
}

TEST(Results, CocoArrayWithGivenIds) {
  const TemporaryFolder folder;
  const std::string path = folder / "out.json";
  auto writer = create_coco_writer(
      path, ImageIds({{"a.jpg", 77}, {"photos/b.jpg", 78}, {"b.jpg", 79}}), MaskFormat::kNone);
  ResultRecord record = sample();
  writer->write(record);
  record.file = "photos/b.jpg";
  writer->write(record);
  record.file = "elsewhere/b.jpg";
  writer->write(record);
  record.file = "c.jpg";
  const Error unknown = error_of([&] { writer->write(record); });
  EXPECT_EQ(unknown.code(), ErrorCode::kInput);
  EXPECT_NE(std::string(unknown.what()).find("c.jpg"), std::string::npos);
  record.file = "a.jpg";
  record.frame = 0;
  EXPECT_EQ(error_of([&] { writer->write(record); }).code(), ErrorCode::kInput);
  writer->finish();
  const Json results = Json::parse(read_text(path));
  ASSERT_EQ(results.size(), 9u);
  EXPECT_EQ(results[0]["image_id"], 77);
  EXPECT_EQ(results[3]["image_id"], 78);
  EXPECT_EQ(results[6]["image_id"], 79);
  EXPECT_FALSE(results[0].contains("segmentation"));
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Results, ImageIdsAreFoundByTheLongestCommonEndOfThePath) {
  const ImageIds ids({{"x.jpg", 1},
                      {"a/x.jpg", 2},
                      {"val/a/y.jpg", 3},
                      {"val/b/y.jpg", 4},
                      {"./z.jpg", 5},
                      {"deep/w.jpg", 6}});
  EXPECT_EQ(ids.of("x.jpg"), 1);
  EXPECT_EQ(ids.of("/data/x.jpg"), 1);
  EXPECT_EQ(ids.of("/data/a/x.jpg"), 2);
  EXPECT_EQ(ids.of("b/x.jpg"), 1);
  EXPECT_EQ(ids.of("ba/x.jpg"), 1) << "whole parts of the path only";
  EXPECT_EQ(ids.of("a/y.jpg"), 3);
  EXPECT_EQ(ids.of("./b/y.jpg"), 4);
  EXPECT_EQ(ids.of("w.jpg"), 6);
  EXPECT_EQ(ids.of("./z.jpg"), 5);
  EXPECT_EQ(ids.of("http://host/val/a/y.jpg?size=1"), 3);
  for (const char* none : {"y.jpg", "c/y.jpg", "other/w.jpg", "q.jpg", ""}) {
    const Error error = error_of([&] { ids.of(none); });
    EXPECT_EQ(error.code(), ErrorCode::kInput) << none;
    EXPECT_NE(std::string(error.what()).find(none), std::string::npos) << error.what();
  }
  EXPECT_NE(std::string(error_of([&] { ids.of("y.jpg"); }).what()).find("2 such files"),
            std::string::npos);
}

TEST(Results, ImageIdsDoNotDependOnHowAPathIsSpelt) {
  const ImageIds ids({{"val/a.jpg", 5},
                      {"a.jpg", 6},
                      {"train//./b.jpg", 7},
                      {"b.jpg", 8},
                      {"http://h/i?n=1", 9},
                      {"http://h//i?n=2/../x", 10}});
  for (const char* file : {"val//a.jpg", "val/./a.jpg", "/data//val/a.jpg", ".//val/x/../a.jpg",
                           "http://host//val/./a.jpg?x=1"}) {
    EXPECT_EQ(ids.of(file), 5) << file;
  }
  EXPECT_EQ(ids.of("other//a.jpg"), 6);
  for (const char* file : {"train/b.jpg", "train//b.jpg", "/data/train/./b.jpg"}) {
    EXPECT_EQ(ids.of(file), 7) << file;
  }
  EXPECT_EQ(ids.of("http://h//i?n=1"), 9) << "of URLs in full the query counts";
  EXPECT_EQ(ids.of("http://h/i?n=2/../x"), 10);
}

TEST(Results, TwoPicturesDoNotShareAnImageId) {
  const TemporaryFolder folder;
  auto writer = create_coco_writer(folder / "out.json", ImageIds({{"x.jpg", 1}}), MaskFormat::kRle);
  ResultRecord record = sample();
  record.file = "a/x.jpg";
  writer->write(record);
  record.file = "b/x.jpg";
  const Error error = error_of([&] { writer->write(record); });
  EXPECT_EQ(error.code(), ErrorCode::kInput);
  for (const char* file : {"a/x.jpg", "b/x.jpg"}) {
    EXPECT_NE(std::string(error.what()).find(file), std::string::npos) << error.what();
  }
}

TEST(Results, NoResultsAreAnEmptyArray) {
  const TemporaryFolder folder;
  create_coco_writer(folder / "out.json", {}, MaskFormat::kRle)->finish();
  EXPECT_EQ(Json::parse(read_text(folder / "out.json")), Json::array());
  EXPECT_EQ(Json::parse(read_text(folder / "out.json.images.json")), Json::array());
}

TEST(Results, DenseMasksGoBesideTheResults) {
  const TemporaryFolder folder;
  std::vector<std::vector<uint8_t>> encoded;
  DenseMaskWriter writer(folder / "out.v1.jsonl",
                         [&](const uint8_t* pixels, int width, int height) {
                           EXPECT_EQ(width, 6);
                           EXPECT_EQ(height, 5);
                           encoded.emplace_back(pixels, pixels + width * height);
                           return std::vector<uint8_t>{'P', 'N', 'G'};
                         });
  ResultRecord record = sample();
  writer.write(record);
  writer.write(record);
  EXPECT_EQ(record.mask_files,
            (std::vector<std::string>{"out.v1-000001-000.png", "out.v1-000001-001.png", ""}));
  EXPECT_EQ(read_text(folder / "out.v1-000000-000.png"), "PNG");
  EXPECT_EQ(folder.entries(), 4u);
  ASSERT_EQ(encoded.size(), 4u);
  for (int y = 0; y < 5; ++y) {
    for (int x = 0; x < 6; ++x) {
      const bool inside = x >= 1 && x < 4 && y >= 1 && y < 4;
      EXPECT_EQ(encoded[0][y * 6 + x], inside ? 255 : 0);
    }
  }
  const Json json = Json::parse(to_json_line(record, kNames, MaskFormat::kDense));
  EXPECT_EQ(json["detections"][1]["mask_file"], "out.v1-000001-001.png");
  EXPECT_FALSE(json["detections"][2].contains("mask_file"));
  EXPECT_FALSE(json["detections"][0].contains("segmentation"));
}

TEST(Results, FullDiskIsAnOutputError) {
  auto writer = create_jsonl_writer("/dev/full", kNames, MaskFormat::kRle);
  const Error error = error_of([&] { writer->write(sample()); });
  EXPECT_EQ(error.code(), ErrorCode::kOutput);
  EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos);
  const TemporaryFolder folder;
  EXPECT_EQ(error_of([&] {
              create_coco_writer(folder / "no such folder/out.json", {}, MaskFormat::kRle);
            }).code(),
            ErrorCode::kOutput);
}

int write_to_closed_pipe() {
  std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  if (pipe(ends) != 0) return 99;
  close(ends[0]);
  std::fflush(stdout);
  dup2(ends[1], STDOUT_FILENO);
  const Error error =
      error_of([] { create_jsonl_writer("-", kNames, MaskFormat::kRle)->write(sample()); });
  return static_cast<int>(error.code());
}

TEST(ResultsDeathTest, ClosedPipeIsAnOutputError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(_exit(write_to_closed_pipe()), testing::ExitedWithCode(6), "");
}

int write_to_pipe() {
  int ends[2];
  if (pipe(ends) != 0) return 99;
  std::fflush(stdout);
  dup2(ends[1], STDOUT_FILENO);
  auto writer = create_jsonl_writer("-", kNames, MaskFormat::kNone);
  writer->write(sample());  // must arrive before `finish`
  char buffer[4096];
  const ssize_t n = read(ends[0], buffer, sizeof buffer);
  const std::string line = to_json_line(sample(), kNames, MaskFormat::kNone) + "\n";
  return n > 0 && std::string(buffer, static_cast<std::size_t>(n)) == line ? 0 : 1;
}

TEST(ResultsDeathTest, StandardOutputIsFlushedEveryLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(_exit(write_to_pipe()), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace rfseg
