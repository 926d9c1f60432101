// Which files a call reads and writes: lists of inputs, and that nothing it needs is written over.

#include <filesystem>

#include "cli/program.h"

namespace rfseg {
namespace {

using testing::json_lines;
using testing::read_text;
using testing::RunResult;
using testing::write_text;

class FilesTest : public testing::ProgramTest {
 protected:
  void copy(const std::string& picture, const std::string& name) {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    std::filesystem::copy_file(picture, path(name));
  }
  // With a model that is not there: exit code 3 if any work began.
  void expect_refusal(const std::vector<std::string>& words, const std::string& part) {
    const std::vector<std::string> before = files();
    const RunResult result = run(words);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "lacks: " << part;
    EXPECT_EQ(files(), before);
  }
  std::vector<std::string> predict(const std::vector<std::string>& more,
                                   const std::string& model = "gone.pth") {
    std::vector<std::string> words = {"predict", "-m", model};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(FilesTest, DenseMasksNeverReplaceAnInput) {
  copy(pictures_[0], "d-000000-000.png");
  copy(pictures_[0], "elsewhere/photo.jpg");
  const std::string message = "would overwrite the input";
  expect_refusal(predict({"d-000000-000.png", "--masks", "dense", "-o", "d.jsonl"}),
                 message + " d-000000-000.png");
  expect_refusal(predict({".", "--masks", "dense", "-o", "elsewhere/../d.jsonl"}), message);
  // Another name, which leads to the input.
  std::filesystem::create_symlink("elsewhere/photo.jpg", path("e-000123-000.png"));
  expect_refusal(predict({"elsewhere", "--masks", "dense", "-o", "e.jsonl"}), message);
  std::filesystem::create_symlink("d-000000-000.png", path("link.png"));
  expect_refusal(predict({"link.png", "--masks", "dense", "-o", "d.jsonl"}), message);
  for (const char* name : {"d-00000-000.png", "d-000000-000.jpg", "dd-000000-000.png"}) {
    copy(pictures_[0], name);
    EXPECT_EQ(run(predict({name, "--masks", "dense", "-o", "d.jsonl"})).code, 3) << name;
  }
}

TEST_F(FilesTest, ASecondRunDoesNotTakeTheFirstOnesMasksForPictures) {
  copy(pictures_[0], "photos/a.jpg");
  const std::vector<std::string> words =
      predict({"photos", "--masks", "dense", "-o", "photos/r.jsonl"}, model());
  const RunResult first = run(words);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("into the input folder photos"), std::string::npos) << first.err;
  ASSERT_GT(files().size(), 2u);
  expect_refusal(words, "photos/r-000000-000.png");
}

TEST_F(FilesTest, OutputsOfOneCallHaveNamesOfTheirOwn) {
  copy(pictures_[0], "in/d-000000-000.png");
  const std::vector<std::string> dense = {"in", "--masks", "dense", "-o", "d.jsonl"};
  for (const char* option : {"--report", "--stats"}) {
    std::vector<std::string> words = dense;
    words.insert(words.end(), {option, "./d-000000-000.png"});
    expect_refusal(predict(words), std::string("--masks dense: both would write"));
  }
  std::vector<std::string> words = dense;
  words.insert(words.end(), {"--overlay", "."});
  const RunResult overlay = run(predict(words, model()));
  ASSERT_EQ(overlay.code, 0) << overlay.err;
  const std::string drawn = read_text(path("d-000000-000-2.png"));
  EXPECT_EQ(drawn.substr(1, 3), "PNG");
  EXPECT_NE(read_text(path("d-000000-000.png")), drawn);
  std::filesystem::create_symlink("d.jsonl", path("same.jsonl"));
  expect_refusal(predict({"in", "-o", "d.jsonl", "--stats", "same.jsonl"}), "both would write");
  expect_refusal(predict({"in", "--masks", "dense", "-o", "/dev/null"}), "-o /dev/null is no file");
}

TEST_F(FilesTest, NoVerbWritesOverWhatItReads) {
  copy(pictures_[0], "a.jpg");
  std::filesystem::create_hard_link(path("a.jpg"), path("b.jsonl"));
  expect_refusal(predict({"a.jpg", "-o", "b.jsonl"}), "would overwrite the input a.jpg");
  expect_refusal(predict({"a.jpg", "-o", "gone.pth", "--format", "jsonl"}),
                 "would overwrite the input gone.pth");
  const RunResult appended = run(predict({"a.jpg"}), ">>a.jpg");
  EXPECT_EQ(appended.code, 2);
  EXPECT_NE(appended.err.find("-o -: would overwrite the input a.jpg"), std::string::npos)
      << appended.err;
  std::filesystem::create_symlink(model(), path("m.safetensors"));
  expect_refusal(predict({"a.jpg", "--stats", "m.safetensors"}, "m.safetensors"),
                 "would overwrite the input m.safetensors");
  expect_refusal({"bench", "-m", "gone.pth", "--image", "a.jpg", "--stats", "./a.jpg"},
                 "would overwrite the input a.jpg");
  expect_refusal({"bench", "-m", "gone.pth", "--video", "a.jpg", "--stats", "./a.jpg"},
                 "would overwrite the input a.jpg");
  write_text(path("boxes.npy"), "");
  expect_refusal({"forward", "-m", "gone.pth", "--input", "boxes.npy", "-o", "."},
                 "would overwrite the input boxes.npy");
  expect_refusal(
      {"forward", "-m", "gone.pth", "--input", "x.npy", "-o", "o", "--stats", "o/boxes.npy"},
      "both would write");
}

TEST_F(FilesTest, TheListOnStdinIsAnInput) {
  write_text(path("list.jsonl"), "a.jpg\n");
  const RunResult result = run(predict({"-", "-o", "list.jsonl"}), "<list.jsonl");
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.err.find("would overwrite the input on standard input"), std::string::npos)
      << result.err;
}

TEST_F(FilesTest, InputsThatAreOpenDescriptorsAreFiles) {
  for (const char* name : {"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}) {
    copy(pictures_[0], "a.json");
    const RunResult result = run(predict({name, "-o", "a.json"}), "<a.json");
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_NE(result.err.find(std::string("would overwrite the input ") + name), std::string::npos)
        << result.err;
    std::filesystem::remove(path("a.json"));
  }
}

TEST_F(FilesTest, WhatTellsOfTheModelIsAnInput) {
  copy(model(), "hf/model.safetensors");
  for (const char* name : {"hf/config.json", "hf/preprocessor_config.json", "hf/class_names.txt"}) {
    write_text(path(name), "{");
    for (const char* where : {"hf/model.safetensors", "hf", "hf/"}) {
      expect_refusal({"predict", "-m", where, "x.jpg", "--format", "coco", "-o", name},
                     std::string("would overwrite the input hf"));
    }
    EXPECT_EQ(read_text(path(name)), "{");
    expect_refusal({"bench", "-m", "hf/model.safetensors", "--stats", name},
                   "would overwrite the input hf");
    std::filesystem::remove(path(name));
  }
  expect_refusal({"convert", "hf", "hf/model.safetensors"}, "would overwrite the input hf");
  // Elsewhere the names are as any others.
  EXPECT_EQ(run({"predict", "-m", "hf", pictures_[0], "-o", "config.json"}).code, 0);
}

TEST_F(FilesTest, TracedPointsReplaceNoInput) {
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "312", "-o", "x.npy"}).code, 0);
  ASSERT_EQ(run({"forward", "-m", model(), "--input", "x.npy", "-o", "t", "--trace"}).code, 0);
  std::size_t points = 0;
  for (const std::string& file : files()) {
    if (!file.starts_with("t/")) continue;
    ++points;
    expect_refusal(
        {"forward", "-m", "gone.pth", "--input", "x.npy", "--topk", file, "-o", "t", "--trace"},
        "would overwrite the input");
  }
  EXPECT_GT(points, 10u);
}

