// Which videos are said to be cut: those of which bytes are missing, and no others.

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "core/files.h"
#include "core/log.h"
#include "core/temporary_folder.h"
#include "pipeline/frame_source.h"

namespace rfseg {
namespace {

const std::string kVideos = RFSEG_SOURCE_DIR "/tests/media/video/";

std::mutex g_log_mutex;
std::string g_log;

class VideoLength : public testing::Test {
 protected:
  void SetUp() override {
    set_log_sink([](LogLevel level, const std::string& message) {
      const std::lock_guard lock(g_log_mutex);
      if (level <= LogLevel::kWarning) g_log += message + "\n";
    });
  }
  void TearDown() override { set_log_sink(nullptr); }

  struct Read {
    int64_t frames = 0, cut_short = 0;
    std::string log;
  };
  static Read read(const std::string& path, double start = 0, double end = -1) {
    g_log.clear();
    InputOptions options;
    options.video.threads = 1;
    options.video.start_s = start;
    options.video.end_s = end;
    InputSource source({{path, InputKind::kVideo, ""}}, options);
    Read result;
    for (SourceFrame frame; source.next(frame);) {
      EXPECT_EQ(frame.error, "");
      ++result.frames;
    }
    result.cut_short = source.cut_short();
    result.log = g_log;
    return result;
  }

  /// The first part of a video, as of a download that broke off.
  std::string cut(const std::string& name, double part) {
    std::vector<uint8_t> bytes = read_file(kVideos + name, std::size_t{1} << 20);
    bytes.resize(static_cast<std::size_t>(static_cast<double>(bytes.size()) * part));
    return write(name, bytes);
  }
  std::string write(const std::string& name, const std::vector<uint8_t>& bytes) {
    const std::string path = folder_ / ("part" + name.substr(name.rfind('.')));
    write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return path;
  }

  test::TemporaryFolder folder_;
};

// Sparse frames, a clock that begins at 100 s, an edit list, sound that lasts longer, and H.264
// with B frames in AVI, whose header counts twice as many frames as there are.
TEST_F(VideoLength, WholeFilesAreNotSaidToBeCut) {
  for (const char* name :
       {"lengths/sparse.mkv", "lengths/sparse.flv", "lengths/sparse.ts", "lengths/later.mkv",
        "lengths/edited.mp4", "lengths/sound_longer.mkv", "lengths/sound_longer.flv",
        "lengths/sound_longer.avi", "lengths/plain.wmv", "b_frames.avi", "plain.mp4", "plain.mkv",
        "variable_rate.mp4", "stream.ts", "mpeg4.avi", "vp8.webm"}) {
    for (const double start : {0.0, 0.2}) {
      for (const double end : {-1.0, 0.3, 50.0}) {
        const Read whole = read(kVideos + name, start, end);
        if (end < 0) {
          EXPECT_GT(whole.frames, 0) << name << " from " << start;
        }
        EXPECT_EQ(whole.cut_short, 0) << name << " from " << start << " to " << end;
        EXPECT_EQ(whole.log, "") << name << " from " << start << " to " << end;
      }
    }
  }
}

TEST_F(VideoLength, CutFilesAreSaidToBe) {
  const struct {
    const char* name;
    double part;
  } files[] = {{"plain.mkv", 0.6},          {"vp8.webm", 0.6},
               {"lengths/edited.mp4", 0.9}, {"lengths/sparse.flv", 0.85},
               {"lengths/later.mkv", 0.9},  {"b_frames.avi", 0.8},
               {"lengths/plain.wmv", 0.6}};
  for (const auto& file : files) {
    const std::string path = cut(file.name, file.part);
    const Read part = read(path);
    EXPECT_GT(part.frames, 0) << file.name;
    EXPECT_EQ(part.cut_short, 1) << file.name;
    EXPECT_NE(part.log.find(path), std::string::npos) << part.log;
    EXPECT_NE(part.log.find("truncated or damaged"), std::string::npos) << part.log;
  }
}

// An AVI that was written to a pipe has neither its size nor its number of frames.
TEST_F(VideoLength, AnAviThatTellsNoLengthIsNotSaidToBeCut) {
  std::vector<uint8_t> bytes = read_file(kVideos + "mpeg4.avi", std::size_t{1} << 20);
  std::fill(bytes.begin() + 4, bytes.begin() + 8, 0xff);
  const std::string head = "strh";
  const auto found = std::search(bytes.begin(), bytes.end(), head.begin(), head.end());
  ASSERT_GT(bytes.end() - found, 44);
  for (int i = 0; i < 4; ++i) found[40 + i] = i < 3 ? 0 : 0x40;
  const Read whole = read(write("mpeg4.avi", bytes));
  EXPECT_EQ(whole.frames, 10);
  EXPECT_EQ(whole.cut_short, 0) << whole.log;
}

// As long as the whole, as of a download that reserves its place first.
TEST_F(VideoLength, AFileThatEndsWithZerosIsCut) {
  std::vector<uint8_t> bytes = read_file(kVideos + "plain.mkv", std::size_t{1} << 20);
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() * 6 / 10), bytes.end(), 0);
  const Read part = read(write("plain.mkv", bytes));
  EXPECT_GT(part.frames, 0);
  EXPECT_EQ(part.cut_short, 1);
}

