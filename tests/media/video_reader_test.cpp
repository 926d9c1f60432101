#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <sstream>
#include <thread>

#include "core/log.h"
#include "media/loopback_server.h"
#include "media/video_io.h"
#include "media/video_test_support.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

std::string error_of(const std::string& path, ErrorCode code = ErrorCode::kInput,
                     const VideoOptions& options = {}) {
  try {
    const std::unique_ptr<VideoReader> reader = open_video(path, options);
    VideoFrame frame;
    while (reader->read(frame)) {
    }
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << path << ": no error";
  return {};
}

struct Golden {
  std::string name, pixels;
  int width = 0, height = 0;
  std::size_t frames = 0;
  uint64_t hash = 0;
  std::vector<double> times;
};

std::vector<Golden> read_goldens() {
  std::vector<Golden> goldens;
  std::ifstream file(kFixtures + "goldens.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    Golden g;
    fields >> g.name >> g.width >> g.height >> g.pixels >> g.frames >> std::hex >> g.hash >>
        std::dec;
    for (double time; fields >> time;) g.times.push_back(time);
    goldens.push_back(g);
  }
  return goldens;
}

std::mutex g_log_mutex;
std::string g_log;

/// Collects the log while it lives.
class LogCapture {
 public:
  LogCapture() {
    g_log.clear();
    set_log_sink([](LogLevel level, const std::string& message) {
      const std::lock_guard lock(g_log_mutex);
      g_log += std::to_string(static_cast<int>(level)) + " " + message + "\n";
    });
  }
  ~LogCapture() { set_log_sink(nullptr); }
  std::string text() const {
    const std::lock_guard lock(g_log_mutex);
    return g_log;
  }
};

// Pixels, numbers, times and sizes of every fixture against what the ffmpeg program gives: turned
// and mirrored pictures, odd sizes, variable rate, 10 bits, full range, 4:2:2, 4:4:4; MP4,
// Matroska, WebM (with hidden VP8 frames), AVI (without presentation times) and MPEG-TS.
TEST(VideoReader, GivesWhatFfmpegGives) {
  const std::vector<Golden> goldens = read_goldens();
  ASSERT_EQ(goldens.size(), 26u);
  for (const Golden& golden : goldens) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(golden.name + ", " + std::to_string(threads) + " threads");
      VideoOptions options;
      options.threads = threads;
      const Decoded found = decode(kFixtures + golden.name, options);
      EXPECT_EQ(found.width, golden.width);
      EXPECT_EQ(found.height, golden.height);
      EXPECT_EQ(found.info.width, golden.width);
      EXPECT_EQ(found.info.height, golden.height);
      EXPECT_EQ(found.pixels, golden.pixels);
      EXPECT_EQ(found.hash, golden.hash);
      EXPECT_EQ(found.broken, 0);
      EXPECT_FALSE(found.info.live);
      EXPECT_FALSE(found.info.codec.empty());
      ASSERT_EQ(found.times.size(), golden.frames);
      for (std::size_t i = 0; i < golden.frames; ++i) {
        EXPECT_EQ(found.indices[i], static_cast<int64_t>(i));
        EXPECT_NEAR(found.times[i], golden.times[i], 1e-9);
      }
    }
  }
}

TEST(VideoReader, TellsSizeRateAndLength) {
  const std::unique_ptr<VideoReader> reader = open_video(kFixtures + "plain.mp4");
  EXPECT_EQ(reader->info().codec, "h264");
  EXPECT_DOUBLE_EQ(reader->info().frame_rate, 25);
  EXPECT_EQ(reader->info().frames, 24);
  EXPECT_NEAR(reader->info().duration_s, 0.96, 1e-6);
}

TEST(VideoReader, MatrixAndRangeComeFromTheStream) {
  VideoFrame frame;
  const std::unique_ptr<VideoReader> plain = open_video(kFixtures + "plain.mp4");
  ASSERT_TRUE(plain->read(frame));
  EXPECT_EQ(frame.image.matrix, YuvMatrix::kBt601);
  EXPECT_EQ(frame.image.range, YuvRange::kLimited);
  const std::unique_ptr<VideoReader> full = open_video(kFixtures + "full_range.mp4");
  ASSERT_TRUE(full->read(frame));
  EXPECT_EQ(frame.image.matrix, YuvMatrix::kBt709);
  EXPECT_EQ(frame.image.range, YuvRange::kFull);
  const std::unique_ptr<VideoReader> untagged = open_video(kFixtures + "mpeg4.avi");
  ASSERT_TRUE(untagged->read(frame));
  EXPECT_EQ(frame.image.matrix, YuvMatrix::kBt601);  // below 720 rows
}

