#include "media/video_io.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/cpu.h"
#include "core/files.h"
#include "core/log.h"
#include "media/gpu_frames.h"
#include "media/live_reader.h"
#include "media/video_module.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr int kMostDecoderThreads = 16;
constexpr int kMostEncoderThreads = 8;

[[noreturn]] void throw_failure(const libav::Failure& failure) {
  throw Error(static_cast<ErrorCode>(failure.code), failure.message);
}

/// A std::function behind a C function pointer. One that throws asks to stop.
bool call_cancelled(void* context) noexcept {
  try {
    return (*static_cast<const std::function<bool()>*>(context))();
  } catch (...) {
    return true;
  }
}

int64_t to_us(VideoProgress::Time time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}
VideoProgress::Time from_us(int64_t us) {
  return VideoProgress::Time(std::chrono::microseconds(us));
}

void take_view(const libav::FrameView& view, ImageView& image) {
  for (int i = 0; i < 3; ++i) {
    image.planes[i] = view.planes[i];
    image.strides[i] = view.strides[i];
  }
  image.width = view.width;
  image.height = view.height;
  image.format = static_cast<PixelFormat>(view.format);
  image.matrix = static_cast<YuvMatrix>(view.matrix);
  image.range = static_cast<YuvRange>(view.range);
}

/// A reader of the module with all that its callbacks need.
struct Session {
  const libav::Api& api;
  std::function<bool()> cancelled;
  /// One for each decoder of a GPU; the first has been there from the beginning.
  struct Gpu {
    Session& session;
    std::unique_ptr<GpuFrames> frames;
  };
  std::deque<Gpu> gpus;
  libav::Reader* reader = nullptr;

  explicit Session(const libav::Api& a) : api(a) {}
  ~Session() {
    if (reader != nullptr) api.close(reader);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  libav::Keeper add_keeper(std::unique_ptr<GpuFrames> frames) {
    libav::Keeper keeper;
    keeper.stream = frames->stream();
    keeper.context = &gpus.emplace_back(*this, std::move(frames));
    keeper.keep = [](void* gpu, libav::FrameView& view, libav::Failure& failure) {
      return guard(failure, [&] { keep(*static_cast<Gpu*>(gpu)->frames, view); });
    };
    keeper.settle = [](void* gpu) { settle(*static_cast<Gpu*>(gpu)->frames); };
    keeper.drop = [](void* kept) { delete static_cast<HeldPixels*>(kept); };
    keeper.another = [](void* gpu, libav::Keeper& other, libav::Failure& failure) {
      auto& self = *static_cast<Gpu*>(gpu);
      return guard(failure, [&] { other = self.session.add_keeper(self.frames->sibling()); });
    };
    return keeper;
  }

 private:
  template <class Body>
  static bool guard(libav::Failure& failure, Body body) noexcept {
    try {
      body();
      return true;
    } catch (const Error& error) {
      failure.code = static_cast<int>(error.code());
      std::snprintf(failure.message, sizeof failure.message, "%s", error.what());
    } catch (const std::bad_alloc&) {
      failure.code = static_cast<int>(ErrorCode::kInput);
      std::snprintf(failure.message, sizeof failure.message, "not enough memory for a frame");
    }
    return false;
  }
  static void keep(GpuFrames& frames, libav::FrameView& view) {
    VideoFrame frame;
    take_view(view, frame.image);
    frames.take(frame);
    for (int i = 0; i < 3; ++i) {
      view.planes[i] = frame.image.planes[i];
      view.strides[i] = frame.image.strides[i];
    }
    view.kept = new HeldPixels(std::move(frame.held));
  }
  static void settle(GpuFrames& frames) noexcept {
    try {
      frames.wait();
    } catch (const Error&) {  // the next keep says so
    }
  }
};

/// Ends sessions on a thread of its own: closing a decoder of a GPU takes a quarter of a second,
/// in which nothing has to wait.
class Closer {
 public:
  static void close(std::unique_ptr<Session> session) {
    // Made after CUDA, and so destroyed before it.
    static Closer closer;
    const std::lock_guard lock(closer.mutex_);
    if (closer.threads_.size() >= kMostThreads) {
      closer.threads_.front().join();
      closer.threads_.pop_front();
    }
    try {
      closer.threads_.emplace_back([s = std::move(session)]() mutable { s.reset(); });
    } catch (const std::system_error&) {  // no more threads: it has been closed here
    }
  }

