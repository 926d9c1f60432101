#include <algorithm>
#include <map>

#include "cli/program.h"
#include "core/coco_rle.h"
#include "media/loopback_server.h"

namespace rfseg {
namespace {

using nlohmann::json;
using testing::json_lines;
using testing::read_text;
using testing::write_text;

class PredictTest : public testing::ProgramTest {};

TEST_F(PredictTest, JsonLinesOnStdoutAndNothingElse) {
  const auto result = run({"predict", "-m", model(), pictures_[0], pictures_[1]});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto lines = json_lines(result.out);
  ASSERT_EQ(lines.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const json& line = lines[i];
    EXPECT_EQ(line["file"], pictures_[i]);
    EXPECT_FALSE(line.contains("frame"));
    const int width = line["width"], height = line["height"];
    double last = 1;
    for (const json& detection : line["detections"]) {
      const double score = detection["score"];
      EXPECT_GT(score, 0.5);
      EXPECT_LE(score, last);
      last = score;
      EXPECT_FALSE(detection["class_name"].get<std::string>().empty());
      const auto box = detection["box_xyxy"].get<std::vector<double>>();
      ASSERT_EQ(box.size(), 4u);
      EXPECT_GE(box[0], 0);
      EXPECT_LE(box[2], width);
      EXPECT_LE(box[1], box[3]);
      EXPECT_EQ(detection["segmentation"]["size"], json({height, width}));
      const Rle rle =
          rle_from_string(detection["segmentation"]["counts"].get<std::string>(), height, width);
      EXPECT_GT(rle_area(rle), 0u);
    }
  }
  EXPECT_FALSE(lines[0]["detections"].empty() && lines[1]["detections"].empty());
}

// The bundled model in PyTorch (fp32) on the bundled pictures: see data/README in that folder.
TEST_F(PredictTest, BundledPicturesGiveWhatPyTorchGives) {
  const json expected =
      json::parse(read_text(RFSEG_SOURCE_DIR "/tests/pipeline/data/demo_expected.json"));
  const auto result = run({"predict", "-m", model(), demo("images"), "--threshold", "0.28"});
  ASSERT_EQ(result.code, 0) << result.err;
  std::map<std::string, json> found;
  for (const json& line : json_lines(result.out)) {
    found[std::filesystem::path(line["file"].get<std::string>()).filename().string()] = line;
  }
  std::size_t compared = 0;
  for (const json& picture : expected["images"]) {
    const std::string name = picture["file_name"];
    ASSERT_TRUE(found.contains(name)) << name;
    json candidates = found[name]["detections"];
    const int height = found[name]["height"], width = found[name]["width"];
    for (const json& want : picture["detections"]) {
      const Rle mask =
          rle_from_string(want["segmentation"]["counts"].get<std::string>(), height, width);
      double best = -1;
      std::size_t at = 0;
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i]["class_id"] != want["category_id"]) continue;
        if (std::abs(candidates[i]["score"].get<double>() - want["score"].get<double>()) > 1e-3)
          continue;
        const Rle other = rle_from_string(
            candidates[i]["segmentation"]["counts"].get<std::string>(), height, width);
        const double iou = rle_area(mask) + rle_area(other) == 0 ? 1 : rle_iou(other, mask, false);
        if (iou > best) best = iou, at = i;
      }
      ASSERT_GE(best, 0.98) << name << " lacks " << want.dump();
      for (int k = 0; k < 4; ++k) {
        EXPECT_NEAR(candidates[at]["box_xyxy"][k].get<double>(), want["box"][k].get<double>(), 0.1)
            << name;
      }
      candidates.erase(at);
      ++compared;
    }
    for (const json& rest : candidates)
      EXPECT_LT(rest["score"].get<double>(), 0.301) << name << rest.dump();
  }
  EXPECT_GT(compared, 50u);
}

TEST_F(PredictTest, CocoResultsCarryTheIdsOfTheInstancesFile) {
  const auto result = run({"predict", "-m", model(), demo("images"), "-o", "r.json", "--image-ids",
                           demo("instances.json")});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(files(), (std::vector<std::string>{"r.json"}));
  const json results = json::parse(read_text(path("r.json")));
  const json instances = json::parse(read_text(demo("instances.json")));
  std::vector<int64_t> ids;
  for (const json& image : instances["images"]) ids.push_back(image["id"]);
  ASSERT_FALSE(results.empty());
  for (const json& entry : results) {
    EXPECT_NE(std::find(ids.begin(), ids.end(), entry["image_id"].get<int64_t>()), ids.end());
    EXPECT_EQ(entry["bbox"].size(), 4u);
    EXPECT_TRUE(entry["segmentation"]["counts"].is_string());
  }
  const auto eval =
      run({"eval", "--gt", demo("instances.json"), "--results", path("r.json"), "--json"});
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_GT(json::parse(eval.out)["AP50"].get<double>(), 0.5);
}

