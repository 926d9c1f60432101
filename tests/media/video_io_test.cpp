#include "media/video_io.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <sstream>
#include <thread>

#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

namespace fs = std::filesystem;

const std::string kFixtures = RFSEG_SOURCE_DIR "/tests/media/video/";

/// A folder of its own that goes away with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "rfseg_video_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::size_t size() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
};

std::vector<char> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string pixel_name(const ImageView& image) {
  switch (image.format) {
    case PixelFormat::kI420:
      return image.range == YuvRange::kFull ? "yuvj420p" : "yuv420p";
    case PixelFormat::kNv12:
      return "nv12";
    case PixelFormat::kP010:
      return "p010le";
    case PixelFormat::kRgb8:
      return "rgb24";
    default:
      return "?";
  }
}

/// Appends the planes without padding, as `ffmpeg -f rawvideo` writes them.
void append_planes(const ImageView& image, std::vector<uint8_t>& out) {
  const int cw = (image.width + 1) / 2, ch = (image.height + 1) / 2;
  const auto plane = [&](int i, int row_bytes, int rows) {
    for (int y = 0; y < rows; ++y) {
      const uint8_t* row = image.planes[i] + y * image.strides[i];
      out.insert(out.end(), row, row + row_bytes);
    }
  };
  switch (image.format) {
    case PixelFormat::kI420:
      plane(0, image.width, image.height), plane(1, cw, ch), plane(2, cw, ch);
      break;
    case PixelFormat::kP010:
      plane(0, 2 * image.width, image.height), plane(1, 4 * cw, ch);
      break;
    case PixelFormat::kRgb8:
      plane(0, 3 * image.width, image.height);
      break;
    default:
      FAIL() << "unexpected format";
  }
}

uint64_t fnv(const std::vector<uint8_t>& bytes, uint64_t value = 0xcbf29ce484222325u) {
  for (const uint8_t byte : bytes) value = (value ^ byte) * 0x100000001b3u;
  return value;
}

/// What one reading of a video gave.
struct Decoded {
  std::vector<int64_t> indices;
  std::vector<double> times;
  std::vector<uint64_t> hashes;         // of each frame
  uint64_t hash = 0xcbf29ce484222325u;  // of all frames
  std::string pixels;
  int width = 0, height = 0;
  int64_t broken = 0;
  VideoInfo info;
};

Decoded decode(const std::string& path, VideoOptions options = {}) {
  if (options.threads == 0) options.threads = 1;
  Decoded result;
  const std::unique_ptr<VideoReader> reader = open_video(path, options);
  VideoFrame frame;
  std::vector<uint8_t> bytes;
  while (reader->read(frame)) {
    bytes.clear();
    append_planes(frame.image, bytes);
    result.hash = fnv(bytes, result.hash);
    result.hashes.push_back(fnv(bytes));
    result.indices.push_back(frame.index);
    result.times.push_back(frame.time_s);
    result.pixels = pixel_name(frame.image);
    result.width = frame.image.width;
    result.height = frame.image.height;
  }
  EXPECT_FALSE(reader->read(frame)) << "frames after the end";
  result.broken = reader->broken_frames();
  result.info = reader->info();
  return result;
}

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
  ASSERT_EQ(goldens.size(), 18u);
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
  for (const char* name : {"plain.mp4", "plain.mkv", "open_gop.mp4", "hevc_open_gop.mkv",
                           "stream.ts", "vp8.webm", "variable_rate.mp4", "odd.webm", "mpeg4.avi"}) {
    const Decoded all = decode(kFixtures + name);
    for (const double start : {0.0, 0.001, 0.04, 0.2, 0.3, 0.33, 0.48, 0.64, 0.65, 0.9, 5.0}) {
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

/// A TCP server on this machine that gives every client to `serve`, one after the other.
class Server {
 public:
  explicit Server(std::function<void(int client)> serve) : serve_(std::move(serve)) {
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_, 8), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      for (int client; (client = accept(socket_, nullptr, nullptr)) >= 0; close(client)) {
        serve_(client);
      }
    });
  }
  ~Server() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  std::string url(const std::string& name) const {
    return "http://127.0.0.1:" + std::to_string(port_) + "/" + name;
  }

 private:
  std::function<void(int)> serve_;
  int socket_ = -1, port_ = 0;
  std::thread thread_;
};

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
    for (std::size_t at = 0; at < reply.size();) {
      const ssize_t sent = send(client, reply.data() + at, reply.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return;
      at += static_cast<std::size_t>(sent);
    }
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

Image picture(int width, int height, int shift) {
  Image image(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* p = &image.pixels[(static_cast<std::size_t>(y) * width + x) * 3];
      p[0] = static_cast<uint8_t>(40 + 2 * ((x + shift) % 80));
      p[1] = static_cast<uint8_t>(60 + y);
      p[2] = static_cast<uint8_t>(200 - y);
    }
  }
  return image;
}