// The index stands before what is missing, or behind it.
TEST_F(VideoLength, AnMp4OfWhichSamplesAreZerosIsCut) {
  const struct {
    const char* name;
    double from, to;
  } files[] = {{"lengths/edited.mp4", 0.9, 1}, {"plain.mp4", 0.5, 0.8655}};
  for (const auto& file : files) {
    std::vector<uint8_t> bytes = read_file(kVideos + file.name, std::size_t{1} << 20);
    const auto at = [&](double part) {
      return bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<double>(bytes.size()) * part);
    };
    std::fill(at(file.from), at(file.to), 0);
    const std::string path = write(file.name, bytes);
    const Read part = read(path);
    EXPECT_GT(part.frames, 0) << file.name;
    EXPECT_EQ(part.cut_short, 1) << file.name;
    EXPECT_NE(part.log.find("truncated or damaged"), std::string::npos) << part.log;
    EXPECT_EQ(read(path, 0, 0.1).cut_short, 0) << file.name;
  }
}

// What is asked for is there, or it is not.
TEST_F(VideoLength, OnlyTheFramesAskedForCanBeMissing) {
  const std::string path = cut("plain.mkv", 0.6);  // 12 of 24 frames, to 0.48 s
  EXPECT_EQ(read(path, 0, 0.3).cut_short, 0);
  EXPECT_EQ(read(path, 0.2, 0.4).cut_short, 0);
  EXPECT_EQ(read(path, 0, 0.8).cut_short, 1);
  EXPECT_EQ(read(path, 0.2, 0.8).cut_short, 1);
  EXPECT_EQ(read(path, 0.6).cut_short, 1);
  EXPECT_EQ(read(path, 0, 50).cut_short, 1);
}

TEST_F(VideoLength, TheClocksStartIsNoPartOfTheLength) {
  InputSource source({{kVideos + "lengths/later.mkv", InputKind::kVideo, ""}}, {});
  SourceFrame frame;
  ASSERT_TRUE(source.next(frame));
  EXPECT_GT(source.estimated_total(), 70);  // 3.28 s at 25 frames a second, 100 s after its zero
  EXPECT_LT(source.estimated_total(), 90);
}

TEST_F(VideoLength, AStartBehindTheEndIsTold) {
  const Read nothing = read(kVideos + "plain.mkv", 5);
  EXPECT_EQ(nothing.frames, 0);
  EXPECT_EQ(nothing.cut_short, 0);
  EXPECT_NE(nothing.log.find("no frame at or after second 5"), std::string::npos) << nothing.log;
}

}  // namespace
}  // namespace rfseg
