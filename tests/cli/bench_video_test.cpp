#include "cli/program.h"
#include "media/loopback_server.h"

namespace rfseg {
namespace {

using testing::ProgramTest;

class BenchVideoTest : public ProgramTest {
 protected:
  static std::string clip() { return RFSEG_SOURCE_DIR "/tests/media/video/large_h264.mp4"; }
};

// A size that the clip has, and one that is made of it.
TEST_F(BenchVideoTest, TellsEveryWayToRunAtEverySize) {
  const auto result = run({"bench",
                           "-q",
                           "-m",
                           model(),
                           "--device",
                           "cpu",
                           "--video",
                           clip(),
                           "--video-sizes",
                           "200x150,64x48",
                           "--video-frames",
                           "20",
                           "--video-streams",
                           "2",
                           "--rounds",
                           "1",
                           "--json",
                           "--stats",
                           "s.json",
                           "--shape",
                           "96"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "") << "progress, where there is no terminal";
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(nlohmann::json::parse(testing::read_text(path("s.json"))), json);
  ASSERT_EQ(json["sizes"].size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto& size = json["sizes"][i];
    EXPECT_EQ(size["width"], i == 0 ? 200 : 64);
    EXPECT_EQ(size["height"], i == 0 ? 150 : 48);
    EXPECT_EQ(size["frames_of_clip"], 12);
    EXPECT_EQ(size["ways_compared"], 1);  // depth 2 against depth 1
    std::vector<std::string> names;
    for (const auto& row : size["rows"]) {
      names.push_back(row["name"]);
      EXPECT_GT(row["frames_per_s"].get<double>(), 0);
      EXPECT_EQ(row["rounds"].size(), 1u);
    }
    EXPECT_EQ(names,
              (std::vector<std::string>{
                  "decoding alone, CPU", "from the file, CPU decoder, depth 1",
                  "from the file, CPU decoder, depth 2", "2 files at once, CPU decoder, depth 2"}));
  }
}

TEST_F(BenchVideoTest, RefusesWhatItCannotMeasure) {
  const auto bench = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"bench", "-q", "-m", model(), "--device", "cpu"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const auto bad_size = bench({"--video", clip(), "--video-sizes", "200by150"});
  EXPECT_EQ(bad_size.code, 2);
  EXPECT_NE(bad_size.err.find("--video-sizes"), std::string::npos) << bad_size.err;
  const auto no_clip = bench({"--video", "none.mp4"});
  EXPECT_EQ(no_clip.code, 4);
  EXPECT_NE(no_clip.err.find("none.mp4"), std::string::npos) << no_clip.err;
  const auto zero = bench({"--video", clip(), "--video-sizes", "64x48,0x9"});
  EXPECT_EQ(zero.code, 2);
  EXPECT_NE(zero.err.find("'0x9' is not WxH"), std::string::npos) << zero.err;
  for (const auto& result : {bad_size, no_clip, zero}) EXPECT_EQ(result.out, "");
  for (const std::vector<std::string>& other :
       std::vector<std::vector<std::string>>{{"--kernels"},
                                             {"--image", clip()},
                                             {"--image-size", "64x64"},
                                             {"--batch", "2"},
                                             {"--warmup", "1"}}) {
    std::vector<std::string> words = other;
    words.insert(words.end(), {"--video", clip()});
    const auto both = bench(words);
    EXPECT_EQ(both.code, 2);
    EXPECT_NE(both.err.find(other.front() + " and --video"), std::string::npos) << both.err;
    EXPECT_EQ(both.out, "");
  }
}

TEST_F(BenchVideoTest, RefusesAStreamThatNeverEnds) {
  const std::string body = testing::read_text(RFSEG_SOURCE_DIR "/tests/media/video/stream.ts");
  Server server([&](int client) {
    if (take_request(client)) send_all(client, stream_head("video/mp2t") + body);
  });
  const auto result = run({"bench", "-q", "-m", model(), "--device", "cpu", "--video",
                           server.url("live.ts"), "--video-sizes", "96x64"},
                          "", "timeout 60");
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_NE(result.err.find("is a live stream"), std::string::npos) << result.err;
}

TEST_F(BenchVideoTest, NeedsAFolderForTemporaryFiles) {
  const auto result = run({"bench", "-q", "-m", model(), "--device", "cpu", "--video", clip()}, "",
                          "TMPDIR=/nonexistent");
  EXPECT_EQ(result.code, 6);
  EXPECT_NE(result.err.find("TMPDIR: '/nonexistent'"), std::string::npos) << result.err;
}

// Before any work: the model is not even looked for.
TEST_F(BenchVideoTest, OpensItsStatisticsFirst) {
  for (const bool video : {false, true}) {
    std::vector<std::string> words = {"bench", "-m", "none.pth", "--stats", "missing/s.json"};
    if (video) words.insert(words.end(), {"--video", clip()});
    const auto result = run(words);
    EXPECT_EQ(result.code, 6) << result.err;
    EXPECT_NE(result.err.find("missing/s.json"), std::string::npos) << result.err;
  }
}

TEST_F(BenchVideoTest, LeavesNothingWhenInterrupted) {
  const auto result = run({"bench", "-q", "-m", model(), "--device", "cpu", "--video", clip(),
                           "--video-sizes", "64x48", "--video-frames", "1000000", "--stats", "s"},
                          "", "TMPDIR=. timeout --preserve-status -s INT 3");
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(BenchVideoTest, SaysOnceThatAClipIsNotWhole) {
  const std::string whole = testing::read_text(RFSEG_SOURCE_DIR "/tests/media/video/plain.mkv");
  testing::write_text(path("part.mkv"), whole.substr(0, whole.size() * 6 / 10));
  const auto result = run({"bench", "-q", "-m", model(), "--device", "cpu", "--video", "part.mkv",
                           "--video-sizes", "96x64", "--video-frames", "20"});
  EXPECT_EQ(result.code, 1) << result.err;
  const std::size_t first = result.err.find("truncated or damaged");
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("truncated or damaged", first + 1), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("nothing is measured"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace rfseg
