#include <sys/stat.h>

#include <cmath>
#include <limits>

#include "cli/program.h"
#include "core/npy.h"

namespace rfseg {
namespace {

using nlohmann::json;
using testing::read_text;
using testing::write_text;

class CasesTest : public testing::ProgramTest {
 protected:
  static std::vector<std::string> bundled() {
    std::vector<std::string> folders;
    for (const auto& entry :
         std::filesystem::directory_iterator(RFSEG_SOURCE_DIR "/assets/cases")) {
      folders.push_back(entry.path().string());
    }
    std::sort(folders.begin(), folders.end());
    return folders;
  }
  testing::RunResult replay(std::vector<std::string> words) {
    words.insert(words.begin(), "replay");
    words.insert(words.end(), {"--json", "--repeats", "2", "--warmup", "1"});
    return run(words);
  }
  // A copy of a bundled folder that may be spoilt.
  std::string copy(const std::string& name) {
    std::filesystem::copy(RFSEG_SOURCE_DIR "/assets/cases/" + name, path(name),
                          std::filesystem::copy_options::recursive);
    return path(name);
  }
};

TEST_F(CasesTest, BundledCasesReplayOnEveryBackendOfTheCpu) {
  for (const char* backend : {"reference", "cpu"}) {
    std::vector<std::string> words = bundled();
    ASSERT_EQ(words.size(), 5u);
    words.insert(words.end(), {"--backend", backend});
    const auto result = replay(words);
    ASSERT_EQ(result.code, 0) << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(report["backend"], backend);
    EXPECT_EQ(report["cases"], 6);
    EXPECT_EQ(report["passed"], true);
    ASSERT_EQ(report["stages"].size(), 2u);
    for (const json& stage : report["stages"]) {
      EXPECT_EQ(stage["cases"], 3);
      EXPECT_EQ(stage["calls"], 6);
      for (const char* key : {"mean_ms", "p50_ms", "p90_ms", "p99_ms", "min_ms", "max_ms"}) {
        EXPECT_GT(stage[key].get<double>(), 0) << key;
      }
      EXPECT_LE(stage["min_ms"], stage["p50_ms"]);
      EXPECT_LE(stage["p50_ms"], stage["p90_ms"]);
      EXPECT_LE(stage["p90_ms"], stage["max_ms"]);
    }
  }
}

TEST_F(CasesTest, OnAGpuTheAnswersAreTheSameOrThereIsNone) {
  std::vector<std::string> words = bundled();
  words.insert(words.end(), {"--backend", "cuda"});
  const auto result = replay(words);
  if (result.code == 0) {
    EXPECT_EQ(json::parse(result.out)["passed"], true);
  } else {
    EXPECT_EQ(result.code, 5) << result.err;
    EXPECT_EQ(result.out, "");
  }
}

TEST_F(CasesTest, WrongAnswersGetNoTimes) {
  const std::string folder = copy("rfdetr");
  const json manifest = json::parse(read_text(folder + "/manifest.json"));
  ASSERT_FALSE(manifest["cases"][1]["expected"].empty());
  const auto spoil = [&](const char* key, const json& value) {
    json changed = manifest;
    changed["cases"][1]["expected"][0][key] = value;
    write_text(folder + "/manifest.json", changed.dump());
    return replay({folder});
  };
  const json& expected = manifest["cases"][1]["expected"][0];
  json box = expected["box_xyxy"];
  box[2] = box[2].get<double>() + 0.25;
  const int next_class = expected["class_id"].get<int>() + 1;
  const double score = std::nextafter(expected["score"].get<float>(), 0.f);
  for (const auto& [key, value, message] : std::vector<std::tuple<const char*, json, const char*>>{
           {"class_id", next_class, "detection 0: class"},
           {"query", 99, "detection 0: query"},
           {"score", score, "detection 0: score"},
           {"box_xyxy", box, "detection 0: box_xyxy[2]"},
           {"counts", manifest["cases"][1]["expected"][1]["counts"], "run lengths differ"}}) {
    const auto result = spoil(key, value);
    EXPECT_EQ(result.code, 1) << key;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("0001-postprocess"), std::string::npos) << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(report["passed"], false);
    EXPECT_EQ(report["mismatches"].size(), 1u);
    EXPECT_FALSE(report.contains("stages")) << "a speed of wrong answers";
  }
  // Within a stated tolerance the box is right.
  json changed = manifest;
  changed["cases"][1]["expected"][0]["box_xyxy"] = box;
  write_text(folder + "/manifest.json", changed.dump());
  EXPECT_EQ(replay({folder, "--max-box-px", "0.25"}).code, 0);
  EXPECT_EQ(replay({folder, "--max-box-px", "0.2"}).code, 1);
  const auto table = run({"replay", folder});
  EXPECT_EQ(table.code, 1);
  EXPECT_EQ(table.out.find("mean ms"), std::string::npos) << table.out;
}

TEST_F(CasesTest, TensorsMustBeTheSameBits) {
  const std::string folder = copy("resize_pil");
  const std::string name = folder + "/0000-preprocess.tensor.npy";
  Tensor tensor = read_npy(name);
  const float right = tensor.data[100];
  tensor.data[100] = std::nextafter(right, 100.f);
  write_npy(name, tensor.data.data(), tensor.shape);
  auto result = replay({folder});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("value 100 of the tensor"), std::string::npos) << result.err;
  EXPECT_EQ(replay({folder, "--max-tensor", "1e-5"}).code, 0);
  tensor.data[100] = std::numeric_limits<float>::quiet_NaN();
  write_npy(name, tensor.data.data(), tensor.shape);
  EXPECT_EQ(replay({folder, "--max-tensor", "1000"}).code, 1) << "NaN equals nothing";
}

