#include "pipeline/frame_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <istream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "core/cpu.h"
#include "core/log.h"
#include "media/http_fetch.h"
#include "rfseg/error.h"

namespace rfseg {
namespace fs = std::filesystem;
namespace {

void add_directory(const std::string& path, std::vector<Input>& out) {
  std::error_code error;
  std::vector<std::string> names;
  int videos = 0;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    std::string name = it->path().string();
    // Hidden ones are other programs' notes: macOS keeps a "._a.jpg" beside a copied "a.jpg".
    if (it->path().filename().string().starts_with('.') || !it->is_regular_file(ignored)) continue;
    if (is_image_name(name)) {
      names.push_back(std::move(name));
    } else if (is_video_name(name)) {
      ++videos;
    }
  }
  if (error) {
    out.push_back({path, InputKind::kImage,
                   fmt::format("{}: cannot read the directory: {}", path, error.message())});
    return;
  }
  if (names.empty()) {
    out.push_back(
        {path, InputKind::kImage,
         fmt::format("{}: the directory holds no picture (JPEG, PNG, BMP, PPM, WebP, TIFF)",
                     path)});
  }
  if (videos > 0) {
    log_warning(fmt::format(
        "{}: {} video(s) left out: a directory stands for its pictures; name videos themselves",
        path, videos));
  }
  std::sort(names.begin(), names.end());
  for (std::string& name : names) out.push_back({std::move(name), InputKind::kImage, ""});
}

// A webcam, also under a name such as /dev/v4l/by-id/...
bool is_webcam(const std::string& path) {
  if (path.starts_with("/dev/video")) return true;
  std::error_code error;
  return fs::is_character_file(path, error) &&
         fs::canonical(path, error).string().starts_with("/dev/video");
}

const char* type_name(fs::file_type type) {
  return type == fs::file_type::fifo     ? "a pipe"
         : type == fs::file_type::socket ? "a socket"
                                         : "a device";
}

void add_argument(const std::string& path, std::vector<Input>& out) {
  if (path.find("://") != std::string::npos || is_webcam(path)) {
    out.push_back({path, is_image_url(path) ? InputKind::kImage : InputKind::kVideo, ""});
    return;
  }
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    out.push_back({path, InputKind::kImage, fmt::format("{}: no such file or directory", path)});
  } else if (error) {
    out.push_back(
        {path, InputKind::kImage, fmt::format("{}: cannot open: {}", path, error.message())});
  } else if (fs::is_directory(status)) {
    add_directory(path, out);
  } else if (!fs::is_regular_file(status)) {
    // Opening a pipe waits for its writer, reading a device may never end.
    out.push_back({path, InputKind::kImage,
                   fmt::format("{}: is {}; a file, a folder, a URL or /dev/videoN is accepted",
                               path, type_name(status.type()))});
  } else {
    // What is not named as a video is tried as a picture: its decoder looks at the content.
    out.push_back({path, is_video_name(path) ? InputKind::kVideo : InputKind::kImage, ""});
  }
}

/// Whether a file of pictures begins like this: JPEG, PNG, GIF, TIFF, WebP or AVI, MP4, Matroska.
/// Not what read_image() recognises: a path, too, may begin as a BMP or PPM does.
bool looks_like_pictures(std::string_view bytes) {
  using namespace std::string_view_literals;
  for (const std::string_view first :
       {"\xff\xd8\xff"sv, "\x89PNG\r\n"sv, "GIF8"sv, "II*\0"sv, "MM\0*"sv, "\x1a\x45\xdf\xa3"sv}) {
    if (bytes.starts_with(first)) return true;
  }
  if (bytes.size() < 12) return false;
  const std::string_view kind = bytes.substr(8, 4);
  return bytes.substr(4, 4) == "ftyp" ||
         (bytes.starts_with("RIFF") && (kind == "WEBP" || kind == "AVI "));
}

}  // namespace

std::vector<std::string> read_path_list(std::istream& list) {
  const std::string bytes{std::istreambuf_iterator<char>(list), {}};
  std::string_view rest = bytes;
  if (looks_like_pictures(rest)) {
    throw Error(ErrorCode::kInput,
                "-: a list of paths is read from standard input, and this is a picture or a video; "
                "name the file");
  }
  if (rest.starts_with("\xff\xfe") || rest.starts_with("\xfe\xff")) {
    throw Error(ErrorCode::kInput,
                "-: the list of paths is UTF-16 text; bytes as the file system has them, one path "
                "a line or ended by NUL, are accepted");
  }
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  const bool zero = rest.find('\0') != std::string_view::npos;
  std::vector<std::string> paths;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(zero ? '\0' : '\n'), rest.size());
    std::string_view path = rest.substr(0, end);
    if (!zero && path.ends_with('\r')) path.remove_suffix(1);
    if (!path.empty()) paths.emplace_back(path);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return paths;
}

std::vector<Input> expand_inputs(const std::vector<std::string>& arguments, std::istream& list) {
  std::vector<Input> inputs;
  for (const std::string& argument : arguments) {
    if (argument != "-") {
      add_argument(argument, inputs);
      continue;
    }
    // In a list "-" is the name of a file.
    for (const std::string& path : read_path_list(list)) {
      add_argument(path == "-" ? "./-" : path, inputs);
    }
  }
  return inputs;
}