TEST_F(FilesTest, PicturesOfOneNameKeepImageIdsOfTheirOwn) {
  copy(pictures_[0], "a/x.jpg");
  copy(pictures_[1], "b/x.jpg");
  const std::vector<std::string> words =
      predict({"a", "b", "-o", "r.json", "--image-ids", "ids.json"}, model());
  write_text(path("ids.json"), R"({"images": [{"id": 7, "file_name": "x.jpg"}]})");
  const RunResult merged = run(words);
  EXPECT_EQ(merged.code, 2) << merged.err;
  EXPECT_NE(merged.err.find("a/x.jpg and b/x.jpg would both have the image_id 7"),
            std::string::npos)
      << merged.err;
  EXPECT_FALSE(std::filesystem::exists(path("r.json")));
  write_text(
      path("ids.json"),
      R"({"images": [{"id": 7, "file_name": "a/x.jpg"}, {"id": 8, "file_name": "b/x.jpg"}]})");
  const RunResult apart = run(words);
  EXPECT_EQ(apart.code, 0) << apart.err;
  std::size_t of_seven = 0, of_eight = 0;
  for (const auto& entry : nlohmann::json::parse(read_text(path("r.json")))) {
    of_seven += entry["image_id"] == 7;
    of_eight += entry["image_id"] == 8;
  }
  EXPECT_GT(of_seven, 0u);
  EXPECT_GT(of_eight, 0u);
  write_text(path("ids.json"),
             R"({"images": [{"id": 7, "file_name": "x.jpg"}, {"id": 8, "file_name": "x.jpg"}]})");
  const RunResult twice = run(words);
  EXPECT_EQ(twice.code, 4) << twice.err;
  EXPECT_NE(twice.err.find("'x.jpg' has the ids 7 and 8"), std::string::npos) << twice.err;
}