// From any point and with any step: the same pictures under the same numbers and times as without.
TEST(VideoReader, StartEndAndEveryAreExact) {
  for (const char* name :
       {"plain.mp4", "plain.mkv", "open_gop.mp4", "hevc_open_gop.mkv", "stream.ts", "vp8.webm",
        "variable_rate.mp4", "odd.webm", "mpeg4.avi", "intra_refresh.mp4", "intra_refresh.ts"}) {
    const Decoded all = decode(kFixtures + name);
    for (const double start : {0.0, 0.001, 0.04, 0.2, 0.3, 0.33, 0.48, 0.64, 0.65, 0.9, 1.4, 5.0}) {
      for (const double end : {-1.0, 0.5, 0.64}) {
        for (const int every : {1, 3}) {
          VideoOptions options;
          options.start_s = start;
          options.end_s = end;
          options.every = every;
          const Decoded part = decode(kFixtures + name, options);
          std::vector<int64_t> indices;
          std::vector<uint64_t> hashes;
          for (std::size_t i = 0; i < all.times.size(); ++i) {
            if (all.times[i] < start || (end >= 0 && all.times[i] >= end)) continue;
            if (all.indices[i] % every != 0) continue;
            indices.push_back(all.indices[i]);
            hashes.push_back(all.hashes[i]);
          }
          EXPECT_EQ(part.indices, indices)
              << name << " start " << start << " end " << end << " every " << every;
          EXPECT_EQ(part.hashes, hashes)
              << name << " start " << start << " end " << end << " every " << every;
          EXPECT_EQ(part.broken, 0);
        }
      }
    }
  }
}

void expect_part(const std::string& path, const Decoded& all, double start, double end) {
  VideoOptions options;
  options.start_s = start;
  options.end_s = end;
  const Decoded part = decode(path, options);
  std::vector<int64_t> indices;
  std::vector<uint64_t> hashes;
  std::vector<double> times;
  for (std::size_t i = 0; i < all.times.size(); ++i) {
    if (all.times[i] < start || (end >= 0 && all.times[i] >= end)) continue;
    indices.push_back(all.indices[i]);
    hashes.push_back(all.hashes[i]);
    times.push_back(all.times[i]);
  }
  EXPECT_EQ(part.indices, indices) << "start " << start << " end " << end;
  EXPECT_EQ(part.hashes, hashes) << "start " << start << " end " << end;
  ASSERT_EQ(part.times.size(), times.size());
  for (std::size_t i = 0; i < times.size(); ++i) EXPECT_NEAR(part.times[i], times[i], 1e-6);
}

// The first two of its twelve frames have times before the one that the file begins with: a
// broadcast that was cut within a group of pictures.
TEST(VideoReader, FramesBeforeTheStartHaveItsTime) {
  const std::string path = kFixtures + "early_pictures.ts";
  const Decoded all = decode(path);
  ASSERT_EQ(all.times.size(), 12u);
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(all.indices[i], i);
    EXPECT_NEAR(all.times[i], 0.04 * std::max(0, i - 2), 1e-6);
  }
  for (const double start : {0.0, 0.04, 0.1, 0.3}) {
    for (const double end : {-1.0, 0.02, 0.2}) expect_part(path, all, start, end);
  }
}

/// Moves the presentation time of the `which`th picture of a transport stream by `ticks` of 90 kHz.
void move_picture(std::vector<char>& stream, int which, int64_t ticks) {
  constexpr std::size_t kPacket = 188;
  for (std::size_t at = 0; at + kPacket <= stream.size(); at += kPacket) {
    auto* packet = reinterpret_cast<uint8_t*>(stream.data()) + at;
    const bool starts = (packet[1] & 0x40) != 0;
    uint8_t* pes = packet + 4 + ((packet[3] & 0x20) != 0 ? 1 + packet[4] : 0);
    if (!starts || pes + 14 > packet + kPacket || pes[0] != 0 || pes[1] != 0 || pes[2] != 1) {
      continue;
    }
    if ((pes[7] & 0x80) == 0 || which-- > 0) continue;
    add_to_time(pes + 9, ticks);
    return;
  }
  FAIL() << "no such picture";
}

