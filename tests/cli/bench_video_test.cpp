#include "cli/program.h"

namespace rfseg {
namespace {

using testing::ProgramTest;

class BenchVideoTest : public ProgramTest {
 protected:
  static std::string clip() { return RFSEG_SOURCE_DIR "/tests/media/video/large_h264.mp4"; }
};

// A size that the clip has, and one that is made of it.
TEST_F(BenchVideoTest, TellsEveryWayToRunAtEverySize) {
  const auto result = run({"bench", "-q", "-m", model(), "--device", "cpu", "--video", clip(),
                           "--video-sizes", "200x150,64x48", "--video-frames", "20", "--rounds",
                           "1", "--json", "--stats", "s.json"});
  ASSERT_EQ(result.code, 0) << result.err;
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
    EXPECT_EQ(names, (std::vector<std::string>{"decoding alone, CPU",
                                               "from the file, CPU decoder, depth 1",
                                               "from the file, CPU decoder, depth 2"}));
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
  for (const auto& result : {bad_size, no_clip}) EXPECT_EQ(result.out, "");
}

}  // namespace
}  // namespace rfseg