TEST_F(FilesTest, ImageIdsDoNotDependOnHowAPathIsSpelt) {
  copy(pictures_[0], "val/a.jpg");
  write_text(
      path("ids.json"),
      R"({"images": [{"id": 5, "file_name": "val/a.jpg"}, {"id": 6, "file_name": "a.jpg"}]})");
  const auto words = [&](const std::string& name) {
    return predict({name, "-o", "r.json", "--image-ids", "ids.json"}, model());
  };
  for (const char* name : {"val//a.jpg", "val/./a.jpg", ".//val/../val/a.jpg"}) {
    const RunResult result = run(words(name));
    EXPECT_EQ(result.code, 0) << result.err;
    const auto entries = nlohmann::json::parse(read_text(path("r.json")));
    ASSERT_FALSE(entries.empty());
    EXPECT_EQ(entries[0]["image_id"], 5) << name;
  }
  write_text(
      path("ids.json"),
      R"({"images": [{"id": 5, "file_name": "val/a.jpg"}, {"id": 6, "file_name": "val//a.jpg"}]})");
  const RunResult twice = run(words("val/a.jpg"));
  EXPECT_EQ(twice.code, 4) << twice.err;
  EXPECT_NE(twice.err.find("'val//a.jpg' has the ids 5 and 6"), std::string::npos) << twice.err;
}

TEST_F(FilesTest, AListOnStdinEndsPathsByLinesOrByNul) {
  const std::string odd = "two\nlines.jpg";
  copy(pictures_[0], "a.jpg");
  copy(pictures_[1], odd);
  copy(pictures_[1], "b.jpg");
  const auto files_of = [&](const std::string& list) {
    write_text(path("list"), list);
    const RunResult result = run(predict({"--masks", "none", "-"}, model()), "", "cat list |");
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<std::string> names;
    for (const auto& line : json_lines(result.out)) names.push_back(line["file"]);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(files_of("a.jpg\r\n\nb.jpg"), (Names{"a.jpg", "b.jpg"}));
  EXPECT_EQ(files_of("\xef\xbb\xbf"
                     "a.jpg\n"),
            (Names{"a.jpg"}));
  EXPECT_EQ(files_of(std::string("a.jpg\0", 6) + odd + std::string("\0b.jpg\0", 7)),
            (Names{"a.jpg", odd, "b.jpg"}));
  write_text(path("list"), std::string("\xff\xfe"
                                       "a\0",
                                       4));
  const RunResult wide = run(predict({"-"}, model()), "", "cat list |");
  EXPECT_EQ(wide.code, 4) << wide.err;
  EXPECT_NE(wide.err.find("UTF-16"), std::string::npos) << wide.err;
  const RunResult picture = run(predict({"-"}, model()), "<" + testing::quoted(pictures_[0]));
  EXPECT_EQ(picture.code, 4);
  EXPECT_EQ(picture.err,
            "rfseg: error: -: a list of paths is read from standard input, and this is "
            "a picture or a video; name the file\n");
}

TEST_F(FilesTest, AListThatCannotBeReadIsNoEmptyList) {
  for (const auto& [shell, why] :
       {std::pair{"</", "Is a directory"}, std::pair{"<&-", "Bad file descriptor"}}) {
    const RunResult result = run(predict({"-"}), shell);
    EXPECT_EQ(result.code, 4) << result.err;
    const std::string told = "-: cannot read the list of inputs from standard input: ";
    EXPECT_NE(result.err.find(told + why), std::string::npos) << result.err;
  }
  const RunResult empty = run(predict({"-"}), "</dev/null");
  EXPECT_EQ(empty.code, 4);
  EXPECT_NE(empty.err.find("the list of inputs is empty"), std::string::npos) << empty.err;
}

}  // namespace
}  // namespace rfseg
