#include "cli/overlay_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "cli/common.h"
#include "core/files.h"
#include "media/image_io.h"
#include "media/video_encoder_thread.h"
#include "media/video_io.h"
#include "output/overlay.h"

namespace rfseg::cli {
namespace fs = std::filesystem;
namespace {

constexpr int kJpegQuality = 92;
// Time stamps say when a frame is shown; the rate only guides the encoder.
constexpr double kFrameRateHint = 25;

std::string lower_extension(const std::string& path) {
  std::string extension = fs::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

// A URL without its query.
std::string file_part(const std::string& file) {
  return file.find("://") == std::string::npos ? file : file.substr(0, file.find_first_of("?#"));
}

// JPEG stays JPEG, everything else becomes PNG.
std::string picture_extension(const std::string& file) {
  const std::string extension = lower_extension(file_part(file));
  return extension == ".jpg" || extension == ".jpeg" ? extension : ".png";
}

// A name for what comes from a URL or a device too: "rtsp://host/cam?x" -> "cam".
std::string base_name(const std::string& file) {
  std::string name = file_part(file);
  while (!name.empty() && name.back() == '/') name.pop_back();
  name = fs::path(name).stem().string();
  return name.empty() ? "output" : name;
}

}  // namespace

OverlayFiles::OverlayFiles(std::string folder, FileClaims& claims)
    : folder_(std::move(folder)), claims_(claims) {}

OverlayFiles::~OverlayFiles() = default;

void OverlayFiles::expect(const std::string& file, bool video) {
  expected_.emplace(file, unique_path(file, video ? ".mp4" : picture_extension(file), true));
}

std::string OverlayFiles::unique_path(const std::string& file, const std::string& extension,
                                      bool expected) {
  const std::string base = base_name(file);
  std::string name = base + extension;
  std::string path = (fs::path(folder_) / name).string();
  for (int i = 2; !taken_.insert(name).second || claims_.is_written(path) ||
                  (!expected && claims_.is_read(path));
       ++i) {
    name = fmt::format("{}-{}{}", base, i, extension);
    path = (fs::path(folder_) / name).string();
  }
  claims_.write("--overlay", path);
  return path;
}

std::string OverlayFiles::take_path(const std::string& file, const std::string& extension) {
  const auto at = expected_.lower_bound(file);  // the first of equal ones
  if (at == expected_.end() || at->first != file) return unique_path(file, extension, false);
  std::string path = std::move(at->second);
  expected_.erase(at);
  return path;
}

void OverlayFiles::close(Video& video) {
  if (!video.writer) return;
  video.writer->finish();
  const AsyncVideoWriter::Stats stats = video.writer->stats();
  encode_ms_ += stats.encode_seconds * 1000;
  queue_max_ = std::max(queue_max_, stats.max_queue_depth);
  video.writer.reset();
}

void OverlayFiles::write(Image image, const ResultRecord& record, int stream) {
  draw_detections(image, record.detections, class_names_);
  Video& video = videos_[stream];
  if (!record.frame) {
    close(video);
    const std::string extension = picture_extension(record.file);
    const bool jpeg = extension != ".png";
    const std::string path = take_path(record.file, extension);
    const std::vector<uint8_t> bytes =
        jpeg ? encode_jpeg(image.view(), kJpegQuality)
             : encode_png(image.pixels.data(), image.width, image.height, 3);
    write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return;
  }
  // A stream that changes its size goes on in a file of its own.
  if (video.file != record.file || video.width != image.width || video.height != image.height ||
      *record.frame <= video.last_frame) {
    close(video);
  }
  if (!video.writer) {
    video.file = record.file;
    video.width = image.width;
    video.height = image.height;
    video.start_s = record.time_s.value_or(0);
    video.writer = std::make_unique<AsyncVideoWriter>(
        create_video(take_path(record.file, ".mp4"), image.width, image.height, kFrameRateHint));
  }
  video.last_frame = *record.frame;
  video.writer->write(std::move(image), record.time_s.value_or(0) - video.start_s);
}

void OverlayFiles::end_stream(int stream) {
  const auto video = videos_.find(stream);
  if (video == videos_.end()) return;
  close(video->second);
  videos_.erase(video);
}

std::vector<int> OverlayFiles::open_streams() const {
  std::vector<int> streams;
  for (const auto& [stream, video] : videos_) {
    if (video.writer) streams.push_back(stream);
  }
  return streams;
}

void OverlayFiles::finish() {
  for (auto& [stream, video] : videos_) close(video);
}

}  // namespace rfseg::cli
