// What goes wrong gives one clear line, the right exit code and no half-written file.

#include <algorithm>
#include <limits>

#include "cli/program.h"
#include "core/npy.h"

namespace rfseg {
namespace {

using testing::json_lines;
using testing::read_text;
using testing::RunResult;
using testing::write_text;

class BadInputTest : public testing::ProgramTest {
 protected:
  // The code, one line on stderr that contains `part`, nothing on stdout.
  void expect_failure(const RunResult& result, int code, const std::string& part) {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos)
        << "stderr: " << result.err << "\nexpected: " << part;
    EXPECT_EQ(result.out, "");
  }
};

TEST_F(BadInputTest, BadUsageIsTwo) {
  expect_failure(run({}), 2, "subcommand");
  expect_failure(run({"predict", pictures_[0]}), 2, "--model");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--no-such-option"}), 2,
                 "--no-such-option");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--like", "nobody"}), 2, "nobody");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--threshold", "2"}), 2,
                 "--threshold");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--threshold", "x"}), 2,
                 "--threshold");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--keep", "unicorn"}), 2, "unicorn");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--class-threshold", "cat"}), 2,
                 "NAME=T");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "-o", "r.txt"}), 2, "--format");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--shape", "310x312"}), 2, "310");
  expect_failure(run({"predict", "-m", model()}), 2, "INPUT");
  EXPECT_TRUE(files().empty());
}

TEST_F(BadInputTest, ModelProblemsAreThree) {
  expect_failure(run({"predict", "-m", "none.pth", pictures_[0]}), 3, "none.pth");
  write_text(path("text.pth"), "this is no model");
  expect_failure(run({"predict", "-m", "text.pth", pictures_[0]}), 3, "text.pth");
  const std::string bytes = read_text(model());
  write_text(path("cut.safetensors"), bytes.substr(0, bytes.size() / 2));
  expect_failure(run({"predict", "-m", "cut.safetensors", pictures_[0]}), 3, "cut.safetensors");
  write_text(path("empty.pth"), "");
  expect_failure(run({"info", "empty.pth"}), 3, "empty.pth");
  expect_failure(run({"info", "seg-nano"}, "", "RF_HOME=" + folder_.string()), 3,
                 "rfseg download seg-nano");
}

TEST_F(BadInputTest, CudaIsNeverASilentCpuRun) {
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--device", "cuda"}), 5, "cuda");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--precision", "fp16"}), 5, "fp32");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--device", "tpu"}), 2, "tpu");
}

TEST_F(BadInputTest, OneBadPictureOfThreeIsOneAndTheRestIsWritten) {
  write_text(path("broken.jpg"), "\xff\xd8\xff nothing");
  const auto result = run({"predict", "-m", model(), pictures_[0], "broken.jpg", "missing.jpg",
                           pictures_[1], "-o", "r.jsonl"});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("broken.jpg"), std::string::npos);
  EXPECT_NE(result.err.find("missing.jpg"), std::string::npos);
  const auto lines = json_lines(read_text(path("r.jsonl")));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["file"], pictures_[1]);
}

TEST_F(BadInputTest, NoReadableInputIsFour) {
  write_text(path("zero.png"), "");
  std::filesystem::create_directory(folder_ / "empty");
  expect_failure(run({"predict", "-m", model(), "zero.png", "empty", "none.mp4"}), 4, "zero.png");
  write_text(path("v.mp4"), std::string(5000, 'x'));
  expect_failure(run({"predict", "-m", model(), "v.mp4"}), 4, "v.mp4");
  expect_failure(run({"predict", "-m", model(), "-"}), 4, "empty");
  expect_failure(run({"preprocess", "zero.png", "--size", "312", "-o", "x.npy"}), 4, "zero.png");
  EXPECT_FALSE(std::filesystem::exists(path("x.npy")));
}

