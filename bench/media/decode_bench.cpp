// Frames a second of decoding alone, and the processor time that it takes.
//   bench_decode FILE cpu:THREADS[:STREAMS] nvdec[:STREAMS[:DECODERS]] faster same:DECODERS ...
// "faster" takes NVDEC only where that is expected to be faster.
// "same" compares every frame of NVDEC with the CPU's instead.
// Every stream decodes the file on a thread of its own; a frame counts when its pixels are there.
// The steady rate leaves out what a stream takes up to its first frame (of the slowest stream,
// printed) and after its last.

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "core/cuda/device.h"
#include "core/log.h"
#include "media/video_io.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Setting {
  std::string name;
  VideoOptions options;
  int streams = 1;
  bool compare = false;
};

Setting parse(const std::string& text) {
  Setting setting;
  setting.name = text;
  int first = 1, second = 1;
  if (std::sscanf(text.c_str(), "cpu:%d:%d", &first, &second) >= 1) {
    setting.options.threads = first;
    setting.streams = second;
  } else if (std::sscanf(text.c_str(), "same:%d", &first) == 1) {
    setting.options.decoder = VideoDecoder::kNvdec;
    setting.options.gpu_decoders = first;
    setting.compare = true;
  } else if (text == "faster") {
    setting.options.decoder = VideoDecoder::kWhereFaster;
  } else if (text == "nvdec" || std::sscanf(text.c_str(), "nvdec:%d:%d", &first, &second) >= 1) {
    setting.options.decoder = VideoDecoder::kNvdec;
    setting.streams = first;
    setting.options.gpu_decoders = text == "nvdec" ? 0 : second;
  } else {
    throw Error(ErrorCode::kUsage,
                text +
                    ": cpu:THREADS[:STREAMS], nvdec[:STREAMS[:DECODERS]], faster or same:DECODERS"
                    " is accepted");
  }
  return setting;
}

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

struct Stream {
  int64_t frames = 0;
  Clock::time_point opened, first, last;
  double processor_first = 0, processor_last = 0;  // of the whole process
};

Stream decode(const std::string& path, const VideoOptions& options) {
  Stream stream;
  const std::unique_ptr<VideoReader> reader = open_video(path, options);
  stream.opened = Clock::now();
  for (VideoFrame frame; reader->read(frame);) {
    if (options.decoder != VideoDecoder::kWhereFaster &&
        frame.held.on_device() != (options.decoder == VideoDecoder::kNvdec)) {
      throw Error(ErrorCode::kInput, path + ": was not decoded where it should have been");
    }
    if (frame.held.ready != nullptr) {
      cuda::check(cudaEventSynchronize(frame.held.ready), "waiting for a frame");
    }
    if (stream.frames++ == 0) {
      stream.first = Clock::now();
      stream.processor_first = processor_seconds();
    }
  }
  stream.last = Clock::now();
  stream.processor_last = processor_seconds();
  return stream;
}