TEST_F(PredictTest, CocoWithoutIdsCountsAndListsThem) {
  const auto result = run({"predict", "-m", model(), pictures_[2], pictures_[0], "-o", "r.json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(files(), (std::vector<std::string>{"r.json", "r.json.images.json"}));
  const std::string list = read_text(path("r.json.images.json"));
  EXPECT_LT(list.find(std::filesystem::path(pictures_[2]).filename().string()),
            list.find(std::filesystem::path(pictures_[0]).filename().string()));
}

TEST_F(PredictTest, EveryKindOfOutputAtOnce) {
  const auto result = run({"predict", "-m", model(), pictures_[0], "-o", "r.jsonl", "--overlay",
                           "o", "--report", "r.html", "--stats", "s.json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const std::string overlay = "o/" + std::filesystem::path(pictures_[0]).filename().string();
  EXPECT_EQ(files(), (std::vector<std::string>{overlay, "r.html", "r.jsonl", "s.json"}));
  EXPECT_EQ(read_text(path(overlay)).substr(0, 2), "\xff\xd8");
  const json stats = json::parse(read_text(path("s.json")));
  EXPECT_EQ(stats["counts"]["frames"], 1);
  EXPECT_EQ(stats["backend"], "cpu");
  EXPECT_EQ(stats["device"], "cpu");
  std::vector<std::string> stages;
  for (const json& stage : stats["stages"]) {
    stages.push_back(stage["name"]);
    EXPECT_GE(stage["total_ms"].get<double>(), 0);
  }
  EXPECT_EQ(stages, (std::vector<std::string>{"load", "decode", "preprocess", "network",
                                              "postprocess", "output", "encode"}));
  EXPECT_GT(stats["picture_work_ms"].get<double>(), 0);
  EXPECT_LE(stats["picture_work_ms"].get<double>(), stats["stages"][1]["total_ms"].get<double>())
      << "a picture alone is not decoded ahead: all of the work is waited for";
}

TEST_F(PredictTest, EqualNamesGetNumbers) {
  std::filesystem::create_directories(folder_ / "a");
  std::filesystem::create_directories(folder_ / "b");
  std::filesystem::copy(pictures_[0], folder_ / "a/x.jpg");
  std::filesystem::copy(pictures_[1], folder_ / "b/x.jpg");
  const auto result =
      run({"predict", "-q", "-m", model(), "a", "b", "-o", "r.jsonl", "--overlay", "o"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const auto names = files();
  EXPECT_TRUE(std::find(names.begin(), names.end(), "o/x.jpg") != names.end());
  EXPECT_TRUE(std::find(names.begin(), names.end(), "o/x-2.jpg") != names.end());
}

TEST_F(PredictTest, MasksAsPolygonsDenseOrNone) {
  auto result = run({"predict", "-m", model(), pictures_[0], "--masks", "polygon"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json polygon = json_lines(result.out)[0];
  ASSERT_FALSE(polygon["detections"].empty());
  EXPECT_TRUE(polygon["detections"][0]["segmentation"].is_array());
  EXPECT_GE(polygon["detections"][0]["segmentation"][0].size(), 6u);

  result = run({"predict", "-m", model(), pictures_[0], "--masks", "none"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(json_lines(result.out)[0]["detections"][0].contains("segmentation"));

  result = run({"predict", "-m", model(), pictures_[0], "--masks", "dense", "-o", "d.jsonl"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json dense = json_lines(read_text(path("d.jsonl")))[0];
  for (const json& detection : dense["detections"]) {
    const std::string mask = detection["mask_file"];
    EXPECT_EQ(read_text(folder_ / mask).substr(1, 3), "PNG") << mask;
  }
  EXPECT_EQ(files().size(), 1 + dense["detections"].size());
}

TEST_F(PredictTest, VideoFramesCarryNumberAndTime) {
  const auto result = run({"predict", "-m", model(), demo("clip.mp4"), "--every", "5", "--start",
                           "1", "--end", "2", "-o", "v.jsonl", "--overlay", "o"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto lines = json_lines(read_text(path("v.jsonl")));
  ASSERT_EQ(lines.size(), 5u);
  double last = 0.99;
  for (const json& line : lines) {
    EXPECT_EQ(line["frame"].get<int>() % 5, 0);
    EXPECT_GT(line["time_s"].get<double>(), last);
    EXPECT_LT(line["time_s"].get<double>(), 2.0);
    last = line["time_s"];
    EXPECT_GE(line["width"].get<int>(), 1280);
  }
  EXPECT_EQ(read_text(path("o/clip.mp4")).substr(4, 4), "ftyp");
}

TEST_F(PredictTest, SeveralVideosAtOnceGiveWhatEachGivesAlone) {
  std::filesystem::copy_file(demo("clip.mp4"), path("other.mp4"));
  const std::vector<std::string> options = {"-q", "-m", model(), "--every", "25", "--end", "2.5"};
  const auto run_with = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"predict"};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const auto alone = run_with({demo("clip.mp4")});
  ASSERT_EQ(alone.code, 0) << alone.err;
  const auto together = run_with({demo("clip.mp4"), "other.mp4", pictures_[0], "--streams", "3",
                                  "--batch", "2", "--overlay", "o", "--stats", "s.json"});
  ASSERT_EQ(together.code, 0) << together.err;
  std::vector<nlohmann::json> expected = json_lines(alone.out), of_clip, of_other;
  ASSERT_EQ(expected.size(), 3u);
  std::size_t of_picture = 0;
  for (nlohmann::json& line : json_lines(together.out)) {
    const std::string file = line["file"];
    if (file == pictures_[0]) {
      ++of_picture;
      continue;
    }
    std::vector<nlohmann::json>& lines = file == "other.mp4" ? of_other : of_clip;
    line["file"] = expected[0]["file"];
    lines.push_back(line);
  }
  EXPECT_EQ(of_clip, expected);
  EXPECT_EQ(of_other, expected);
  EXPECT_EQ(of_picture, 1u);
  for (const char* name : {"o/clip.mp4", "o/other.mp4"}) {
    EXPECT_EQ(read_text(path(name)).substr(4, 4), "ftyp") << name;
  }
  const auto stats = nlohmann::json::parse(read_text(path("s.json")));
  ASSERT_EQ(stats["streams"].size(), 3u);
  EXPECT_EQ(stats["streams"][1]["input"], "other.mp4");
  EXPECT_EQ(stats["streams"][1]["frames"], 3);
  EXPECT_EQ(stats["counts"]["dropped"], 0);
  EXPECT_EQ(stats["slowest_stage"], "network");
  EXPECT_FALSE(stats["memory"].empty());
}

// The first cannot be read; which name the second gets does not depend on that, nor on which of
// them is quicker.
TEST_F(PredictTest, OverlaysAreNamedInTheOrderOfTheInputs) {
  for (const char* folder : {"a", "b", "c"}) std::filesystem::create_directories(folder_ / folder);
  write_text(path("a/clip.mp4"), "no video");
  std::filesystem::copy_file(demo("clip.mp4"), path("b/clip.mp4"));
  std::filesystem::copy_file(pictures_[0], path("c/clip.jpg"));
  const auto result = run({"predict", "-q", "-m", model(), "a/clip.mp4", "b/clip.mp4", "c/clip.jpg",
                           "--end", "0.05", "--streams", "3", "--overlay", "o", "-o", "r.jsonl"});
  EXPECT_EQ(result.code, 1) << result.err;
  std::vector<std::string> written;
  for (const std::string& name : files()) {
    if (name.starts_with("o/")) written.push_back(name);
  }
  EXPECT_EQ(written, (std::vector<std::string>{"o/clip-2.mp4", "o/clip.jpg"}));
}

// Each open video is a descriptor at least.
TEST_F(PredictTest, OverlaysOfManyVideosAreClosedAsTheseEnd) {
  constexpr int kVideos = 45;
  std::vector<std::string> words = {"predict", "-q",        "-m",        model(),   "--device",
                                    "cpu",     "--every",   "25",        "--end",   "0.5",
                                    "--masks", "none",      "--streams", "2",       "-o",
                                    "r.jsonl", "--overlay", "o",         "--shape", "96"};
  for (int i = 0; i < kVideos; ++i) {
    words.push_back("v" + std::to_string(i) + ".mp4");
    std::filesystem::copy_file(demo("clip.mp4"), path(words.back()));
  }
  const auto result = run(words, "", "ulimit -n 40;");
  ASSERT_EQ(result.code, 0) << result.err;
  for (int i = 0; i < kVideos; ++i) {
    EXPECT_EQ(read_text(path("o/v" + std::to_string(i) + ".mp4")).substr(4, 4), "ftyp") << i;
  }
}

// A camera is not kept waiting until the files before it are done: it is a stream of its own.
TEST_F(PredictTest, LiveInputsAreReadBesideTheFiles) {
  const std::string camera = "tcp://127.0.0.1:1";  // where nobody listens
  const auto result = run({"predict", "-q", "-m", model(), pictures_[0], camera, pictures_[1], "-o",
                           "r.jsonl", "--stats", "s.json"});
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_NE(result.err.find(camera), std::string::npos) << result.err;
  EXPECT_EQ(json_lines(read_text(path("r.jsonl"))).size(), 2u);
  const json streams = json::parse(read_text(path("s.json")))["streams"];
  ASSERT_EQ(streams.size(), 2u);
  EXPECT_EQ(streams[0]["input"], pictures_[0]);
  EXPECT_EQ(streams[0]["frames"], 2);
  EXPECT_EQ(streams[1]["input"], camera);
  EXPECT_EQ(streams[1]["frames"], 1);
}

// Exit code 1, and what it gave is written whole.
TEST_F(PredictTest, ACameraThatIsLostIsAFailedInput) {
  const std::string body = read_text(RFSEG_SOURCE_DIR "/tests/media/video/stream.ts");
  bool first = true;
  Server server([&](int client) {
    if (take_request(client) && first) send_all(client, stream_head("video/mp2t") + body);
    first = false;
  });
  const auto result = run({"predict", "-m", model(), "--device", "cpu", server.url("live.ts"), "-o",
                           "r.jsonl", "--stats", "s.json", "--reconnect", "1"},
                          "", "timeout 60");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_NE(result.err.find("given up after"), std::string::npos) << result.err;
  const auto lines = json_lines(read_text(path("r.jsonl")));
  const auto counts = json::parse(read_text(path("s.json")))["counts"];
  EXPECT_GE(lines.size(), 1u);
  EXPECT_EQ(counts["frames"], lines.size());
  EXPECT_EQ(counts["frames"].get<int>() + counts["dropped"].get<int>(), 20);
  EXPECT_EQ(counts["failed"], 1);
}

TEST_F(PredictTest, StatisticsNameAFileWhoseNameIsNoUtf8) {
  std::filesystem::copy_file(pictures_[0], path("caf\xe9.jpg"));
  const auto result = run({"predict", "-q", "-m", model(), "caf\xe9.jpg", demo("clip.mp4"), "--end",
                           "0.05", "--streams", "2", "-o", "r.jsonl", "--stats", "s.json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json stats = json::parse(read_text(path("s.json")));
  EXPECT_EQ(stats["streams"][0]["input"], "caf\uFFFD.jpg");
  EXPECT_EQ(stats["streams"][0]["frames"], 1);
}

TEST_F(PredictTest, DepthAndBackendChangeNothingThatMatters) {
  const std::vector<std::string> base = {"predict",    "-m",         model(),
                                         pictures_[0], pictures_[1], pictures_[2]};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> words = base;
    words.insert(words.end(), more.begin(), more.end());
    const auto result = run(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  const std::string expected = with({"--depth", "1"});
  EXPECT_EQ(with({"--depth", "1"}), expected) << "the same run twice";
  EXPECT_EQ(with({"--depth", "2"}), expected);
  EXPECT_EQ(with({"--depth", "4"}), expected);
  const auto reference = json_lines(with({"--backend", "reference"}));
  const auto fast = json_lines(expected);
  for (std::size_t i = 0; i < fast.size(); ++i) {
    ASSERT_EQ(fast[i]["detections"].size(), reference[i]["detections"].size());
    for (std::size_t k = 0; k < fast[i]["detections"].size(); ++k) {
      EXPECT_EQ(fast[i]["detections"][k]["class_id"], reference[i]["detections"][k]["class_id"]);
      EXPECT_NEAR(fast[i]["detections"][k]["score"].get<double>(),
                  reference[i]["detections"][k]["score"].get<double>(), 1e-4);
    }
  }
}

TEST_F(PredictTest, SelectionOptions) {
  const auto predict = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"predict", "-m", model()};
    words.insert(words.end(), pictures_.begin(), pictures_.begin() + 6);
    words.insert(words.end(), more.begin(), more.end());
    return json_lines(run(words).out);
  };
  ASSERT_GE(pictures_.size(), 6u);
  const auto all = predict({"--threshold", "0.3"});
  ASSERT_EQ(all.size(), 6u);
  std::map<std::string, int> count;
  for (const json& line : all) {
    for (const json& detection : line["detections"]) ++count[detection["class_name"]];
  }
  const std::string name = count.contains("person") ? "person" : count.begin()->first;
  const auto kept = predict({"--threshold", "0.3", "--keep", name});
  int seen = 0;
  for (const json& line : kept) {
    for (const json& detection : line["detections"]) {
      EXPECT_EQ(detection["class_name"], name);
      ++seen;
    }
  }
  EXPECT_EQ(seen, count[name]);
  for (const json& line : predict({"--max-detections", "1"})) {
    EXPECT_LE(line["detections"].size(), 1u);
  }
}

TEST_F(PredictTest, InferenceConventionGivesIntegerBoxes) {
  const auto result = run({"predict", "-m", model(), pictures_[0], "--like", "inference"});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const json& detection : json_lines(result.out)[0]["detections"]) {
    EXPECT_GT(detection["score"].get<double>(), 0.4);
    for (const json& side : detection["box_xyxy"])
      EXPECT_EQ(side.get<double>(), std::round(side.get<double>()));
  }
}

}  // namespace
}  // namespace rfseg