 private:
  static constexpr std::size_t kMostThreads = 8;
  ~Closer() {
    for (std::thread& thread : threads_) thread.join();
  }
  std::mutex mutex_;
  std::deque<std::thread> threads_;
};

// For one file: more than as fast as 16 processors.
constexpr int kDecodersThatPay = 4;
// Frames of a file. A decoder takes 45 ms to make and 0.25 s to close.
constexpr int64_t kFewestToShare = 500;
// Of a GPU's memory, for frames that several decoders of a file have ready before their turn.
constexpr int64_t kMostBytesAhead = int64_t{2} << 30;

class ModuleReader final : public VideoReader {
 public:
  ModuleReader(const std::string& path, const VideoOptions& options,
               std::function<bool()> cancelled)
      : session_(std::make_unique<Session>(video_module())) {
    session_->cancelled = std::move(cancelled);
    libav::ReaderOptions reader_options;
    reader_options.every = options.every;
    reader_options.start_s = options.start_s;
    reader_options.end_s = options.end_s;
    reader_options.so_far = {options.so_far.frames, options.so_far.time_s,
                             to_us(options.so_far.zero), to_us(options.so_far.last), false};
    reader_options.timeout_s = options.timeout_s;
    reader_options.width = options.width;
    reader_options.height = options.height;
    reader_options.threads =
        options.threads > 0 ? options.threads : std::min(available_cpus(), kMostDecoderThreads);
    if (options.decoder != VideoDecoder::kCpu) {
      std::string why;
      std::unique_ptr<GpuFrames> frames = open_gpu_frames(options.cuda_device, why);
      reader_options.tell_fallback = options.decoder == VideoDecoder::kNvdec;
      if (frames != nullptr) {
        reader_options.gpu_decoders =
            options.gpu_decoders > 0 ? options.gpu_decoders : kDecodersThatPay;
        reader_options.only_where_faster = options.decoder == VideoDecoder::kWhereFaster;
        reader_options.fewest_to_share = options.gpu_decoders > 0 ? 0 : kFewestToShare;
        reader_options.most_bytes_ahead =
            std::min(kMostBytesAhead, static_cast<int64_t>(frames->free_bytes() / 8));
        reader_options.keeper = session_->add_keeper(std::move(frames));
      } else if (reader_options.tell_fallback) {
        log_warning(path + ": decoded on the CPU: " + why);
      }
    }
    if (session_->cancelled) {
      reader_options.cancelled = call_cancelled;
      reader_options.cancelled_context = &session_->cancelled;
    }
    libav::StreamInfo info;
    libav::Failure failure;
    session_->reader = session_->api.open(path.c_str(), reader_options, info, failure);
    if (session_->reader == nullptr) throw_failure(failure);
    info_.width = info.width;
    info_.height = info.height;
    info_.frame_rate = info.frame_rate;
    info_.duration_s = info.duration_s;
    info_.frames = info.frames;
    info_.live = info.live;
    info_.nvdec = info.on_gpu;
    info_.codec = info.codec;
  }
  ~ModuleReader() override {
    if (!info_.nvdec) return;
    try {
      Closer::close(std::move(session_));
    } catch (const std::system_error&) {  // no thread: then here
    }
  }
  ModuleReader(const ModuleReader&) = delete;
  ModuleReader& operator=(const ModuleReader&) = delete;

  const VideoInfo& info() const override { return info_; }

  bool read(VideoFrame& frame) override {
    libav::FrameView view;
    libav::Failure failure;
    const int result = session_->api.read(session_->reader, view, failure);
    if (result < 0) throw_failure(failure);
    if (result == 0) return false;
    frame.held = {};
    if (view.kept != nullptr) {
      const std::unique_ptr<HeldPixels> kept(static_cast<HeldPixels*>(view.kept));
      frame.held = std::move(*kept);
    }
    take_view(view, frame.image);
    frame.index = view.index;
    frame.time_s = view.time_s;
    return true;
  }

  int64_t broken_frames() const override { return session_->api.broken_frames(session_->reader); }
  VideoProgress progress() const override {
    const libav::Progress p = session_->api.progress(session_->reader);
    return {p.frames, p.time_s, from_us(p.zero_us), from_us(p.last_us), p.past_end};
  }
  VideoShortfall shortfall() const override {
    const libav::Shortfall s = session_->api.shortfall(session_->reader);
    return {s.ends_s, s.stated_s};
  }

 private:
  std::unique_ptr<Session> session_;
  VideoInfo info_;
};

class ModuleWriter final : public VideoWriter {
 public:
  ModuleWriter(const std::string& path, int width, int height, double frame_rate)
      : api_(video_module()), path_(path), width_(width), height_(height), file_(path) {
    libav::WriterOptions options;
    options.streamed = file_.temporary_path() == path;
    // A pipe's reader would see its end if it were closed here.
    if (!options.streamed) file_.release_stream();
    options.path = file_.temporary_path().c_str();
    options.name = path_.c_str();
    options.width = width;
    options.height = height;
    options.frame_rate = frame_rate;
    // The network has the other half of the processors.
    options.threads = std::clamp(available_cpus() / 2, 1, kMostEncoderThreads);
    libav::Failure failure;
    writer_ = api_.create(options, failure);
    if (writer_ == nullptr) throw_failure(failure);
  }
  ~ModuleWriter() override { close(); }
  ModuleWriter(const ModuleWriter&) = delete;
  ModuleWriter& operator=(const ModuleWriter&) = delete;