void measure(const std::string& path, const Setting& setting) {
  std::vector<Stream> streams(static_cast<std::size_t>(setting.streams));
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
  const double processor = processor_seconds();
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  for (Stream& stream : streams) {
    threads.emplace_back([&] {
      try {
        stream = decode(path, setting.options);
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  const double wall = seconds(start, Clock::now());
  const double used = processor_seconds() - processor;
  double frames = 0, steady = 0, to_open = 0, to_first = 0;
  for (const Stream& stream : streams) {
    frames += static_cast<double>(stream.frames);
    to_open = std::max(to_open, seconds(start, stream.opened));
    to_first = std::max(to_first, seconds(start, stream.first));
  }
  for (const Stream& stream : streams) {
    steady += static_cast<double>(stream.frames - 1) / seconds(stream.first, stream.last);
  }
  const Stream& one = streams[0];
  const double steady_ms =
      1000 * (one.processor_last - one.processor_first) / (seconds(one.first, one.last) * steady);
  std::printf(
      "%-10s %6.0f frames  %7.1f/s whole  %7.1f/s steady  %7.3f ms of processor a frame whole  "
      "%6.3f steady  open %4.0f ms, first frame %4.0f, all %5.0f\n",
      setting.name.c_str(), frames, frames / wall, steady, 1000 * used / frames, steady_ms,
      1000 * to_open, 1000 * to_first, 1000 * wall);
  std::fflush(stdout);
}

/// The samples of a frame in host memory without padding, chroma in pairs.
std::vector<uint8_t> samples(const VideoFrame& frame) {
  const ImageView& image = frame.image;
  const std::size_t size = image.format == PixelFormat::kP010 ? 2 : 1;
  const auto width = static_cast<std::size_t>(image.width);
  const auto height = static_cast<std::size_t>(image.height);
  const std::size_t luma_row = width * size, half = (width + 1) / 2, half_rows = (height + 1) / 2;
  std::vector<uint8_t> out(luma_row * height + 2 * half * size * half_rows);
  const auto fetch = [&](int plane, uint8_t* to, std::size_t row, std::size_t rows) {
    const auto stride = static_cast<std::size_t>(image.strides[plane]);
    cuda::check(cudaMemcpy2D(to, row, image.planes[plane], stride, row, rows, cudaMemcpyDefault),
                "fetching a frame");
  };
  uint8_t* chroma = out.data() + luma_row * height;
  fetch(0, out.data(), luma_row, height);
  if (image.format == PixelFormat::kNv12 || image.format == PixelFormat::kP010) {
    fetch(1, chroma, 2 * half * size, half_rows);
    return out;
  }
  if (image.format != PixelFormat::kI420) {
    throw Error(ErrorCode::kInput, "frames of this kind are not compared");
  }
  for (std::size_t y = 0; y < half_rows; ++y) {
    const uint8_t* u = image.planes[1] + static_cast<std::ptrdiff_t>(y) * image.strides[1];
    const uint8_t* v = image.planes[2] + static_cast<std::ptrdiff_t>(y) * image.strides[2];
    for (std::size_t x = 0; x < half; ++x, chroma += 2) chroma[0] = u[x], chroma[1] = v[x];
  }
  return out;
}

void compare(const std::string& path, const Setting& setting) {
  const std::unique_ptr<VideoReader> cpu = open_video(path),
                                     gpu = open_video(path, setting.options);
  VideoFrame left, right;
  int64_t frames = 0;
  for (;; ++frames) {
    const bool more = cpu->read(left);
    if (gpu->read(right) != more) {
      throw Error(ErrorCode::kInternal, path + ": one has more than " + std::to_string(frames));
    }
    if (!more) break;
    if (!right.held.on_device()) throw Error(ErrorCode::kInput, path + ": is not for NVDEC");
    cuda::check(cudaEventSynchronize(right.held.ready), "waiting for a frame");
    if (left.index != right.index || left.time_s != right.time_s ||
        samples(left) != samples(right)) {
      throw Error(ErrorCode::kInternal,
                  path + ": frame " + std::to_string(frames) + " is not the CPU's");
    }
  }
  std::printf("%-10s %6lld frames are the CPU's, %lld and %lld broken\n", setting.name.c_str(),
              static_cast<long long>(frames), static_cast<long long>(cpu->broken_frames()),
              static_cast<long long>(gpu->broken_frames()));
  std::fflush(stdout);
}

}  // namespace
}  // namespace rfseg

int main(int argc, char** argv) {
  using namespace rfseg;
  set_log_sink([](LogLevel level, const std::string& message) {
    if (level <= LogLevel::kWarning) std::fprintf(stderr, "%s\n", message.c_str());
  });
  try {
    if (argc < 3) throw Error(ErrorCode::kUsage, "bench_decode FILE SETTING...");
    for (int i = 2; i < argc; ++i) {
      const Setting setting = parse(argv[i]);
      setting.compare ? compare(argv[1], setting) : measure(argv[1], setting);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_decode: %s\n", error.what());
    return 1;
  }
  return 0;
}
