// Live streams over real connections on the loopback address: peers that go away, fall silent, come
// back on the same port, or stay away.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/log.h"
#include "media/motion_jpeg.h"
#include "media/video_io.h"
#include "media/video_test_support.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

std::string bytes_of(const std::string& path) {
  const std::vector<char> bytes = read_bytes(path);
  return {bytes.begin(), bytes.end()};
}

class LiveReader : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::lock_guard lock(mutex_);
    log_.clear();
    set_log_sink([](LogLevel level, const std::string& message) {
      const std::lock_guard guard(mutex_);
      if (level <= LogLevel::kWarning) log_ += message + "\n";
    });
  }
  void TearDown() override { set_log_sink(nullptr); }
  static std::string warnings() {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  static std::mutex mutex_;
  static std::string log_;
};
std::mutex LiveReader::mutex_;
std::string LiveReader::log_;

VideoOptions patient(double seconds) {
  VideoOptions options;
  options.threads = 1;
  options.timeout_s = 2;
  options.reconnect_s = seconds;
  return options;
}

// Three connections of MPEG-TS, each cut by the peer; then nobody is there any more.
TEST_F(LiveReader, ConnectsAgainAndGivesUp) {
  const std::string body = bytes_of(kFixtures + "stream.ts");
  std::atomic<int> connections{0};
  Server server([&](int client) {
    ++connections;
    send_stream(client, body);
  });
  const auto started = Clock::now();
  const std::unique_ptr<VideoReader> reader = open_video(server.url("live.ts"), patient(3));
  EXPECT_TRUE(reader->info().live);
  int64_t last_index = -1;
  double last_time = -1;
  int frames = 0;
  for (VideoFrame frame; reader->read(frame); ++frames) {
    EXPECT_EQ(frame.index, last_index + 1);
    // Also where the peer sends faster than in real time.
    EXPECT_GT(frame.time_s, last_time);
    EXPECT_EQ(frame.image.width, 96);
    last_index = frame.index;
    last_time = frame.time_s;
    if (connections == 3 && frames >= 45) server.stop();
  }
  EXPECT_FALSE([&] {
    VideoFrame frame;
    return reader->read(frame);
  }()) << "a frame after the end";
  EXPECT_GE(connections, 3);
  EXPECT_EQ(reader->reconnects(), connections - 1);
  EXPECT_EQ(frames, 20 * connections);
  EXPECT_NE(warnings().find("the stream ended; connecting again"), std::string::npos) << warnings();
  EXPECT_NE(warnings().find("given up after "), std::string::npos) << warnings();
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(20));
}

// The camera is restarted on its port: refused connections in between are no end.
TEST_F(LiveReader, OutlivesARestartOfThePeer) {
  const std::string jpeg = a_jpeg();
  const auto serve = [&](int client) {
    send_motion_jpeg(client, 8, std::chrono::milliseconds(10), jpeg);
  };
  auto server = std::make_unique<Server>(serve);
  const int port = server->port();
  const std::unique_ptr<VideoReader> reader = open_video(server->url("camera"), patient(20));
  EXPECT_TRUE(reader->info().live);
  EXPECT_EQ(reader->info().codec, "mjpeg");
  VideoFrame frame;
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(reader->read(frame)) << i;
  const double before = frame.time_s;
  server.reset();
  std::thread restart([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    server = std::make_unique<Server>(serve, port);
  });
  for (int64_t i = 8; i < 14; ++i) {
    ASSERT_TRUE(reader->read(frame)) << i;
    EXPECT_EQ(frame.index, i);
  }
  restart.join();
  EXPECT_EQ(reader->reconnects(), 1);
  EXPECT_GE(frame.time_s, before + 0.5) << "the time without a picture has passed";
  EXPECT_LT(frame.time_s, before + 15);
}