TEST_F(BadInputTest, OutputsThatCannotBeWrittenAreSix) {
  expect_failure(run({"predict", "-m", model(), pictures_[0], "-o", "no/folder/r.jsonl"}), 6,
                 "no/folder/r.jsonl");
  expect_failure(run({"predict", "-m", model(), pictures_[0]}, ">/dev/full"), 6, "write");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "-o", "/dev/full"}), 6, "/dev/full");
  write_text(path("file"), "");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--overlay", "file"}), 6, "file");
  expect_failure(
      run({"predict", "-m", model(), pictures_[0], "-o", folder_.string(), "--format", "jsonl"}), 6,
      "directory");
  EXPECT_EQ(files(), (std::vector<std::string>{"file"}));
}

// A model that is not there would be exit code 3: the folder is looked for first.
TEST_F(BadInputTest, AMissingFolderIsNamedBeforeAnyWork) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"predict", "-m", "gone.pth", pictures_[0], "-o", "no/r.jsonl"},
           {"predict", "-m", "gone.pth", pictures_[0], "--stats", "no/s.json"},
           {"predict", "-m", "gone.pth", pictures_[0], "--report", "no/r.html", "--overlay", "out"},
           {"forward", "-m", "gone.pth", "--input", "x.npy", "-o", "out", "--stats", "no/s.json"},
           {"preprocess", "gone.jpg", "--size", "24", "-o", "no/x.npy"},
           {"postprocess", "--boxes", "b.npy", "--logits", "l.npy", "--image-size", "48x64", "-o",
            "no/r.jsonl"},
           {"convert", model(), "no/m.safetensors"},
           {"download", "seg-nano", "-o", "no/m.pth"},
           {"bench", "-m", "gone.pth", "--stats", "no/s.json"}}) {
    expect_failure(run(words), 6, "there is no folder no");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  // --overlay makes its folder, with those above it.
  const auto made = run({"predict", "-m", model(), pictures_[0], "--overlay", "out/new", "-o",
                         "out/r.jsonl", "--report", "out/new/r.html"});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(BadInputTest, AReaderThatHasLeftIsAnOutputErrorWithoutComplaint) {
  for (const char* words :
       {"predict -q -m \"$1\" \"$2\"", "convert \"$1\" -", "info \"$1\" --json", "--version"}) {
    // The shell of std::system has no PIPESTATUS.
    const auto piped =
        run({"--version"}, "; bash -c '\"$0\" " + std::string(words) +
                               " | (exec <&-; sleep 1); exit ${PIPESTATUS[0]}' " +
                               testing::quoted(RFSEG_BINARY_DIR "/rfseg") + " " +
                               testing::quoted(model()) + " " + testing::quoted(demo("images")));
    EXPECT_EQ(piped.code, 6) << words;
    EXPECT_EQ(piped.err, "") << words;
  }
}

TEST_F(BadInputTest, AFolderThatTakesNoFilesIsNamedAsSuch) {
  for (const char* file : {"/proc/r.jsonl", "/proc/version"}) {
    expect_failure(run({"predict", "-m", model(), pictures_[0], "--format", "jsonl", "-o", file}),
                   6, std::string(file) + ": cannot create: the folder /proc takes no files");
  }
}

TEST_F(BadInputTest, NamesAndMapsOfAnotherModelAreRefusedByEveryVerb) {
  write_text(path("two.txt"), "cat\ndog\n");
  const std::vector<std::vector<std::string>> commands = {
      {"predict", "-m", model(), pictures_[0]},
      {"parity", "-m", model(), pictures_[0], "--a", "cpu", "--b", "cpu"},
      {"capture", "-m", model(), pictures_[0], "-o", "cases"},
      {"bench", "-m", model(), "--rounds", "1"}};
  for (std::vector<std::string> words : commands) {
    words.insert(words.end(), {"--classes", "two.txt"});
    expect_failure(run(words), 2, "--classes: 2 names, but the model has 91 classes");
  }
  const std::vector<float> zeros(12);
  write_npy(path("boxes.npy"), zeros.data(), {1, 2, 4});
  write_npy(path("logits.npy"), zeros.data(), {1, 2, 6});
  const std::vector<std::string> postprocess = {"postprocess", "--boxes",    "boxes.npy",
                                                "--logits",    "logits.npy", "--image-size",
                                                "8",           "--classes",  "two.txt"};
  expect_failure(run(postprocess), 2, "--classes: 2 names, but the model has 6 classes");
  expect_failure(run({"postprocess", "--boxes", "boxes.npy", "--logits", "logits.npy",
                      "--image-size", "40000x40000"}),
                 2, "--image-size: '40000x40000' is over the limit of 1073741824 pixels in all");
  for (const auto& [map, code] :
       {std::pair{"[0, 1, 2]", 4}, {"[0, 1, 2, 3, 4, -1]", 0}, {"[0, 1, 2, 3, 4, 5, 6]", 4}}) {
    write_text(path("map.json"), map);
    const auto result = run({"postprocess", "--boxes", "boxes.npy", "--logits", "logits.npy",
                             "--image-size", "8", "--class-map", "map.json"});
    EXPECT_EQ(result.code, code) << map;
    if (code != 0) {
      EXPECT_NE(result.err.find("for 6 logit columns; one for each"), std::string::npos)
          << result.err;
    }
  }
  write_text(path("map.json"), "[0, 1");
  expect_failure(run({"postprocess", "--boxes", "boxes.npy", "--logits", "logits.npy",
                      "--image-size", "8", "--class-map", "map.json"}),
                 4,
                 "map.json: not valid JSON: parse error at line 1, column 6: syntax error while "
                 "parsing array - unexpected end of input; expected ']'");
}

TEST_F(BadInputTest, ConvertWritesNoCheckpointUnderAnothersName) {
  for (const char* name : {"m.pth", "m", "m.safetensors.txt"}) {
    expect_failure(run({"convert", model(), name}), 2, ".safetensors; name the file so");
  }
  EXPECT_TRUE(files().empty());
  EXPECT_EQ(run({"convert", model(), "/dev/null"}).code, 0);
}

TEST_F(BadInputTest, BenchNamesThePictureThatItCannotTakeIn) {
  write_text(path("wide.pgm"), "P5 70000 1 255\n" + std::string(70000, 'x'));
  expect_failure(run({"bench", "-m", model(), "--image", "wide.pgm", "--rounds", "1"}), 4,
                 "wide.pgm: JPEG encoder: 70000x1");
}

TEST_F(BadInputTest, AnOutputOverAnInputIsRefused) {
  std::filesystem::copy(pictures_[0], folder_ / "a.jpg");
  const std::string before = read_text(path("a.jpg"));
  expect_failure(run({"predict", "-m", model(), "a.jpg", "-o", "a.jpg", "--format", "jsonl"}), 2,
                 "overwrite");
  expect_failure(run({"predict", "-m", model(), "a.jpg", "-o", "r.jsonl", "--overlay", "."}), 2,
                 "overwrite");
  expect_failure(run({"preprocess", "a.jpg", "--size", "24", "-o", "a.jpg"}), 2, "overwrite");
  EXPECT_EQ(read_text(path("a.jpg")), before);
  EXPECT_EQ(files(), (std::vector<std::string>{"a.jpg"}));
}

TEST_F(BadInputTest, ForwardChecksShapes) {
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "24", "-o", "small.npy"}).code, 0);
  expect_failure(run({"forward", "-m", model(), "--input", "small.npy", "-o", "out"}), 4,
                 "expected [B, 3, 312, 312]");
  write_text(path("bad.npy"), "no npy");
  expect_failure(run({"forward", "-m", model(), "--input", "bad.npy", "-o", "out"}), 4, "bad.npy");
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "312", "-o", "x.npy"}).code, 0);
  expect_failure(
      run({"forward", "-m", model(), "--input", "x.npy", "-o", "out", "--topk", "x.npy"}), 4,
      "x.npy");
  std::vector<int32_t> cells(100, 5);
  cells[7] = 676;
  write_npy(path("cells.npy"), cells.data(), {1, 100});
  expect_failure(
      run({"forward", "-m", model(), "--input", "x.npy", "-o", "out", "--topk", "cells.npy"}), 4,
      "cells.npy: forced top-k: index 7 of image 0 is 676; accepted is 0 to 675");
  std::vector<float> pixels(3 * 312 * 312);
  pixels[1000] = std::numeric_limits<float>::quiet_NaN();
  write_npy(path("nan.npy"), pixels.data(), {1, 3, 312, 312});
  expect_failure(run({"forward", "-m", model(), "--input", "nan.npy", "-o", "out"}), 4,
                 "nan.npy: value 1000 is nan; finite ones are accepted");
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(BadInputTest, BadJsonFilesAreNamed) {
  write_text(path("bad.json"), "{\"images\": [");
  expect_failure(run({"eval", "--gt", "bad.json", "--results", "bad.json"}), 4, "bad.json");
  expect_failure(
      run({"predict", "-m", model(), pictures_[0], "-o", "r.json", "--image-ids", "bad.json"}), 4,
      "bad.json");
  write_text(path("classes.txt"), "");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--classes", "classes.txt"}), 4,
                 "classes.txt");
  EXPECT_FALSE(std::filesystem::exists(path("r.json")));
}

