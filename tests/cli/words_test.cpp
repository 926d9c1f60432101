// What the words of a command line may mean, and what is said about those that mean nothing.

#include <sys/stat.h>

#include <filesystem>

#include "checkpoint/http_server.h"
#include "cli/program.h"

namespace rfseg {
namespace {

using testing::json_lines;
using testing::quoted;
using testing::read_text;
using testing::RunResult;

class WordsTest : public testing::ProgramTest {
 protected:
  void expect_usage_error(const RunResult& result, const std::vector<std::string>& parts) {
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    for (const std::string& part : parts)
      EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "lacks: " << part;
    EXPECT_TRUE(files().empty());
  }
};

TEST_F(WordsTest, UnknownWordsAreNamedWithTheNearestKnownOne) {
  expect_usage_error(run({"predct", "a.jpg"}),
                     {"'predct' is no verb", "did you mean predict?", "postprocess", "eval"});
  expect_usage_error(run({"foo"}), {"'foo' is no verb", "predict", "rfseg --help"});
  expect_usage_error(
      run({"predict", "--modle", "x"}),
      {"--modle: predict has no such option; did you mean --model?", "rfseg predict --help"});
  expect_usage_error(run({"predict", "-m", model(), pictures_[0], "--treshold=0.4"}),
                     {"--treshold: ", "did you mean --threshold?"});
  expect_usage_error(run({"eval", "--xyzzy"}), {"--xyzzy: eval has no such option\n"});
  expect_usage_error(run({"info", model(), "more"}), {"'more': info takes no further argument"});
  expect_usage_error(run({"--vresion"}), {"--vresion: rfseg has no", "did you mean --version?"});
  expect_usage_error(run({"predict", "a.jpg"}), {"--model"});
}

TEST_F(WordsTest, AnOptionIsNoValueOfTheOneBeforeIt) {
  for (const char* option : {"--overlay", "--report", "-o"}) {
    expect_usage_error(run({"predict", "-m", model(), pictures_[0], option, "--masks", "none"}),
                       {"'--masks' is an option, so the value is missing"});
    expect_usage_error(run({"predict", "-m", model(), pictures_[0], option, "--quiet"}),
                       {"'--quiet' is an option, so the value is missing"});
  }
  expect_usage_error(run({"predict", "-m", "--masks", "none", pictures_[0]}),
                     {"--model: '--masks' is an option"});
}

TEST_F(WordsTest, ValuesAreNamedWithTheNearestKnownOne) {
  const auto expect = [&](const std::vector<std::string>& words, int code, const char* part) {
    const RunResult result = run(words, "", "RF_HOME=" + folder_.string());
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "lacks: " << part;
  };
  expect({"info", "seg-nan"}, 3, "seg-nan: no such file, and no variant; did you mean seg-nano?");
  expect({"info", "somewhere.pth"}, 3, "somewhere.pth: cannot open");
  expect({"info", "./seg-nan"}, 3, "./seg-nan: cannot open");
  expect({"download", "seg-smal"}, 2, "'seg-smal'; did you mean seg-small?; accepted");
  const std::vector<std::string> predict = {"predict", "-m", model(), pictures_[0]};
  for (const char* option : {"--keep", "--drop", "--class-threshold"}) {
    std::vector<std::string> words = predict;
    words.insert(words.end(), {option, option[2] == 'c' ? "persn=0.5" : "persn"});
    expect(words, 2, "no class 'persn'; did you mean person?; it has: person, bicycle");
  }
}

TEST_F(WordsTest, OptionsWithoutEffectAreRefused) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"predict", "-m", "m", "x.jpg", "--report-title", "T"}, "--report-title: needs --report"},
      {{"predict", "-m", "m", "x.jpg", "--report-notice", "T"}, "--report-notice: needs --report"},
      {{"capture", "-m", "m", "x.jpg", "-o", "o", "--weaker", "3"}, "--weaker: needs --survivors"},
      {{"capture", "-m", "m", "x.jpg", "-o", "o", "--stage", "preprocess", "--half"}, "--half: "},
      {{"bench", "-m", "m", "--depth", "3"}, "--depth: needs --video"},
      {{"bench", "-m", "m", "--video-streams", "3"}, "--video-streams: needs --video"},
      {{"bench", "-m", "m", "--kernels", "--rounds", "3"}, "--rounds and --kernels: only one"},
      {{"bench", "-m", "m", "--image", "x.jpg", "--image-size", "8"},
       "--image-size and --image: only one"},
      {{"ablate", "folder", "--queries", "100"}, "--queries: says how scenes are generated"},
      {{"ablate", "--max-cases", "2"}, "--max-cases: needs folders"},
      {{"replay", "folder", "--stage", "postprocess", "--max-tensor", "1"}, "--max-tensor: "},
      {{"replay", "folder", "--stage", "preprocess", "--max-score", "1"}, "--max-score: "},
      {{"parity", "-m", "m", "x.jpg", "--a", "cpu", "--b", "cpu", "--image-root", "."},
       "--image-root: needs an instances"},
      {{"info", "--shape", "300"}, "--shape: needs a MODEL"}};
  for (const auto& [words, message] : cases) expect_usage_error(run(words), {message});
}