TEST(VideoWriter, WritesWhatItIsGiven) {
  const Folder folder;
  const std::string path = folder / "out.mp4";
  const std::vector<double> times = {0, 0.04, 0.08, 0.25, 0.25, 0.1, 1.5};  // two out of order
  {
    const std::unique_ptr<VideoWriter> writer = create_video(path, 96, 64, 25);
    for (std::size_t i = 0; i < times.size(); ++i) {
      writer->write(picture(96, 64, static_cast<int>(i)).view(), times[i]);
    }
    EXPECT_FALSE(fs::exists(path)) << "the name appears before the file is whole";
    writer->finish();
  }
  EXPECT_TRUE(fs::exists(path));
  EXPECT_EQ(folder.size(), 1u);
  const std::unique_ptr<VideoReader> reader = open_video(path);
  EXPECT_TRUE(reader->info().codec == "h264" || reader->info().codec == "mpeg4");
  EXPECT_EQ(reader->info().frames, 7);
  VideoFrame frame;
  double last = -1;
  for (std::size_t i = 0; i < times.size(); ++i) {
    ASSERT_TRUE(reader->read(frame));
    EXPECT_EQ(frame.image.width, 96);
    EXPECT_EQ(frame.image.height, 64);
    EXPECT_EQ(frame.image.format, PixelFormat::kI420);
    EXPECT_EQ(frame.image.matrix, YuvMatrix::kBt601);
    EXPECT_EQ(frame.image.range, YuvRange::kLimited);
    EXPECT_GT(frame.time_s, last);
    const double expected = times[i] >= last ? times[i] : last;
    EXPECT_NEAR(frame.time_s, expected, 1.1 / 60000);
    last = frame.time_s;
    const Image given = picture(96, 64, static_cast<int>(i));
    double error = 0;
    for (int y = 0; y < 64; ++y) {
      for (int x = 0; x < 96; ++x) {
        const uint8_t* p = &given.pixels[(static_cast<std::size_t>(y) * 96 + x) * 3];
        const double luma = 16 + 219 * (0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]) / 255;
        error += std::abs(luma - frame.image.planes[0][y * frame.image.strides[0] + x]);
      }
    }
    EXPECT_LT(error / (96 * 64), 4) << "mean luma error of frame " << i;
  }
  EXPECT_FALSE(reader->read(frame));
  // The index stands before the pictures, so that a browser can start at once.
  const std::vector<char> bytes = read_bytes(path);
  const std::string text(bytes.begin(), bytes.end());
  EXPECT_LT(text.find("moov"), text.find("mdat"));
}

TEST(VideoWriter, PadsOddSizesByRepetition) {
  const Folder folder;
  const std::string path = folder / "odd.mp4";
  const std::unique_ptr<VideoWriter> writer = create_video(path, 31, 17, 10);
  for (int i = 0; i < 3; ++i) writer->write(picture(31, 17, 0).view(), i * 0.1);
  writer->finish();
  const std::unique_ptr<VideoReader> reader = open_video(path);
  EXPECT_EQ(reader->info().width, 32);
  EXPECT_EQ(reader->info().height, 18);
  VideoFrame frame;
  ASSERT_TRUE(reader->read(frame));
  const ImageView& image = frame.image;
  double difference = 0;
  for (int y = 0; y < 17; ++y) {
    const uint8_t* row = image.planes[0] + y * image.strides[0];
    difference += std::abs(row[31] - row[30]);
  }
  EXPECT_LT(difference / 17, 6) << "the added column is unlike its neighbour";
}