InputSource::InputSource(std::vector<Input> inputs, InputOptions options)
    : inputs_(std::move(inputs)), options_(std::move(options)) {
  estimate_total();
}

bool InputSource::live() const { return video_ != nullptr && video_->info().live; }

// Pictures count one each; of videos only the current one's length is known.
void InputSource::estimate_total() {
  int64_t total = delivered_;
  for (std::size_t i = at_; i < inputs_.size(); ++i) {
    if (inputs_[i].kind == InputKind::kVideo) {
      estimated_total_ = 0;
      return;
    }
    ++total;
  }
  if (video_ != nullptr) {
    const VideoInfo& info = video_->info();
    const double rate = info.frame_rate > 0 ? info.frame_rate : 25;
    double frames = static_cast<double>(info.frames);
    if (options_.video.end_s >= 0) frames = std::min(frames, options_.video.end_s * rate);
    frames -= options_.video.start_s * rate;
    if (frames <= 0) {
      estimated_total_ = 0;
      return;
    }
    total += static_cast<int64_t>(std::ceil(frames / std::max(1, options_.video.every)));
  }
  estimated_total_ = total;
}

// A truncated file gives the frames that it holds; that it is no whole video must show.
void InputSource::check_length(const std::string& file) {
  if (video_->given_up()) ++cut_short_;  // as was logged
  const VideoShortfall missing = video_->shortfall();
  if (missing.stated_s > 0) {
    ++cut_short_;
    log_message(
        LogLevel::kError,
        fmt::format("{}: the video ends after {:.2f} of {:.2f} seconds: truncated or damaged", file,
                    missing.ends_s, missing.stated_s));
    return;
  }
  const VideoOptions& options = options_.video;
  if (video_delivered_ == 0 && options.start_s > 0 && options.end_s < 0 && !video_->info().live) {
    log_warning(fmt::format("{}: no frame at or after second {}", file, options.start_s));
  }
}

// What it has counted stays.
void InputSource::close_video() {
  if (video_ == nullptr) return;
  broken_frames_ += video_->broken_frames();
  reconnects_ += video_->reconnects();
  delivered_ += video_delivered_;
  video_.reset();
}

bool InputSource::next_video_frame(SourceFrame& frame) {
  VideoFrame decoded;
  if (!video_->read(decoded)) {
    check_length(frame.file);
    close_video();
    return false;
  }
  ++video_delivered_;
  frame.view = decoded.image;
  frame.held = std::move(decoded.held);
  frame.frame = decoded.index;
  frame.time_s = decoded.time_s;
  return true;
}

Image InputSource::read_picture(const std::string& path) {
  const auto start = std::chrono::steady_clock::now();
  const auto count = [&](Image image) {
    picture_work_us_ += std::chrono::duration_cast<std::chrono::microseconds>(
                            std::chrono::steady_clock::now() - start)
                            .count();
    return image;
  };
  if (!is_image_url(path)) return count(decode_image(path, options_.image));
  FetchOptions fetch;
  fetch.cancelled = options_.cancelled;
  const std::vector<uint8_t> bytes = fetch_url(path, fetch);
  return count(decode_image(bytes.data(), bytes.size(), path, options_.image));
}

// The pictures of a row of inputs are decoded at once; what follows a video waits for its end.
Image InputSource::next_picture(std::size_t index) {
  constexpr int kMostThreads = 16;
  const int threads = options_.picture_threads > 0 ? options_.picture_threads
                                                   : std::min(available_cpus(), kMostThreads);
  const bool alone = index + 1 == inputs_.size() || inputs_[index + 1].kind != InputKind::kImage;
  if (pictures_ == nullptr && (threads == 1 || alone)) return read_picture(inputs_[index].path);
  if (pictures_ == nullptr) {
    pictures_ = std::make_unique<PicturesAhead>(
        [this](const std::string& path) { return read_picture(path); }, threads);
  }
  for (asked_ = std::max(asked_, index); asked_ < inputs_.size(); ++asked_) {
    const Input& input = inputs_[asked_];
    if (input.kind != InputKind::kImage || !pictures_->has_room()) break;
    if (input.error.empty()) pictures_->ask(input.path);
  }
  return pictures_->take();
}

bool InputSource::next(SourceFrame& frame) {
  while (at_ < inputs_.size() || video_ != nullptr) {
    if (options_.cancelled && options_.cancelled()) return false;
    // A video stays the current input until its last frame.
    const Input& input = inputs_[video_ != nullptr ? at_ - 1 : at_];
    frame.file = input.path;
    frame.frame.reset();
    frame.time_s.reset();
    frame.view = {};
    frame.held = {};
    frame.error = input.error;
    try {
      if (video_ == nullptr) {
        ++at_;
        if (!frame.error.empty()) {
          ++delivered_;
          return true;
        }
        if (input.kind == InputKind::kVideo) {
          video_ = open_video(input.path, options_.video, options_.cancelled);
          video_delivered_ = 0;
          estimate_total();
          continue;
        }
        frame.storage = next_picture(at_ - 1);
        frame.view = frame.storage.view();
        ++delivered_;
        return true;
      }
      if (!next_video_frame(frame)) continue;
      return true;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) return false;
      close_video();
      frame.view = {};
      frame.held = {};
      frame.error = error.what();
      return true;
    }
  }
  return false;
}

}  // namespace rfseg