  void write(const ImageView& rgb, double time_s) override {
    if (rgb.format != PixelFormat::kRgb8 || rgb.width != width_ || rgb.height != height_) {
      throw Error(ErrorCode::kInternal,
                  path_ + ": a frame of another size or format than the video's");
    }
    if (writer_ == nullptr) {
      throw Error(ErrorCode::kInternal, path_ + ": a frame after the end of the video");
    }
    libav::Failure failure;
    if (api_.write(writer_, rgb.planes[0], rgb.strides[0], time_s, failure) != 0) {
      failed_ = true;
      throw_failure(failure);
    }
    ++frames_;
  }

  void finish() override {
    if (writer_ == nullptr) return;
    if (failed_) throw Error(ErrorCode::kOutput, path_ + ": was not written, because of an error");
    if (frames_ == 0) {
      close();
      log_warning(path_ + ": not written, since there are no frames");
      return;
    }
    libav::Failure failure;
    if (api_.finish(writer_, failure) != 0) {
      failed_ = true;
      throw_failure(failure);
    }
    close();
    file_.commit();
  }

 private:
  void close() {
    if (writer_ != nullptr) api_.destroy(writer_);
    writer_ = nullptr;
  }

  const libav::Api& api_;
  std::string path_;
  int width_, height_;
  OutputFile file_;
  libav::Writer* writer_ = nullptr;
  int64_t frames_ = 0;
  bool failed_ = false;
};

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

bool is_one_of(const std::string& text, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

}  // namespace

std::unique_ptr<VideoReader> open_video(const std::string& path, const VideoOptions& options,
                                        std::function<bool()> cancelled) {
  if (options.every < 1) {
    throw Error(ErrorCode::kUsage,
                "every: " + std::to_string(options.every) + " is not accepted; 1 or more is");
  }
  if (!std::isfinite(options.start_s) || std::isnan(options.end_s)) {
    throw Error(ErrorCode::kUsage, "start and end are seconds from the start of the video");
  }
  if (!(options.timeout_s > 0) || !(options.reconnect_s >= 0)) {
    throw Error(ErrorCode::kUsage, "the time-out of a stream is more than 0 seconds");
  }
  const OpenStream open = [path, cancelled](const VideoOptions& with) {
    return std::make_unique<ModuleReader>(path, with, cancelled);
  };
  std::unique_ptr<VideoReader> reader = open(options);
  if (!reader->info().live || options.reconnect_s <= 0) return reader;
  return keep_connected(path, std::move(reader), open, options, std::move(cancelled));
}

std::unique_ptr<VideoWriter> create_video(const std::string& path, int width, int height,
                                          double frame_rate) {
  return std::make_unique<ModuleWriter>(path, width, height, frame_rate);
}

bool is_video_name(const std::string& path) {
  const std::size_t scheme = path.find("://");
  if (scheme != std::string::npos) {
    return is_one_of(lower(path.substr(0, scheme)), {"http", "https", "rtsp", "rtsps"});
  }
  constexpr std::string_view kDevice = "/dev/video";
  if (path.size() > kDevice.size() && path.compare(0, kDevice.size(), kDevice) == 0) {
    return std::all_of(path.begin() + kDevice.size(), path.end(),
                       [](unsigned char c) { return std::isdigit(c) != 0; });
  }
  const std::size_t slash = path.find_last_of('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  const std::size_t dot = path.find_last_of('.');
  if (dot == std::string::npos || dot <= name) return false;
  return is_one_of(
      lower(path.substr(dot + 1)),
      {"mp4", "m4v",  "mov",   "qt",   "mkv",  "webm", "avi", "mpg",  "mpeg", "mpe",  "m2v",
       "ts",  "m2ts", "mts",   "wmv",  "asf",  "flv",  "f4v", "ogv",  "ogg",  "3gp",  "3g2",
       "mxf", "vob",  "y4m",   "ivf",  "h264", "264",  "avc", "h265", "265",  "hevc", "gif",
       "dv",  "nut",  "mjpeg", "mjpg", "rm",   "rmvb", "av1", "obu"});
}

std::string video_backend_version() {
  try {
    return video_module().version();
  } catch (const Error&) {
    return {};
  }
}

}  // namespace rfseg