TEST_F(CasesTest, CaptureRecordsWhatReplayRuns) {
  auto result = run({"capture", "-m", model(), pictures_[0], pictures_[1], "-o", "new", "--count",
                     "1", "--device", "cpu"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(files(), (std::vector<std::string>{
                         "new/0000-preprocess.pixels.npy", "new/0000-preprocess.tensor.npy",
                         "new/0001-postprocess.boxes.npy", "new/0001-postprocess.logits.npy",
                         "new/0001-postprocess.masks.npy", "new/manifest.json"}));
  EXPECT_EQ(read_npy(path("new/0001-postprocess.masks.npy")).shape, (Shape{100, 78, 78}));
  // What is expected is what the program predicts.
  const json manifest = json::parse(read_text(path("new/manifest.json")));
  const json line = testing::json_lines(
      run({"predict", "-m", model(), pictures_[0], "--device", "cpu"}).out)[0]["detections"];
  const json& expected = manifest["cases"][1]["expected"];
  ASSERT_EQ(expected.size(), line.size());
  for (std::size_t i = 0; i < line.size(); ++i) {
    EXPECT_EQ(expected[i]["class_id"], line[i]["class_id"]);
    EXPECT_EQ(expected[i]["counts"], line[i]["segmentation"]["counts"]);
    EXPECT_EQ(expected[i]["score"].get<float>(), line[i]["score"].get<float>());
  }
  result = replay({"new"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["cases"], 2);
  // Another run does not mix with it.
  result = run({"capture", "-m", model(), pictures_[0], "-o", "new"});
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.err.find("is not empty"), std::string::npos) << result.err;
}

TEST_F(CasesTest, CaptureKeepsNothingThatItDoesNotFinish) {
  // The masks are larger than a file may be here.
  auto result = run({"capture", "-m", model(), pictures_[0], "--stage", "postprocess", "-o", "new",
                     "--device", "cpu"},
                    "", "ulimit -f 500;");
  EXPECT_EQ(result.code, 6) << result.err;
  EXPECT_FALSE(std::filesystem::exists(path("new")));
  std::vector<std::string> words = {"capture", "-m",      model(),      "--device",
                                    "cpu",     "--stage", "preprocess", "--count",
                                    "100000",  "-o",      "given"};
  words.insert(words.end(), 300, demo("clip.mp4"));
  std::filesystem::create_directory(path("given"));
  result = run(words, "", "timeout --preserve-status -s INT 2");
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(std::filesystem::is_empty(path("given")));
  testing::write_text(path("file"), "");
  result = run({"capture", "-m", model(), pictures_[0], "-o", "file/new", "--device", "cpu"});
  EXPECT_EQ(result.code, 6);
  EXPECT_NE(result.err.find("Not a directory"), std::string::npos) << result.err;
}

TEST_F(CasesTest, FramesOfAVideoKeepTheirPixelFormat) {
  auto result = run({"capture", "-m", model(), demo("clip.mp4"), "--stage", "preprocess", "--count",
                     "2", "--every", "3", "-o", "video"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json manifest = json::parse(read_text(path("video/manifest.json")));
  ASSERT_EQ(manifest["cases"].size(), 2u);
  EXPECT_NE(manifest["cases"][0]["picture"]["format"], "rgb8");
  EXPECT_NE(manifest["cases"][0]["frame"], manifest["cases"][1]["frame"]);
  result = replay({"video", "--backend", "cpu"});
  EXPECT_EQ(result.code, 0) << result.err;
}

TEST_F(CasesTest, SaysWhatIsWrongWithAFolder) {
  const std::string folder = copy("inference");
  const std::string good = read_text(folder + "/manifest.json");
  ASSERT_EQ(mkfifo((folder + "/pipe.npy").c_str(), 0600), 0);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    return text;
  };
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "has no 'format'"},
           {replaced("\"version\": 1", "\"version\": 2"), "format version 2 is not known"},
           {replaced("0000-postprocess.boxes.npy", "../boxes.npy"), "file in the folder"},
           {replaced("\"stage\": \"postprocess\"", "\"stage\": \"x\""), "cases[0]: 'stage'"},
           {replaced("\"original_height\": ", "\"original_height\": 99999999"), "original_height"},
           {replaced("0000-postprocess.boxes.npy", "0000-postprocess.logits.npy"), "expected ["},
           {replaced("0000-postprocess.masks.npy", "none.npy"), "none.npy"},
           {replaced("0000-postprocess.masks.npy", "pipe.npy"), "pipe.npy: is no regular file"},
           {std::string("{\"format\": "), "not valid JSON"}}) {
    write_text(folder + "/manifest.json", text);
    const auto result = replay({folder});
    EXPECT_EQ(result.code, 4) << message;
    EXPECT_NE(result.err.find(message), std::string::npos) << message << "\n" << result.err;
  }
  EXPECT_EQ(replay({path("nowhere")}).code, 4);
  EXPECT_EQ(replay({folder, "--backend", "tpu"}).code, 2);
}

}  // namespace
}  // namespace rfseg