// A peer that keeps the connection but sends nothing any more.
TEST_F(LiveReader, SilenceCountsAsBrokenOff) {
  const std::string jpeg = a_jpeg();
  std::atomic<int> connections{0};
  std::atomic<bool> done{false};
  Server server([&](int client) {
    ++connections;
    send_motion_jpeg(client, 6, std::chrono::milliseconds(5), jpeg);
    if (connections == 1) {
      char byte;
      recv(client, &byte, 1, 0);  // until the reader has gone
    } else {
      while (!done && send_all(client, " "))
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  VideoOptions options = patient(10);
  options.timeout_s = 0.5;
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), options);
  VideoFrame frame;
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(reader->read(frame)) << i << "\n" << warnings();
  done = true;
  EXPECT_EQ(connections, 2);
  EXPECT_NE(warnings().find("no picture came within 0.5 seconds; connecting again"),
            std::string::npos)
      << warnings();
}

// A peer that goes on sending, but no picture any more.
TEST_F(LiveReader, BytesWithoutPicturesAreSilence) {
  const std::string body = bytes_of(kFixtures + "stream.ts");
  const std::string nothing = "\x47\x1f\xff\x10" + std::string(184, '\xff');  // a null packet
  std::atomic<int> connections{0};
  std::atomic<bool> done{false};
  Server server([&](int client) {
    ++connections;
    if (!send_stream(client, body)) return;
    while (!done && send_all(client, nothing)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  VideoOptions options = patient(20);
  options.timeout_s = 1;
  const std::unique_ptr<VideoReader> reader = open_video(server.url("live.ts"), options);
  VideoFrame frame;
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(reader->read(frame)) << i << "\n" << warnings();
  done = true;
  EXPECT_EQ(connections, 2);
  EXPECT_NE(warnings().find("no picture came within 1 seconds; connecting again"),
            std::string::npos)
      << warnings();
}

// FFmpeg would make it 25 a second, and so 0.44 s.
TEST_F(LiveReader, PicturesWithoutTimesHaveThoseOfTheirArrival) {
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, 12, std::chrono::milliseconds(150), jpeg); });
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), patient(0));
  std::vector<double> times;
  for (VideoFrame frame; reader->read(frame);) times.push_back(frame.time_s);
  ASSERT_EQ(times.size(), 12u);
  EXPECT_EQ(times.front(), 0);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  // The first few came while the stream was being opened.
  EXPECT_GE(times.back() - times[6], 0.6);
  EXPECT_LT(times.back(), 10);
}

TEST_F(LiveReader, StopsWhenAskedWhileItWaits) {
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, 6, std::chrono::milliseconds(1), jpeg); });
  std::atomic<bool> stop{false};
  const std::unique_ptr<VideoReader> reader =
      open_video(server.url("camera"), patient(60), [&] { return stop.load(); });
  server.stop();
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    stop = true;
  });
  const auto started = Clock::now();
  try {
    for (VideoFrame frame; reader->read(frame);) {
    }
    ADD_FAILURE() << "not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
  }
  later.join();
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(10));
}

TEST_F(LiveReader, EndsWithItsStreamWhereNoneIsToBeConnectedAgain) {
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, 6, std::chrono::milliseconds(1), jpeg); });
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), patient(0));
  int frames = 0;
  for (VideoFrame frame; reader->read(frame);) ++frames;
  EXPECT_EQ(frames, 6);
  EXPECT_EQ(reader->reconnects(), 0);
}

// Connections that take their time before they send: the end is that of the times delivered.
TEST_F(LiveReader, KeepsTheEndAcrossConnections) {
  const std::string jpeg = a_jpeg();
  std::atomic<int> connections{0};
  Server server([&](int client) {
    if (connections++ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(700));
    send_motion_jpeg(client, connections == 1 ? 8 : 400, std::chrono::milliseconds(10), jpeg);
  });
  VideoOptions options = patient(20);
  options.end_s = 2;
  const auto started = Clock::now();
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), options);
  int frames = 0;
  VideoFrame frame;
  for (; reader->read(frame); ++frames) EXPECT_LT(frame.time_s, options.end_s);
  EXPECT_FALSE(reader->read(frame)) << "a frame after the end";
  EXPECT_EQ(reader->reconnects(), 1);
  EXPECT_GT(frames, 8) << "none of the second connection";
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(10));
}