// A picture that is shown before it is decoded, or together with another: its time is wrong, and no
// number may be left out for it.
TEST(VideoReader, ImpossibleTimesLeaveNoHolesInTheNumbers) {
  const Folder folder;
  const Decoded right = decode(kFixtures + "stream.ts");
  ASSERT_EQ(right.indices.size(), 20u);
  for (const int which : {3, 10, 13}) {
    for (const int64_t ticks : {-36000, -3600, 3600}) {
      std::vector<char> bytes = read_bytes(kFixtures + "stream.ts");
      move_picture(bytes, which, ticks);
      const std::string path = folder / "moved.ts";
      write_bytes(path, bytes);
      const Decoded moved = decode(path);
      ASSERT_EQ(moved.indices.size(), 20u) << which << " by " << ticks;
      for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(moved.indices[i], i) << which << " by " << ticks;
      EXPECT_EQ(moved.hashes, right.hashes) << which << " by " << ticks;
    }
  }
}

// Two recordings in one file: the second one's clock is behind the first one's.
TEST(VideoReader, TimesGoOnWhereTheClockJumpsBack) {
  const Folder folder;
  const std::vector<char> once = read_bytes(kFixtures + "stream.ts");
  std::vector<char> bytes = once;
  bytes.insert(bytes.end(), once.begin(), once.end());
  const std::string path = folder / "twice.ts";
  write_bytes(path, bytes);
  const Decoded all = decode(path);
  const Decoded first = decode(kFixtures + "stream.ts");
  ASSERT_EQ(all.times.size(), 40u);
  for (std::size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(all.indices[i], static_cast<int64_t>(i));
    EXPECT_NEAR(all.times[i], 0.04 * static_cast<double>(i), 1e-6);
    EXPECT_EQ(all.hashes[i], first.hashes[i % 20]);
  }
  for (const double start : {0.0, 0.3, 0.9, 1.2, 2.0}) {
    for (const double end : {-1.0, 0.5, 1.3}) expect_part(path, all, start, end);
  }
}

TEST(VideoReader, RefusesOptionsThatMeanNothing) {
  VideoOptions options;
  options.every = 0;
  EXPECT_NE(error_of(kFixtures + "plain.mp4", ErrorCode::kUsage, options), "");
  options.every = 1;
  options.start_s = NAN;
  EXPECT_NE(error_of(kFixtures + "plain.mp4", ErrorCode::kUsage, options), "");
}

// Frames whose bytes are damaged are left out and counted; the rest keep numbers and times, and the
// groups of pictures without damage keep every bit.
TEST(VideoReader, SkipsAndCountsBrokenFrames) {
  const Folder folder;
  const Decoded whole = decode(kFixtures + "plain.mp4");
  std::vector<char> bytes = read_bytes(kFixtures + "plain.mp4");
  // Wipe the middle third of the media data: the second of three groups of pictures and more.
  const std::string text(bytes.begin(), bytes.end());
  const std::size_t mdat = text.find("mdat");
  ASSERT_NE(mdat, std::string::npos);
  const std::size_t moov = text.find("moov");
  const std::size_t media_end = moov > mdat ? moov : bytes.size();
  const std::size_t length = media_end - mdat;
  for (std::size_t i = mdat + length * 45 / 100; i < mdat + length * 60 / 100; ++i) {
    bytes[i] = static_cast<char>(0xff);
  }
  write_bytes(folder / "damaged.mp4", bytes);
  for (const int threads : {1, 2}) {
    VideoOptions options;
    options.threads = threads;
    const Decoded found = decode(folder / "damaged.mp4", options);
    EXPECT_GT(found.broken, 0);
    EXPECT_GT(found.times.size(), 12u);
    EXPECT_LT(found.times.size(), 24u);
    for (std::size_t i = 0; i < found.times.size(); ++i) {
      const auto index = static_cast<std::size_t>(found.indices[i]);
      ASSERT_LT(index, whole.times.size());
      EXPECT_EQ(found.times[i], whole.times[index]);
      if (index < 8 || index >= 18) {
        EXPECT_EQ(found.hashes[i], whole.hashes[index]) << index;
      }
    }
  }
}