TEST_F(BadInputTest, DownloadsThatFailLeaveNothing) {
  expect_failure(run({"download", "seg-tiny"}), 2, "seg-nano");
  const auto result = run({"download", "xlarge"}, "",
                          "RF_HOME=" + path("cache") + " RFSEG_WEIGHTS_URL=http://127.0.0.1:9/");
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_NE(result.err.find("127.0.0.1:9"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("PML-1.0"), std::string::npos) << result.err;
  for (const std::string& file : files())
    EXPECT_EQ(file.find("xxlarge.pth"), std::string::npos) << file;
}

TEST_F(BadInputTest, ClosedStreamsDoNotEndUpInOtherFiles) {
  const auto no_stdout = run({"predict", "-m", model(), pictures_[0], "--report", "r.html"}, ">&-");
  EXPECT_EQ(no_stdout.code, 6) << no_stdout.err;
  EXPECT_TRUE(files().empty());
  const auto no_stderr =
      run({"predict", "-m", model(), pictures_[0], "none.jpg", "-o", "r.jsonl"}, "2>&-");
  EXPECT_EQ(no_stderr.code, 1);
  EXPECT_EQ(json_lines(read_text(path("r.jsonl"))).size(), 1u);
}

TEST_F(BadInputTest, OutputsDoNotDestroyEachOtherOrWhatOptionsRead) {
  expect_failure(
      run({"predict", "-m", model(), pictures_[0], "-o", "s.json", "--stats", "./s.json"}), 2,
      "both would write");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "-o", "s.json", "--report",
                      "s.json.images.json"}),
                 2, "both would write");
  write_text(path("ids.json"), R"({"images": [{"id": 1, "file_name": "x.jpg"}]})");
  expect_failure(
      run({"predict", "-m", model(), pictures_[0], "-o", "ids.json", "--image-ids", "ids.json"}), 2,
      "overwrite");
  std::string names;
  for (int i = 0; i < 91; ++i) names += "name" + std::to_string(i) + "\n";
  write_text(path("c.jsonl"), names);
  expect_failure(
      run({"predict", "-m", model(), pictures_[0], "-o", "c.jsonl", "--classes", "c.jsonl"}), 2,
      "overwrite");
  EXPECT_EQ(files(), (std::vector<std::string>{"c.jsonl", "ids.json"}));
}

