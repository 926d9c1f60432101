// Streams by RTSP from GStreamer's server on the loopback address: a peer that is none of this
// project's. Skipped, saying what is missing, where that is not installed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "media/loopback_server.h"
#include "media/video_io.h"
#include "media/video_test_support.h"
#include "rfseg/error.h"

extern char** environ;

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kPython = "/usr/bin/python3";  // the one of GStreamer's bindings
constexpr int kMissing = 77;

/// tests/media/rtsp_server.py as a process of its own.
class RtspServer {
 public:
  explicit RtspServer(const std::string& transport, int port = 0) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::vector<std::string> words = {kPython, RFSEG_SOURCE_DIR "/tests/media/rtsp_server.py",
                                      kFixtures + "stream.ts", transport, std::to_string(port)};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawn(&process_, kPython, &actions, nullptr, arguments.data(), environ) != 0) {
      process_ = -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    in_ = in[1];
    std::string text;
    char byte = 0;
    while (process_ > 0 && read(out[0], &byte, 1) == 1 && byte != '\n') text += byte;
    close(out[0]);
    if (!text.empty()) {
      port_ = std::stoi(text);
    } else {
      end();
    }
  }
  ~RtspServer() { kill(); }
  RtspServer(const RtspServer&) = delete;
  RtspServer& operator=(const RtspServer&) = delete;

  bool missing() const { return process_ < 0 && (code_ == kMissing || code_ == -1); }
  int port() const { return port_; }
  std::string url() const { return "rtsp://127.0.0.1:" + std::to_string(port_) + "/camera"; }
  /// As a camera that loses its power: without a word to its clients.
  void kill() {
    if (process_ > 0) ::kill(process_, SIGKILL);
    end();
  }

 private:
  void end() {
    if (in_ >= 0) close(in_);
    in_ = -1;
    int status = 0;
    if (process_ > 0 && waitpid(process_, &status, 0) == process_ && WIFEXITED(status)) {
      code_ = WEXITSTATUS(status);
    }
    process_ = -1;
  }
  pid_t process_ = -1;
  int in_ = -1, port_ = 0, code_ = -1;
};

#define START_OR_SKIP(server)                                    \
  if ((server).missing())                                        \
    GTEST_SKIP() << "GStreamer's RTSP server is not installed: " \
                    "scripts/install_deps.sh --dev";             \
  ASSERT_GT((server).port(), 0)

VideoOptions patient(double seconds) {
  VideoOptions options;
  options.threads = 1;
  options.timeout_s = 5;
  options.reconnect_s = seconds;
  return options;
}

std::vector<uint8_t> pixels_of(const ImageView& image) {
  EXPECT_EQ(image.format, PixelFormat::kI420);
  std::vector<uint8_t> bytes;
  for (int plane = 0; plane < 3; ++plane) {
    const int width = plane == 0 ? image.width : (image.width + 1) / 2;
    const int height = plane == 0 ? image.height : (image.height + 1) / 2;
    for (int y = 0; y < height; ++y) {
      const uint8_t* row = image.planes[plane] + y * image.strides[plane];
      bytes.insert(bytes.end(), row, row + width);
    }
  }
  return bytes;
}

struct Seen {
  int64_t index = 0;
  double time_s = 0;
  std::vector<uint8_t> pixels;
};

std::vector<Seen> read_all(VideoReader& reader) {
  std::vector<Seen> frames;
  for (VideoFrame frame; reader.read(frame);) {
    frames.push_back({frame.index, frame.time_s, pixels_of(frame.image)});
  }
  return frames;
}

class Rtsp : public ::testing::TestWithParam<const char*> {};

TEST_P(Rtsp, GivesTheFramesOfTheFileInTheirOrder) {
  RtspServer server(GetParam());
  START_OR_SKIP(server);
  const std::vector<Seen> expected = read_all(*open_video(kFixtures + "stream.ts"));
  ASSERT_EQ(expected.size(), 20u);
  const std::unique_ptr<VideoReader> reader = open_video(server.url(), patient(0));
  EXPECT_TRUE(reader->info().live);
  EXPECT_EQ(reader->info().codec, "h264");
  const std::vector<Seen> frames = read_all(*reader);
  if (std::string(GetParam()) == "tcp") {
    ASSERT_EQ(frames.size(), expected.size());
    EXPECT_EQ(frames.back().index, static_cast<int64_t>(frames.size()) - 1);
    EXPECT_EQ(reader->broken_frames(), 0);
  } else {
    ASSERT_GE(frames.size(), expected.size() - 4);  // a busy machine loses packets
  }
  double last = -1;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_GE(frames[i].index, static_cast<int64_t>(i));
    EXPECT_GT(frames[i].time_s, last);
    last = frames[i].time_s;
    const auto same = std::find_if(expected.begin(), expected.end(), [&](const Seen& e) {
      return std::abs(e.time_s - frames[i].time_s) < 1e-3;
    });
    ASSERT_NE(same, expected.end()) << "no frame has the time " << frames[i].time_s;
    EXPECT_TRUE(frames[i].pixels == same->pixels) << "other pixels in frame " << i;
  }
}

// The server goes away in mid-stream and comes back on its port.
TEST_P(Rtsp, OutlivesARestartOfTheServer) {
  auto server = std::make_unique<RtspServer>(GetParam());
  START_OR_SKIP(*server);
  const int port = server->port();
  const std::unique_ptr<VideoReader> reader = open_video(server->url(), patient(12));
  VideoFrame frame;
  for (int64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(reader->read(frame));
    EXPECT_EQ(frame.index, i);
  }
  server->kill();
  std::thread restart([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(800));
    server = std::make_unique<RtspServer>(GetParam(), port);
  });
  int64_t last = frame.index;
  double time = frame.time_s, longest = 0;
  while (reader->reconnects() == 0 && reader->read(frame)) {
    EXPECT_EQ(frame.index, last + 1);
    longest = std::max(longest, frame.time_s - time);
    last = frame.index;
    time = frame.time_s;
  }
  restart.join();
  EXPECT_EQ(reader->reconnects(), 1);
  EXPECT_GT(longest, 0.5) << "the time without a picture has passed";
  EXPECT_FALSE(reader->given_up());
  ASSERT_EQ(server->port(), port);
}

INSTANTIATE_TEST_SUITE_P(Transports, Rtsp, ::testing::Values("tcp", "udp"),
                         [](const auto& info) { return std::string(info.param); });

TEST(RtspLost, IsGivenUpWhenTheServerStaysAway) {
  RtspServer server("tcp");
  START_OR_SKIP(server);
  const std::unique_ptr<VideoReader> reader = open_video(server.url(), patient(1.5));
  VideoFrame frame;
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(reader->read(frame));
  server.kill();
  const auto started = Clock::now();
  while (reader->read(frame)) {
  }
  EXPECT_TRUE(reader->given_up());
  EXPECT_EQ(reader->reconnects(), 0);
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(10));
}

// What accepts the connection and never answers.
TEST(RtspLost, ASilentPeerIsNotWaitedFor) {
  Server server([](int client) {
    char byte;
    while (recv(client, &byte, 1, 0) > 0) {  // until the reader has gone
    }
  });
  VideoOptions options = patient(10);
  options.timeout_s = 0.5;
  const auto started = Clock::now();
  try {
    open_video("rtsp://127.0.0.1:" + std::to_string(server.port()) + "/camera", options);
    ADD_FAILURE() << "opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("no picture came within 0.5 seconds"),
              std::string::npos)
        << error.what();
  }
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(10));
}

}  // namespace
}  // namespace rfseg
