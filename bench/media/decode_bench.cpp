// Frames a second of decoding alone, and the processor time that it takes.
//   bench_decode FILE cpu:THREADS[:STREAMS] nvdec[:STREAMS] ...
// Every stream decodes the file on a thread of its own; a frame counts when its pixels are there.

#include <sys/resource.h>

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
};

Setting parse(const std::string& text) {
  Setting setting;
  setting.name = text;
  int first = 1, second = 1;
  if (std::sscanf(text.c_str(), "cpu:%d:%d", &first, &second) >= 1) {
    setting.options.threads = first;
    setting.streams = second;
  } else if (text == "nvdec" || std::sscanf(text.c_str(), "nvdec:%d", &first) == 1) {
    setting.options.decoder = VideoDecoder::kNvdec;
    setting.streams = first;
  } else {
    throw Error(ErrorCode::kUsage, text + ": cpu:THREADS[:STREAMS] or nvdec[:STREAMS] is accepted");
  }
  return setting;
}

int64_t decode(const std::string& path, const VideoOptions& options) {
  const std::unique_ptr<VideoReader> reader = open_video(path, options);
  VideoFrame frame;
  int64_t frames = 0;
  for (; reader->read(frame); ++frames) {
    if (frame.held.on_device() != (options.decoder == VideoDecoder::kNvdec)) {
      throw Error(ErrorCode::kInput, path + ": was not decoded where it should have been");
    }
    if (frame.held.ready != nullptr) {
      cuda::check(cudaEventSynchronize(frame.held.ready), "waiting for a frame");
    }
  }
  return frames;
}

void measure(const std::string& path, const Setting& setting) {
  std::atomic<int64_t> frames = 0;
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
  const double processor = processor_seconds();
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < setting.streams; ++i) {
    threads.emplace_back([&] {
      try {
        frames += decode(path, setting.options);
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  const double used = processor_seconds() - processor;
  const auto n = static_cast<double>(frames.load());
  std::printf(
      "%-12s %6.0f frames  %7.1f frames/s  %6.3f ms of processor a frame  %5.2f processors\n",
      setting.name.c_str(), n, n / wall.count(), 1000 * used / n, used / wall.count());
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
    for (int i = 2; i < argc; ++i) measure(argv[1], parse(argv[i]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_decode: %s\n", error.what());
    return 1;
  }
  return 0;
}