// Nothing is waited for longer than until the end, be the patience with silence what it may.
TEST_F(LiveReader, EndsInSilence) {
  const std::string jpeg = a_jpeg();
  std::atomic<int> connections{0};
  Server server([&](int client) {
    if (connections++ == 0) return send_motion_jpeg(client, 8, std::chrono::milliseconds(1), jpeg);
    char byte;
    while (recv(client, &byte, 1, 0) > 0) {  // until the reader has gone
    }
  });
  VideoOptions options = patient(60);
  options.timeout_s = 30;
  options.end_s = 2;
  const auto started = Clock::now();
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), options);
  int frames = 0;
  for (VideoFrame frame; reader->read(frame);) ++frames;
  EXPECT_EQ(frames, 8);
  EXPECT_EQ(connections, 2);
  EXPECT_LT(Clock::now() - started, std::chrono::seconds(10));
}

// Pictures that nobody wants are signs of life too, and are counted over connections: of 13 each.
TEST_F(LiveReader, PicturesThatAreNotDeliveredAreNoSilence) {
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, 13, std::chrono::milliseconds(120), jpeg); });
  VideoOptions options = patient(1);
  options.every = 20;
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), options);
  VideoFrame frame;
  for (const int64_t index : {0, 20, 40}) {
    ASSERT_TRUE(reader->read(frame)) << index << "\n" << warnings();
    EXPECT_EQ(frame.index, index);
  }
  EXPECT_EQ(reader->reconnects(), 3);
  EXPECT_FALSE(reader->given_up());
}

// No single connection lasts until the start.
TEST_F(LiveReader, TheStartIsThatOfTheFirstConnection) {
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, 8, std::chrono::milliseconds(60), jpeg); });
  VideoOptions options = patient(1);
  options.start_s = 1.5;
  const std::unique_ptr<VideoReader> reader = open_video(server.url("camera"), options);
  VideoFrame frame;
  ASSERT_TRUE(reader->read(frame)) << warnings();
  EXPECT_GE(frame.time_s, options.start_s);
  EXPECT_LT(frame.time_s, 10);
  EXPECT_GE(frame.index, 8);
  EXPECT_GE(reader->reconnects(), 1);
}

// The last frame before the end is none of those that are delivered.
TEST_F(LiveReader, ConnectsNoMoreAfterTheEndOfEveryTenth) {
  const std::string body = bytes_of(kFixtures + "stream.ts");
  std::atomic<int> connections{0};
  Server server([&](int client) {
    ++connections;
    send_stream(client, body);
  });
  for (const double end : {0.5, 0.78}) {  // within the connection, and with it
    connections = 0;
    VideoOptions options = patient(3);
    options.end_s = end;
    options.every = 10;
    const std::unique_ptr<VideoReader> reader = open_video(server.url("live.ts"), options);
    std::vector<int64_t> indices;
    for (VideoFrame frame; reader->read(frame);) indices.push_back(frame.index);
    EXPECT_EQ(indices, (std::vector<int64_t>{0, 10}));
    EXPECT_EQ(connections, 1);
    EXPECT_EQ(reader->reconnects(), 0);
  }
}

// The size is that of the first connection.
TEST_F(LiveReader, ScalesWhatComesBackInAnotherSize) {
  const std::string first = bytes_of(kFixtures + "stream.ts"),
                    second = bytes_of(kFixtures + "size_change.h264");
  std::atomic<int> connections{0};
  Server server([&](int client) { send_stream(client, connections++ == 0 ? first : second); });
  const std::unique_ptr<VideoReader> reader = open_video(server.url("live"), patient(1));
  VideoFrame frame;
  for (int i = 0; i < 25; ++i) {
    ASSERT_TRUE(reader->read(frame)) << i;
    EXPECT_EQ(frame.image.width, 96);
    EXPECT_EQ(frame.image.height, 64);
  }
  EXPECT_GE(connections, 2);
}

}  // namespace
}  // namespace rfseg