TEST_F(BadInputTest, ValuesThatWouldMeanSomethingElse) {
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--threshold", "zero"}), 2,
                 "a number from 0 to 1");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--class-threshold", "cat=1e50"}), 2,
                 "cat=1e50");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--class-threshold", "cat=0.5",
                      "--class-threshold", "cat=0.9"}),
                 2, "--class-threshold: 'cat' is given twice");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--keep", ""}), 2, "--keep");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--masks", "bla"}), 2,
                 "one of rle, polygon, dense, none");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--every", "0"}), 2,
                 "--every: '0' is not a whole number");
  write_text(path("two.txt"), "cat\ndog\n");
  expect_failure(run({"predict", "-m", model(), pictures_[0], "--classes", "two.txt"}), 2,
                 "91 classes");
  // A repeatable option takes one value: what follows is an input.
  EXPECT_EQ(run({"predict", "-m", model(), "--keep", "person", pictures_[0]}).code, 0);
}

TEST_F(BadInputTest, APictureWithoutAnImageIdFailsAlone) {
  const std::string name = std::filesystem::path(pictures_[0]).filename().string();
  write_text(path("ids.json"), R"({"images": [{"id": 7, "file_name": ")" + name + R"("}]})");
  const auto result = run({"predict", "-m", model(), pictures_[1], pictures_[0], "-o", "r.json",
                           "--image-ids", "ids.json"});
  EXPECT_EQ(result.code, 1) << result.err;
  for (const auto& entry : nlohmann::json::parse(read_text(path("r.json"))))
    EXPECT_EQ(entry["image_id"], 7);
}