TEST_F(WordsTest, OptionsForVideosWithoutAVideoAreTold) {
  const std::vector<std::string> predict = {"predict", "-m", model(), "--masks", "none"};
  for (const char* option : {"--every", "--end", "--streams"}) {
    std::vector<std::string> words = predict;
    words.insert(words.end(), {pictures_[0], option, "2"});
    const RunResult result = run(words);
    EXPECT_EQ(result.code, 0);
    EXPECT_NE(result.err.find(std::string(option) + ": without effect, as no input is a video"),
              std::string::npos)
        << result.err;
  }
  std::vector<std::string> words = predict;
  words.insert(words.end(), {pictures_[0], demo("clip.mp4"), "--end", "0.05"});
  const RunResult result = run(words);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err.find("without effect"), std::string::npos) << result.err;
}

TEST_F(WordsTest, DashIsStandardOutputOrRefusedAndNeverAFile) {
  const auto tensor = run({"preprocess", pictures_[0], "--size", "24", "-o", "-"});
  EXPECT_EQ(tensor.code, 0) << tensor.err;
  EXPECT_EQ(tensor.out.substr(1, 5), "NUMPY");
  EXPECT_EQ(tensor.out.size(), 128u + 3 * 24 * 24 * 4);
  const auto weights = run({"convert", model(), "-", "--dtype", "f16"});
  EXPECT_EQ(weights.code, 0) << weights.err;
  EXPECT_GT(weights.out.size(), 1000000u);
  EXPECT_TRUE(files().empty());

  const std::vector<std::string> predict = {"predict", "-m", model(), pictures_[0]};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), predict.begin(), predict.end());
    return run(more);
  };
  expect_usage_error(with({"--stats", "-"}), {"-o and --stats", "standard output"});
  expect_usage_error(with({"--report", "-"}), {"-o and --report", "standard output"});
  expect_usage_error(with({"--overlay", "-"}), {"--overlay -", "a folder"});
  expect_usage_error(with({"--format", "coco", "-o", "-"}), {"--format coco"});
  expect_usage_error(with({"--masks", "dense", "-o", "/dev/stdout"}), {"--masks dense"});
  expect_usage_error(run({"forward", "-m", model(), "--input", "x.npy", "-o", "-"}),
                     {"-o -", "a folder"});
  expect_usage_error(run({"download", "seg-nano", "-o", "-"}), {"-o -", "a file"});
  expect_usage_error(run({"bench", "-m", model(), "--stats", "-"}), {"--stats", "standard output"});

  const auto stats = with({"-o", "r.jsonl", "--stats", "-"});
  EXPECT_EQ(stats.code, 0) << stats.err;
  EXPECT_EQ(nlohmann::json::parse(stats.out)["counts"]["frames"], 1);
  const auto report = with({"-o", "r.jsonl", "--report", "-"});
  EXPECT_EQ(report.code, 0) << report.err;
  EXPECT_EQ(report.out.substr(0, 15), "<!DOCTYPE html>");
  EXPECT_EQ(files(), (std::vector<std::string>{"r.jsonl"}));
  EXPECT_EQ(json_lines(with({"-o", "-"}).out).size(), 1u);
  EXPECT_EQ(json_lines(with({"-o", "/dev/stdout"}).out).size(), 1u);
  EXPECT_EQ(files(), (std::vector<std::string>{"r.jsonl"}));
}