TEST(VideoReader, ReadsAFileThatEndsEarlyAsFarAsItGoes) {
  const Folder folder;
  std::vector<char> bytes = read_bytes(kFixtures + "plain.mkv");
  bytes.resize(bytes.size() / 2);
  write_bytes(folder / "cut.mkv", bytes);
  const Decoded whole = decode(kFixtures + "plain.mkv");
  const Decoded cut = decode(folder / "cut.mkv");
  EXPECT_GT(cut.times.size(), 4u);
  EXPECT_LT(cut.times.size(), 24u);
  for (std::size_t i = 0; i + 3 < cut.times.size(); ++i) {
    EXPECT_EQ(cut.hashes[i], whole.hashes[i]);
    EXPECT_EQ(cut.indices[i], static_cast<int64_t>(i));
  }
}

TEST(VideoReader, OneClearErrorForWhatIsNoVideo) {
  const Folder folder;
  const auto expect = [&](const std::string& path, const std::string& part) {
    const std::string message = error_of(path);
    EXPECT_NE(message.find(path), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  };
  expect(folder / "missing.mp4", "No such file");
  expect(folder / ".", "is a directory");
  write_bytes(folder / "empty.mp4", {});
  expect(folder / "empty.mp4", "is empty");
  const std::string words = "This is not a video. ";
  std::vector<char> text;
  for (int i = 0; i < 500; ++i) text.insert(text.end(), words.begin(), words.end());
  write_bytes(folder / "text.mp4", text);
  expect(folder / "text.mp4", "video");
  write_bytes(folder / "text.txt", text);
  expect(folder / "text.txt", "is not a video");
  expect(kFixtures + "sound.m4a", "has no video stream");
  expect(kFixtures + "cover.m4a", "has no video stream");
  expect(kFixtures + "no_frames.mp4", "no frame");

  // A picture under a video's name: a 1 x 1 grey PNG.
  const unsigned char png[] = {
      0x89, 'P',  'N',  'G',  13,  10,  26,  10,   0,    0,    0,    13,  'I',  'H',  'D',  'R',  0,
      0,    0,    1,    0,    0,   0,   1,   8,    0,    0,    0,    0,   0x3a, 0x7e, 0x9b, 0x55, 0,
      0,    0,    10,   'I',  'D', 'A', 'T', 0x78, 0x9c, 0x63, 0x60, 0,   0,    0,    2,    0,    1,
      0x48, 0xaf, 0xa4, 0x71, 0,   0,   0,   0,    'I',  'E',  'N',  'D', 0xae, 0x42, 0x60, 0x82};
  write_bytes(folder / "picture.mp4", {std::begin(png), std::end(png)});
  expect(folder / "picture.mp4", "is a picture");

  // The index is missing: the usual end of an interrupted recording.
  std::vector<char> bytes = read_bytes(kFixtures + "plain.mp4");
  bytes.resize(bytes.size() / 2);
  write_bytes(folder / "cut.mp4", bytes);
  expect(folder / "cut.mp4", "moov atom not found");

  const std::string y4m = "YUV4MPEG2 W30000 H30000 F25:1 C420\nFRAME\n";
  write_bytes(folder / "huge.y4m", {y4m.begin(), y4m.end()});
  expect(folder / "huge.y4m", "30000x30000");
}

// Whatever is done to the bytes, the reader ends with frames or with one Error.
TEST(VideoReader, SurvivesDamageAnywhere) {
  const Folder folder;
  uint32_t state = 12345;
  const auto random = [&] { return state = state * 1664525u + 1013904223u; };
  int errors = 0, read = 0;
  for (const char* name : {"plain.mp4", "odd.webm", "mpeg4.avi", "stream.ts", "hevc_ten_bit.mp4",
                           "plain.mkv", "mjpeg_422.avi", "turn_90.mp4"}) {
    const std::vector<char> original = read_bytes(kFixtures + name);
    for (int round = 0; round < 12; ++round) {
      std::vector<char> bytes = original;
      const int changes = 1 << (random() >> 24) % 8;
      for (int i = 0; i < changes; ++i) {
        bytes[(random() >> 4) % bytes.size()] = static_cast<char>(random() >> 13);
      }
      if (round % 4 == 3) bytes.resize((random() >> 4) % bytes.size() + 1);
      const std::string path = folder / ("damaged" + fs::path(name).extension().string());
      write_bytes(path, bytes);
      try {
        VideoOptions options;
        options.threads = 1 + round % 2;
        options.start_s = round % 3 == 0 ? 0.1 : 0;
        const std::unique_ptr<VideoReader> reader = open_video(path, options);
        VideoFrame frame;
        int64_t frames = 0, last = -1;
        while (frames < 1000 && reader->read(frame)) {
          EXPECT_GT(frame.index, last);
          last = frame.index;
          EXPECT_EQ(frame.image.width, reader->info().width);
          EXPECT_EQ(frame.image.height, reader->info().height);
          ++frames;
        }
        EXPECT_LT(frames, 1000);
        ++read;
      } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::kInput))
            << error.what();
        ++errors;
      }
    }
  }
  EXPECT_GT(errors, 0);
  EXPECT_GT(read, 0);
}

