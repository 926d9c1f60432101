// What is left, and told, of a run that the user ends.

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/http_server.h"
#include "cli/program.h"

namespace rfseg {
namespace {

using testing::json_lines;
using testing::read_text;
using testing::write_text;

class InterruptTest : public testing::ProgramTest {};

TEST_F(InterruptTest, OutputsAreWholeAndTheCodeIs130) {
  const auto result = run({"predict", "-m", model(), demo("clip.mp4"), demo("clip.mp4"), "-o",
                           "r.jsonl", "--report", "r.html", "--stats", "s.json"},
                          "", "timeout --preserve-status -s INT 4");
  EXPECT_EQ(result.code, 130) << result.err;
  const auto lines = json_lines(read_text(path("r.jsonl")));
  EXPECT_GE(lines.size(), 1u);
  EXPECT_LT(lines.size(), 500u);
  EXPECT_EQ(files(), (std::vector<std::string>{"r.html", "r.jsonl", "s.json"}));
  const std::string told = "interrupted after " + std::to_string(lines.size());
  EXPECT_NE(result.err.find("warning: " + told), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(": r.jsonl and r.html hold no more than these"), std::string::npos)
      << result.err;
  EXPECT_NE(result.err.find("rfseg: stopping when what is under way is done; asked again, at once"),
            std::string::npos)
      << result.err;
  EXPECT_NE(read_text(path("r.html")).find("This is not all: " + told), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(read_text(path("s.json")))["interrupted"], true);
}

TEST_F(InterruptTest, TellsOfHowManyPictures) {
  std::string list;
  for (int i = 0; i < 1000; ++i) list += pictures_[0] + "\n";
  write_text(path("list"), list);
  const auto result = run({"predict", "-m", model(), "-", "-o", "r.jsonl"}, "< list",
                          "timeout --preserve-status -s TERM 4");
  EXPECT_EQ(result.code, 130) << result.err;
  const std::size_t done = json_lines(read_text(path("r.jsonl"))).size();
  EXPECT_GE(done, 1u);
  EXPECT_NE(result.err.find("interrupted after " + std::to_string(done) +
                            " of 1000 frames: r.jsonl holds no more than these"),
            std::string::npos)
      << result.err;
}

// The server takes its time, and nothing is done when the interrupt comes.
TEST_F(InterruptTest, BeforeTheFirstPictureAnEarlierResultStays) {
  std::atomic<bool> stop{false};
  test::HttpServer server([&](const test::Exchange&) {
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  write_text(path("r.jsonl"), "earlier");
  const auto result = run({"predict", "-m", model(), server.url("a/photo.jpg"), "-o", "r.jsonl"},
                          "", "timeout --preserve-status -k 20 -s INT 3");
  stop = true;
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_NE(result.err.find("interrupted before the first frame"), std::string::npos) << result.err;
  EXPECT_EQ(read_text(path("r.jsonl")), "earlier");
  EXPECT_EQ(files(), (std::vector<std::string>{"r.jsonl"}));
}

// As under nohup, and in the background of a script.
TEST_F(InterruptTest, SignalsThatTheCallerIgnoresEndNothing) {
  const std::string picture = read_text(pictures_[0]);
  test::HttpServer server([&](const test::Exchange& exchange) {
    std::this_thread::sleep_for(std::chrono::seconds(3));
    exchange.answer(picture);
  });
  for (const char* number : {"HUP", "INT", "TERM"}) {
    const auto result =
        run({"predict", "-m", model(), server.url("a/photo.jpg"), "-o", "r.jsonl"}, "",
            std::string("timeout --preserve-status -k 20 -s ") + number + " 2 sh -c 'trap \"\" " +
                number + "; exec \"$0\" \"$@\"'");
    EXPECT_EQ(result.code, 0) << number << ": " << result.err;
    EXPECT_EQ(json_lines(read_text(path("r.jsonl"))).size(), 1u) << number;
    std::filesystem::remove(path("r.jsonl"));
  }
}

}  // namespace
}  // namespace rfseg
