#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rfseg::testing {

struct RunResult {
  int code = -1;
  std::string out, err;
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string quoted(const std::string& word) {
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

inline std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    EXPECT_NE(end, std::string::npos) << "the last line is not complete";
    if (end == std::string::npos) break;
    lines.push_back(nlohmann::json::parse(text.substr(at, end - at)));
    at = end + 1;
  }
  return lines;
}

/// Runs the built program in a fresh folder, with the bundled demonstration model at hand.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "rfseg-cli-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    for (const auto& entry : std::filesystem::directory_iterator(demo("images"))) {
      pictures_.push_back(entry.path().string());
    }
    std::sort(pictures_.begin(), pictures_.end());
    ASSERT_GE(pictures_.size(), 3u);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string demo(const std::string& name) {
    return std::string(RFSEG_SOURCE_DIR "/assets/demo/") + name;
  }
  std::string model() const { return demo("model.safetensors"); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      if (entry.is_regular_file())
        names.push_back(std::filesystem::relative(entry.path(), folder_).string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// `arguments` as a list of words; `shell` is put behind them (redirections).
  RunResult run(const std::vector<std::string>& arguments, const std::string& shell = "",
                const std::string& before = "") {
    const std::string base = folder_.string() + "-run";
    std::string command = before + " " + quoted(RFSEG_BINARY_DIR "/rfseg");
    for (const std::string& word : arguments) command += " " + quoted(word);
    command = "cd " + quoted(folder_.string()) + " && { " + command + " " + shell + "; } >" +
              quoted(base + ".out") + " 2>" + quoted(base + ".err") + " </dev/null";
    const int status = std::system(command.c_str());
    RunResult result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = read_text(base + ".out");
    result.err = read_text(base + ".err");
    std::filesystem::remove(base + ".out");
    std::filesystem::remove(base + ".err");
    return result;
  }

  std::filesystem::path folder_;
  std::vector<std::string> pictures_;
};

}  // namespace rfseg::testing