// As from "$OUT" where OUT is not set.
TEST_F(WordsTest, EmptyWordsAreNoNames) {
  const std::vector<std::string> predict = {"predict", "-m", model(), pictures_[0]};
  for (const char* option :
       {"-o", "--overlay", "--report", "--stats", "--threshold", "--classes"}) {
    std::vector<std::string> words = predict;
    words.insert(words.end(), {option, ""});
    expect_usage_error(run(words), {"empty", option});
  }
  expect_usage_error(run({"predict", "-m", model(), ""}), {"inputs", "empty"});
  expect_usage_error(run({"info", ""}), {"model", "empty"});
  EXPECT_EQ(run({"predict", "-m", model(), pictures_[0], "--report-title", ""}).code, 0);
}

TEST_F(WordsTest, MissingAndRepeatedValues) {
  expect_usage_error(run({"predict", "-m", model(), pictures_[0], "--stats"}),
                     {"--stats: needs a value"});
  expect_usage_error(
      run({"predict", "-m", model(), pictures_[0], "-o", "a.jsonl", "-o", "b.jsonl"}),
      {"--output: given twice"});
}

TEST_F(WordsTest, WhatCannotBePrintedIsSix) {
  for (const char* words : {"--version", "--help", "info", "completion"}) {
    std::vector<std::string> command = {words};
    if (command[0] == "completion") command.push_back("bash");
    EXPECT_EQ(run(command, ">/dev/full").code, 6) << words;
  }
}

TEST_F(WordsTest, WhatFollowsTwoDashesIsAFile) {
  std::filesystem::copy(pictures_[0], folder_ / "-a.jpg");
  std::filesystem::copy(pictures_[1], folder_ / "b.jpg");
  const auto result = run({"predict", "-m", model(), "b.jpg", "--masks", "none", "--", "-a.jpg"});
  EXPECT_EQ(result.code, 0) << result.err;
  const auto lines = json_lines(result.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["file"], "./-a.jpg");
}

// The files are not there: exit code 4 where the word was taken.
TEST_F(WordsTest, EveryVerbParsesDevicesAlike) {
  const std::vector<std::vector<std::string>> verbs = {
      {"postprocess", "--boxes", "b.npy", "--logits", "l.npy", "--image-size", "8"},
      {"preprocess", "none.jpg", "--size", "24", "-o", "x.npy"},
      {"replay", "none"},
      {"predict", "-m", model(), "none.jpg"},
      {"info"}};
  for (const std::vector<std::string>& verb : verbs) {
    const int accepted = verb[0] == "info" ? 0 : 4;
    const auto with = [&](const std::string& device, const std::string& before = "") {
      std::vector<std::string> words = verb;
      words.insert(words.end(), {"--device", device});
      return run(words, "", before);
    };
    for (const char* word : {"tpu", "gpu", "CPU", "cuda:", "cuda:x", "cuda0", "cuda:-1"}) {
      expect_usage_error(with(word), {"--device " + std::string(word)});
    }
    EXPECT_EQ(with("cpu").code, accepted) << verb[0];
    EXPECT_EQ(with("auto").code, accepted) << verb[0];
    EXPECT_EQ(with("cuda:9999").code, 5) << verb[0];
    expect_usage_error(with("auto", "RFSEG_BACKEND=quick"), {"RFSEG_BACKEND is 'quick'"});
    expect_usage_error(with("cpu", "RFSEG_BACKEND=cuda"), {"--device cpu", "'cuda'"});
    expect_usage_error(with("cuda:9999", "RFSEG_BACKEND=reference"), {"'reference'"});
    EXPECT_EQ(with("auto", "RFSEG_BACKEND=reference").code, accepted) << verb[0];
    EXPECT_EQ(with("cpu", "RFSEG_BACKEND=").code, accepted) << verb[0];
  }
  expect_usage_error(run({"postprocess", "--boxes", "b.npy", "--logits", "l.npy", "--image-size",
                          "8", "--precision", "fp16"}),
                     {"--precision fp16", "fp32 only"});
}