// Also where the ids have its name.
TEST_F(BadInputTest, AVideoBesideImageIdsFailsOnce) {
  const std::string name = std::filesystem::path(pictures_[0]).filename().string();
  write_text(path("ids.json"), R"({"images": [{"id": 7, "file_name": ")" + name +
                                   R"("}, {"id": 8, "file_name": "clip.mp4"}]})");
  const auto result = run({"predict", "-m", model(), demo("clip.mp4"), pictures_[0], "-o", "r.json",
                           "--image-ids", "ids.json", "--every", "50", "--stats", "s.json"});
  EXPECT_EQ(result.code, 1) << result.err;
  const std::string told = "clip.mp4: --image-ids names pictures";
  const std::size_t first = result.err.find(told);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("clip.mp4", first + 1), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("1 input(s) failed"), std::string::npos) << result.err;
  const auto counts = nlohmann::json::parse(read_text(path("s.json")))["counts"];
  EXPECT_EQ(counts["frames"], 1);
  EXPECT_EQ(counts["failed"], 1);
  EXPECT_EQ(counts["batches"], 1) << "the network ran for the video";
  const auto entries = nlohmann::json::parse(read_text(path("r.json")));
  EXPECT_FALSE(entries.empty());
  for (const auto& entry : entries) EXPECT_EQ(entry["image_id"], 7);
  expect_failure(
      run({"predict", "-m", model(), demo("clip.mp4"), "-o", "v.json", "--image-ids", "ids.json"}),
      4, told);
  EXPECT_FALSE(std::filesystem::exists(path("v.json")));
}

TEST_F(BadInputTest, ACutVideoIsReportedAndItsFramesAreKept) {
  const std::string clip = read_text(demo("clip.mp4"));
  write_text(path("cut.mp4"), clip.substr(0, clip.size() / 2));
  const auto result =
      run({"predict", "-q", "-m", model(), "cut.mp4", "--every", "30", "-o", "r.jsonl"});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("cut.mp4: the video ends after"), std::string::npos) << result.err;
  EXPECT_GE(json_lines(read_text(path("r.jsonl"))).size(), 1u);
}

TEST_F(BadInputTest, NothingReadableLeavesAnEarlierResultAlone) {
  write_text(path("r.json"), "[]");
  EXPECT_EQ(run({"predict", "-m", model(), "none.jpg", "-o", "r.json"}).code, 4);
  EXPECT_EQ(read_text(path("r.json")), "[]");
  EXPECT_EQ(files(), (std::vector<std::string>{"r.json"}));
}

}  // namespace
}  // namespace rfseg
