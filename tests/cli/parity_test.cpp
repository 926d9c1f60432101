#include "cli/program.h"

namespace rfseg {
namespace {

using nlohmann::json;
using testing::json_lines;
using testing::read_text;
using testing::write_text;

class ParityTest : public testing::ProgramTest {
 protected:
  // Results of the first two pictures, as lines.
  std::vector<json> predict(const std::string& name) {
    const auto result = run({"predict", "-m", model(), pictures_[0], pictures_[1], "-o", name});
    EXPECT_EQ(result.code, 0) << result.err;
    return json_lines(read_text(path(name)));
  }
  void write_lines(const std::string& name, const std::vector<json>& lines) {
    std::string text;
    for (const json& line : lines) text += line.dump() + "\n";
    write_text(path(name), text);
  }
};

TEST_F(ParityTest, FilesAreComparedAndBoundsDecideTheExitCode) {
  const std::vector<json> lines = predict("a.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  const std::size_t detections = lines[0]["detections"].size() + lines[1]["detections"].size();
  ASSERT_GT(detections, 4u);
  const std::vector<std::string> strict = {
      "parity",          "a.jsonl", "b.jsonl",        "--json", "--max-box-px",    "0",
      "--max-score",     "0",       "--min-mask-iou", "1",      "--min-identical", "1",
      "--max-unmatched", "0",       "--min-mean-iou", "1",      "--threshold",     "0.5"};

  // The pictures in another order are the same run.
  write_lines("b.jsonl", {lines[1], lines[0]});
  auto result = run(strict);
  ASSERT_EQ(result.code, 0) << result.err;
  json report = json::parse(result.out);
  EXPECT_EQ(report["pictures"], 2);
  EXPECT_EQ(report["matched"], detections);
  EXPECT_EQ(report["identical_share"], 1.0);
  EXPECT_EQ(report["passed"], true);

  // One detection gone, one moved by 2 pixels.
  std::vector<json> changed = lines;
  changed[0]["detections"].erase(changed[0]["detections"].size() - 1);
  json& box = changed[1]["detections"][0]["box_xyxy"];
  box[2] = box[2].get<double>() + 2;
  write_lines("b.jsonl", changed);
  result = run(strict);
  EXPECT_EQ(result.code, 1);
  report = json::parse(result.out);
  EXPECT_EQ(report["passed"], false);
  EXPECT_EQ(report["unmatched_a"].size(), 1u);
  EXPECT_EQ(report["unmatched_a"][0]["file"], lines[0]["file"]);
  EXPECT_TRUE(report["unmatched_a"][0].contains("class_name"));
  EXPECT_NEAR(report["box_px"]["max"].get<double>(), 2, 1e-3);
  EXPECT_NE(result.err.find("box difference"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("1 unmatched detection(s), over 0"), std::string::npos) << result.err;

  // Without a bound it only reports.
  result = run({"parity", "a.jsonl", "b.jsonl", "--threshold", "0.5"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("unmatched of A:\n"), std::string::npos) << result.out;
}

TEST_F(ParityTest, TheTableStaysShortAndSaysWhatWasLeftOut) {
  json line = {
      {"file", "one/a.jpg"}, {"width", 640}, {"height", 480}, {"detections", json::array()}};
  for (int i = 0; i < 50; ++i) {
    line["detections"].push_back({{"class_id", 1}, {"score", 0.9}, {"box_xyxy", {i, 0, i + 1, 1}}});
  }
  write_lines("a.jsonl", {line});
  line["file"] = "two/a.jpg";
  line["height"] = 240;
  for (json& detection : line["detections"]) detection["box_xyxy"][1] = 300;
  write_lines("b.jsonl", {line});
  auto result = run({"parity", "a.jsonl", "b.jsonl", "--threshold", "0.1", "--max-unmatched", "0"});
  EXPECT_EQ(result.code, 1);
  EXPECT_LT(std::count(result.out.begin(), result.out.end(), '\n'), 60);
  for (const char* part : {"... and 30 more (--json lists all)", "matched by name alone",
                           "two/a.jpg", "one/a.jpg: 480x640 in A, 240x640 in B"}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << "\n" << result.out;
  }
  EXPECT_NE(result.err.find("picture(s) of two sizes, the first one/a.jpg"), std::string::npos)
      << result.err;
  result = run({"parity", "a.jsonl", "b.jsonl", "--json"});
  EXPECT_EQ(result.code, 0);
  const json report = json::parse(result.out);
  EXPECT_EQ(report["unmatched_a"].size() + report["near_threshold_a"].size(), 50u);
  EXPECT_EQ(report["pictures_by_name"], 1);
  EXPECT_EQ(report["size_changes"].size(), 1u);
  EXPECT_TRUE(report["identical_share"].is_null());
  EXPECT_EQ(report["mask_iou"]["small_masks"], 0);
}

TEST_F(ParityTest, CocoArraysAreCompared) {
  const auto predicted =
      run({"predict", "-m", model(), pictures_[0], pictures_[1], "-o", "a.json"});
  ASSERT_EQ(predicted.code, 0) << predicted.err;
  const auto result =
      run({"parity", "a.json", "a.json", "--json", "--min-identical", "1", "--max-unmatched", "0"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_GT(json::parse(result.out)["matched"].get<int>(), 4);
}

TEST_F(ParityTest, TwoBackendsRunOverPicturesInOneProcess) {
  const auto result = run({"parity", "-m", model(), pictures_[0], "--a", "cpu", "--b", "reference",
                           "--json", "--max-box-px", "0.01", "--max-score", "0.0001",
                           "--min-mask-iou", "0.99", "--max-unmatched", "0"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["a"], "cpu, backend cpu, fp32");
  EXPECT_EQ(report["b"], "cpu, backend reference, fp32");
  EXPECT_GT(report["matched"].get<int>(), 0);
  EXPECT_GT(report["mask_iou"]["masks"].get<int>(), 0);
}

TEST_F(ParityTest, AnInstancesFileListsThePictures) {
  const std::string name = std::filesystem::path(pictures_[0]).filename().string();
  write_text(path("list.json"), json{{"images", {{{"id", 7}, {"file_name", name}}}}}.dump());
  const auto result = run({"parity", "-m", model(), "list.json", "--image-root", demo("images"),
                           "--a", "cpu", "--b", "cpu", "--json", "--min-identical", "1"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["pictures"], 1);
  write_text(path("list.json"), R"({"images": [{"id": 7, "file_name": ""}]})");
  const auto empty = run({"parity", "-m", model(), "list.json", "--image-root", demo("images"),
                          "--a", "cpu", "--b", "cpu"});
  EXPECT_EQ(empty.code, 4);
  EXPECT_NE(empty.err.find("list.json: images[]: the file_name of id 7 is empty"),
            std::string::npos)
      << empty.err;
}

TEST_F(ParityTest, ADeviceThatIsNotThereIsExitCode5) {
  const auto result = run(
      {"parity", "-m", model(), pictures_[0], "--a", "cpu", "--b", "cuda:9999", "--threads", "1"});
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("--b cuda:9999: "), std::string::npos) << result.err;
  const auto half = run({"parity", "-m", model(), pictures_[0], "--a", "cpu:fp16", "--b", "cpu"});
  EXPECT_EQ(half.code, 5);
  EXPECT_NE(half.err.find("--a cpu:fp16: --precision fp16: the CPU"), std::string::npos)
      << half.err;
}

TEST_F(ParityTest, SaysWhatIsWrongWithTheCommandOrAFile) {
  write_text(path("good.jsonl"), "{\"file\": \"a.jpg\", \"detections\": []}\n");
  write_text(path("bad.jsonl"), "{\"file\": \"a.jpg\"}\n");
  write_text(path("empty.json"), "[]");
  for (const auto& [words, code, message] :
       std::vector<std::tuple<std::vector<std::string>, int, std::string>>{
           {{"good.jsonl"}, 2, "two result files are expected"},
           {{"good.jsonl", "good.jsonl", "--a", "cpu"}, 2, "--a: needs a model to run"},
           {{"good.jsonl", "good.jsonl", "--keep", "cat"}, 2, "--keep: needs a model to run"},
           {{"good.jsonl", "bad.jsonl"}, 4, "bad.jsonl: line 1: has no 'detections'"},
           {{"good.jsonl", "missing.jsonl"}, 4, "missing.jsonl: cannot open"},
           {{"good.jsonl", "empty.json"}, 4, "one is a COCO array and the other JSON lines"},
           {{"good.jsonl", "good.jsonl", "--min-identical", "1.5"}, 2, "from 0 to 1"},
           {{"good.jsonl", "good.jsonl", "--max-unmatched", "2.7"}, 2, "'2.7' is not a whole"},
           {{"good.jsonl", "good.jsonl", "--max-score", "1"}, 1, "nothing was compared"},
           {{"-m", model(), pictures_[0], "--a", "cpu"}, 2, "needs --a and --b"},
           {{"-m", model(), pictures_[0], "--a", "cpu", "--b", "tpu"}, 2, "'tpu' is not cpu"},
           {{"-m", model(), pictures_[0], "--a", "cpu", "--b", "cuda:0:fp16:x"}, 2, "is not cpu"},
           {{"-m", model(), "none.jpg", "--a", "cpu", "--b", "cpu"}, 4, "none.jpg"}}) {
    std::vector<std::string> command = {"parity"};
    command.insert(command.end(), words.begin(), words.end());
    const auto result = run(command);
    EXPECT_EQ(result.code, code) << message << "\n" << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
  }
}

}  // namespace
}  // namespace rfseg