TEST_F(WordsTest, AFormatThatContradictsTheNameIsRefused) {
  const auto with = [&](const std::string& format, const std::string& output) {
    return run({"predict", "-m", model(), pictures_[0], "--format", format, "-o", output});
  };
  expect_usage_error(with("jsonl", "x.json"), {"--format jsonl and -o x.json", ".jsonl"});
  expect_usage_error(with("coco", "x.jsonl"), {"--format coco and -o x.jsonl", ".json"});
  expect_usage_error(run({"postprocess", "--boxes", "b.npy", "--logits", "l.npy", "--image-size",
                          "8", "-o", "x.json"}),
                     {"-o x.json", ".jsonl"});
  EXPECT_EQ(with("jsonl", "x.txt").code, 0);
  EXPECT_EQ(json_lines(read_text(path("x.txt"))).size(), 1u);
  EXPECT_EQ(with("coco", "x.json").code, 0);
  EXPECT_TRUE(nlohmann::json::parse(read_text(path("x.json"))).is_array());
}

TEST_F(WordsTest, APipeAsInputIsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo(path("p.jpg").c_str(), 0600), 0);
  const auto result = run({"predict", "-m", model(), "p.jpg", pictures_[0]}, "", "timeout 60");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_NE(result.err.find("p.jpg: is a pipe"), std::string::npos) << result.err;
  EXPECT_EQ(json_lines(result.out).size(), 1u);
  EXPECT_EQ(run({"predict", "-m", model(), "p.jpg"}, "", "timeout 60").code, 4);
}

// Most are caught while they wait for the other end of a pipe.
TEST_F(WordsTest, AnInterruptEndsEveryVerbWith130AndNoFile) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  const std::vector<std::vector<std::string>> commands = {
      {"convert", model(), "pipe"},
      {"preprocess", "pipe", "--size", "24", "-o", "out.npy"},
      {"forward", "-m", model(), "--input", "pipe", "-o", "out"},
      {"postprocess", "--boxes", "b.npy", "--logits", "pipe", "--image-size", "8", "-o",
       "out.jsonl"},
      {"eval", "--gt", "pipe", "--results", "pipe"},
      {"bench", "-m", model(), "--image", "pipe"},
      {"bench", "-m", model(), "--rounds", "100000"},
      {"predict", "-m", model(), pictures_[0], "--classes", "pipe", "-o", "out.jsonl"},
  };
  for (const auto& command : commands) {
    const auto result = run(command, "", "timeout --preserve-status -k 20 -s INT 0.5");
    EXPECT_EQ(result.code, 130) << command[0] << ": " << result.err;
    EXPECT_EQ(result.out, "") << command[0];
    EXPECT_TRUE(files().empty()) << command[0];
  }
}

TEST_F(WordsTest, PicturesComeOverHttp) {
  test::HttpServer server([&](const test::Exchange& exchange) {
    if (exchange.path().starts_with("/a/photo.jpg")) {
      exchange.answer(read_text(pictures_[0]));
    } else if (exchange.path() == "/page.png") {
      exchange.answer("<html>not a picture</html>");
    } else {
      exchange.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
  });
  const std::string url = server.url("a/photo.jpg?key=1");
  const auto result = run({"predict", "-m", model(), url, server.url("page.png"),
                           server.url("none.jpg"), "--overlay", "o"},
                          "", "no_proxy=127.0.0.1");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_NE(result.err.find("page.png: not a picture"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("none.jpg: "), std::string::npos) << result.err;
  const auto lines = json_lines(result.out);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["file"], url);
  EXPECT_FALSE(lines[0].contains("frame"));
  EXPECT_EQ(files(), (std::vector<std::string>{"o/photo.jpg"}));
  const auto local = json_lines(run({"predict", "-m", model(), pictures_[0]}).out);
  EXPECT_EQ(lines[0]["detections"], local[0]["detections"]);
}

}  // namespace
}  // namespace rfseg