TEST(VideoWriter, LeavesNothingWithoutFinish) {
  const Folder folder;
  {
    const std::unique_ptr<VideoWriter> writer = create_video(folder / "a.mp4", 32, 32, 25);
    for (int i = 0; i < 60; ++i) writer->write(picture(32, 32, i).view(), i * 0.04);
  }
  EXPECT_EQ(folder.size(), 0u);
  {
    const std::unique_ptr<VideoWriter> writer = create_video(folder / "b.mp4", 32, 32, 25);
    writer->finish();
    writer->finish();
  }
  EXPECT_EQ(folder.size(), 0u) << "a video without frames";
}

TEST(VideoWriter, RefusesOtherFrames) {
  const Folder folder;
  const std::unique_ptr<VideoWriter> writer = create_video(folder / "a.mp4", 32, 32, 25);
  EXPECT_THROW(writer->write(picture(32, 34, 0).view(), 0), Error);
  EXPECT_THROW(create_video(folder / "b.mp4", 0, 32, 25), Error);
  EXPECT_THROW(create_video(folder / "c.mp4", 32, 1 << 20, 25), Error);
}

TEST(VideoWriter, ReportsWhereItCannotWrite) {
  const Folder folder;
  try {
    create_video(folder / "no/such/folder.mp4", 32, 32, 25);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("no/such/folder.mp4"), std::string::npos);
  }
  // A full disk.
  try {
    const std::unique_ptr<VideoWriter> writer = create_video("/dev/full", 256, 256, 25);
    for (int i = 0; i < 300; ++i) writer->write(picture(256, 256, 7 * i).view(), i * 0.04);
    writer->finish();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
}

TEST(VideoWriter, WritesIntoAPipe) {
  const Folder folder;
  const std::string pipe = folder / "pipe.mp4";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::vector<char> bytes;
  std::thread drain([&] { bytes = read_bytes(pipe); });
  const std::unique_ptr<VideoWriter> writer = create_video(pipe, 64, 48, 25);
  for (int i = 0; i < 10; ++i) writer->write(picture(64, 48, i).view(), i * 0.04);
  writer->finish();
  drain.join();
  write_bytes(folder / "copy.mp4", bytes);
  EXPECT_EQ(decode(folder / "copy.mp4").times.size(), 10u);
}

TEST(VideoModule, SaysWhatToInstallWhereItIsMissing) {
  // A fresh process: this one has loaded the module for good.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        setenv("RFSEG_LIBAV_MODULE", "/no/such/module.so", 1);
        try {
          open_video(kFixtures + "plain.mp4");
        } catch (const Error& error) {
          const std::string message = error.what();
          const bool good = error.code() == ErrorCode::kInput &&
                            message.find("/no/such/module.so") != std::string::npos &&
                            message.find("apt-get install") != std::string::npos &&
                            video_backend_version().empty();
          std::_Exit(good ? 7 : 1);
        }
        std::_Exit(2);
      },
      testing::ExitedWithCode(7), "");
}

TEST(VideoModule, TellsItsVersion) {
  EXPECT_NE(video_backend_version().find("libavcodec"), std::string::npos);
}

TEST(VideoName, KnowsVideosStreamsAndDevices) {
  for (const char* name : {"a.mp4", "/x/B.MOV", "c.tar.mkv", "http://host/a", "https://h/v.mp4",
                           "rtsp://camera:554/live", "/dev/video0", "x.webm", "clip.gif"}) {
    EXPECT_TRUE(is_video_name(name)) << name;
  }
  for (const char* name : {"a.jpg", "mp4", "/a.mp4/b", ".mp4", "dir/.mkv", "/dev/video",
                           "/dev/videoX", "a.mp4.png", "ftp://host/a.mp4", "-", ""}) {
    EXPECT_FALSE(is_video_name(name)) << name;
  }
}

}  // namespace
}  // namespace rfseg
