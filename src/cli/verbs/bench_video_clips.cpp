#include "cli/verbs/bench_video_clips.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "cli/common.h"
#include "media/video_io.h"
#include "pipeline/batch_runner.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace fs = std::filesystem;
namespace {

constexpr int kMaxSide = 8192;
constexpr double kFrameRate = 30;

/// Bilinear, for making clips: their pixels need only be plausible.
Image scaled(const Image& from, int width, int height) {
  if (from.width == width && from.height == height) return from;
  Image to(width, height);
  for (int y = 0; y < height; ++y) {
    const double fy = std::clamp((y + 0.5) * from.height / height - 0.5, 0.0, from.height - 1.0);
    const int y0 = static_cast<int>(fy), y1 = std::min(y0 + 1, from.height - 1);
    for (int x = 0; x < width; ++x) {
      const double fx = std::clamp((x + 0.5) * from.width / width - 0.5, 0.0, from.width - 1.0);
      const int x0 = static_cast<int>(fx), x1 = std::min(x0 + 1, from.width - 1);
      const auto at = [&](int xx, int yy, int c) {
        return static_cast<double>(
            from.pixels[(static_cast<std::size_t>(yy) * from.width + xx) * 3 + c]);
      };
      for (int c = 0; c < 3; ++c) {
        const double top = at(x0, y0, c) + (at(x1, y0, c) - at(x0, y0, c)) * (fx - x0);
        const double bottom = at(x0, y1, c) + (at(x1, y1, c) - at(x0, y1, c)) * (fx - x0);
        to.pixels[(static_cast<std::size_t>(y) * width + x) * 3 + c] =
            static_cast<uint8_t>(top + (bottom - top) * (fy - y0) + 0.5);
      }
    }
  }
  return to;
}

}  // namespace

void stop_if_interrupted() {
  if (interrupted()) throw Error(ErrorCode::kCancelled, "bench --video: interrupted");
}

ScratchFolder::ScratchFolder() {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) {
    const char* named = std::getenv("TMPDIR");
    throw Error(ErrorCode::kOutput,
                fmt::format("TMPDIR: '{}' cannot be used: {}; a folder for temporary files is "
                            "accepted",
                            named != nullptr ? named : "", error.message()));
  }
  std::string name = (parent / "rfseg-bench-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    throw Error(ErrorCode::kOutput,
                fmt::format("{}: cannot be made: {}; TMPDIR names another folder", name,
                            std::strerror(errno)));
  }
  path_ = name;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::pair<int, int>> parse_video_sizes(const std::string& text) {
  std::vector<std::pair<int, int>> sizes;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string size = text.substr(at, comma - at);
    try {
      sizes.push_back(parse_size(size, "--video-sizes", kMaxSide));  // the first is the width here
    } catch (const Error&) {
      refuse_value("--video-sizes", size,
                   fmt::format("WxH in pixels, each 1 to {}, for example 1280x720", kMaxSide));
    }
    at = comma + 1;
  }
  return sizes;
}

std::string clip_of_size(const std::vector<std::string>& files, int width, int height, int frames,
                         const ScratchFolder& scratch, const std::function<void()>& tick) {
  for (const std::string& file : files) {
    const VideoInfo info = open_video(file)->info();
    if (info.width == width && info.height == height) return file;
  }
  std::string path = scratch.file(fmt::format("{}x{}.mp4", width, height));
  const auto reader = open_video(files.front());
  const auto writer = create_video(path, width, height, kFrameRate);
  VideoFrame frame;
  for (int written = 0; written < frames && reader->read(frame); ++written) {
    stop_if_interrupted();
    writer->write(scaled(to_rgb(frame.image, frame.held), width, height).view(),
                  written / kFrameRate);
    tick();
  }
  writer->finish();
  return path;
}

}  // namespace rfseg::cli