TEST(VideoReader, StopsWhenAsked) {
  std::atomic<bool> stop{false};
  const std::unique_ptr<VideoReader> reader =
      open_video(kFixtures + "plain.mp4", {}, [&] { return stop.load(); });
  VideoFrame frame;
  ASSERT_TRUE(reader->read(frame));
  stop = true;
  try {
    while (reader->read(frame)) {
    }
    FAIL() << "not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
}

TEST(VideoReader, ReadsOverHttp) {
  const std::vector<char> body = read_bytes(kFixtures + "stream.ts");
  const Server server([&](int client) {
    char request[4096];
    if (recv(client, request, sizeof request, 0) <= 0) return;
    std::string reply =
        "HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n"
        "Content-Length: " +
        std::to_string(body.size()) + "\r\n\r\n";
    reply.append(body.begin(), body.end());
    send_all(client, reply);
  });
  const Decoded over_http = decode(server.url("stream.ts"));
  EXPECT_EQ(over_http.hashes, decode(kFixtures + "stream.ts").hashes);
}

// A server that takes the request and never answers: a request to stop must get through.
TEST(VideoReader, ABlockedReadCanBeCancelled) {
  std::atomic<bool> stop{false};
  const Server server([&](int client) {
    char byte;
    recv(client, &byte, 1, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop = true;
    while (recv(client, &byte, 1, 0) > 0) {  // until the client gives up
    }
  });
  const auto start = std::chrono::steady_clock::now();
  try {
    open_video(server.url("never.mp4"), {}, [&] { return stop.load(); });
    ADD_FAILURE() << "not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(VideoReader, UnreachableSourcesAreInputErrors) {
  EXPECT_NE(error_of("http://127.0.0.1:1/clip.mp4").find("http://127.0.0.1:1/clip.mp4"),
            std::string::npos);
  EXPECT_NE(error_of("rtsp://127.0.0.1:1/live").find("rtsp://127.0.0.1:1/live"), std::string::npos);
  EXPECT_NE(error_of("/dev/video97").find("/dev/video97"), std::string::npos);
  const std::string refused = error_of("RTSP://127.0.0.1:1/live");
  EXPECT_NE(refused.find("RTSP://127.0.0.1:1/live"), std::string::npos) << refused;
  EXPECT_NE(refused.find("refused"), std::string::npos) << refused;
  EXPECT_EQ(refused.find("timeout="), std::string::npos) << refused;
  EXPECT_NE(error_of("nonsense://a").find("nonsense://a"), std::string::npos);
}

TEST(VideoReader, FfmpegsMessagesGoToTheLog) {
  const Folder folder;
  std::vector<char> bytes = read_bytes(kFixtures + "plain.mp4");
  bytes.resize(bytes.size() / 2);
  write_bytes(folder / "cut.mp4", bytes);
  const LogCapture log;
  testing::internal::CaptureStderr();
  error_of(folder / "cut.mp4");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_NE(log.text().find("3 FFmpeg: "), std::string::npos) << log.text();
}

}  // namespace
}  // namespace rfseg
