#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "core/temporary_folder.h"
#include "media/video_io.h"

namespace rfseg {

namespace fs = std::filesystem;

inline const std::string kFixtures = RFSEG_SOURCE_DIR "/tests/media/video/";

using Folder = test::TemporaryFolder;

inline std::vector<char> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string pixel_name(const ImageView& image) {
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
inline void append_planes(const ImageView& image, std::vector<uint8_t>& out) {
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

inline uint64_t fnv(const std::vector<uint8_t>& bytes, uint64_t value = 0xcbf29ce484222325u) {
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

inline Decoded decode(const std::string& path, VideoOptions options = {}) {
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

/// Adds `ticks` of 90 kHz to the 33-bit time stamp at `p`, as a PES header has it.
inline void add_to_time(uint8_t* p, int64_t ticks) {
  int64_t time = (int64_t{p[0]} >> 1 & 7) << 30 | int64_t{p[1]} << 22 | int64_t{p[2]} >> 1 << 15 |
                 int64_t{p[3]} << 7 | p[4] >> 1;
  time += ticks;
  p[0] = static_cast<uint8_t>((p[0] & 0xf0) | (time >> 30 & 7) << 1 | 1);
  p[1] = static_cast<uint8_t>(time >> 22);
  p[2] = static_cast<uint8_t>((time >> 15 & 0x7f) << 1 | 1);
  p[3] = static_cast<uint8_t>(time >> 7);
  p[4] = static_cast<uint8_t>((time & 0x7f) << 1 | 1);
}

}  // namespace rfseg
