// Pre-processing on the GPU.
//
//   bench_preprocess_cuda [--replays N] [kernel|pinned|host] [SETTING ...]
//
// A SETTING is WxH:NETWORK:MODE[:FORMAT[:BATCH[:TILE_ROWS[:half]]]], e.g. 1920x1080:312:pil:rgb:1;
// MODE is pil, pil13, bilinear or antialias, FORMAT rgb, bgr, rgba, gray, nv12, i420, p010.
//
// kernel: frames in device memory, from enough source buffers in turn that none is found in the L2
// cache; the time of a kernel in a graph that runs all sources one after the other, by events,
// p50 / p90 / p99 over replays. All settings take turns, replay by replay. "floor" is the same with
// 16x16 pictures: what a graph's kernel costs that has next to nothing to do.
// pinned: a frame in pinned host memory; graphs of its copy alone and of the copy and the kernel
// take turns; the median of the paired differences, by events and by the host's clock. Also the
// kernel twice (the second finds instructions and tables at hand), with a kernel for a 16x16
// picture beside the copy, and the kernel alone that reads pinned memory itself. Then the
// way of a single frame, by the host's clock: a copy, and behind it or beside it (cuda::PixelGate)
// a graph of the kernel; tensors of the two are compared. host: prepare()
// and enqueue() with frames in pageable and in pinned memory, closed by a synchronisation, and the
// time that the calls take on the host.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/cuda/device.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "preprocess/cuda/pixel_gate.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;
using cuda::Buffer;
using cuda::check;

double microseconds(Clock::time_point from) {
  return std::chrono::duration<double, std::micro>(Clock::now() - from).count();
}

double percentile(std::vector<double> v, double p) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[static_cast<std::size_t>(p * static_cast<double>(v.size() - 1))];
}

struct Setting {
  std::string text;
  int width = 1920, height = 1080, network = 312, batch = 1, tile_rows = 0;
  bool half = false;
  PixelFormat format = PixelFormat::kRgb8;
  PreprocessSpec spec;
  std::size_t frame_bytes = 0;
};

Setting parse(const std::string& text) {
  Setting s;
  s.text = text;
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t colon = std::min(text.find(':', at), text.size());
    parts.push_back(text.substr(at, colon - at));
    at = colon + 1;
  }
  const std::map<std::string, ResizeMode> modes{{"pil", ResizeMode::kPil},
                                                {"pil13", ResizeMode::kPil13},
                                                {"bilinear", ResizeMode::kBilinear},
                                                {"antialias", ResizeMode::kAntialias}};
  const std::map<std::string, PixelFormat> formats{
      {"rgb", PixelFormat::kRgb8},   {"bgr", PixelFormat::kBgr8},  {"rgba", PixelFormat::kRgba8},
      {"gray", PixelFormat::kGray8}, {"nv12", PixelFormat::kNv12}, {"i420", PixelFormat::kI420},
      {"p010", PixelFormat::kP010}};
  parts.resize(7);
  if (parts[3].empty()) parts[3] = "rgb";
  if (std::sscanf(parts[0].c_str(), "%dx%d", &s.width, &s.height) != 2 ||
      modes.count(parts[2]) == 0 || formats.count(parts[3]) == 0) {
    throw std::runtime_error(text +
                             ": expected WxH:NETWORK:MODE[:FORMAT[:BATCH[:TILE_ROWS[:half]]]]");
  }
  s.network = std::atoi(parts[1].c_str());
  s.spec.resize = modes.at(parts[2]);
  s.format = formats.at(parts[3]);
  if (!parts[4].empty()) s.batch = std::atoi(parts[4].c_str());
  if (!parts[5].empty()) s.tile_rows = std::atoi(parts[5].c_str());
  s.half = parts[6] == "half";
  s.spec.network_width = s.spec.network_height = s.network;
  const std::size_t pixels = static_cast<std::size_t>(s.width) * s.height;
  switch (s.format) {
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8:
      s.frame_bytes = pixels * 3;
      break;
    case PixelFormat::kRgba8:
      s.frame_bytes = pixels * 4;
      break;
    case PixelFormat::kGray8:
      s.frame_bytes = pixels;
      break;
    default:
      s.frame_bytes = pixels * 2 * (s.format == PixelFormat::kP010 ? 2 : 1);
  }
  return s;
}

ImageView view_of(const Setting& s, const uint8_t* data) {
  ImageView v = ImageView::packed(data, s.width, s.height, s.format);
  const std::ptrdiff_t sample = s.format == PixelFormat::kP010 ? 2 : 1;
  if (s.format == PixelFormat::kNv12 || s.format == PixelFormat::kP010 ||
      s.format == PixelFormat::kI420) {
    const std::ptrdiff_t half = (s.width + 1) / 2;
    const bool planar = s.format == PixelFormat::kI420;
    v.strides[0] = s.width * sample;
    v.strides[1] = planar ? half : 2 * half * sample;
    v.planes[1] = data + v.strides[0] * s.height;
    if (planar) {
      v.strides[2] = half;
      v.planes[2] = v.planes[1] + half * ((s.height + 1) / 2);
    }
  }
  return v;
}

void fill_noise(Buffer& buffer, std::size_t bytes) {
  static std::vector<uint8_t> noise;
  if (noise.size() < bytes) {
    std::mt19937_64 random(7);
    noise.resize(bytes + 8);
    for (std::size_t i = 0; i + 8 <= noise.size(); i += 8) {
      const uint64_t word = random();
      std::memcpy(noise.data() + i, &word, 8);
    }
  }
  cuda::upload(buffer.data(), noise.data(), bytes, "filling a frame");
}

/// A call on frames of its own.
struct Call {
  std::unique_ptr<CudaPreprocessor> processor;
  std::vector<std::unique_ptr<Buffer>> sources;
  Buffer tensor{Buffer::Kind::kDevice};
};

void make_call(Call& call, const Setting& s, Buffer::Kind kind, const cuda::Stream& stream) {
  CudaPreprocessor::Limits limits;
  limits.tile_rows = s.tile_rows;
  call.processor = std::make_unique<CudaPreprocessor>(0, limits);
  std::vector<CudaFrame> frames;
  for (int i = 0; i < s.batch; ++i) {
    call.sources.push_back(std::make_unique<Buffer>(kind));
    call.sources.back()->reserve(s.frame_bytes);
    fill_noise(*call.sources.back(), s.frame_bytes);
    // Pinned memory is read in place, too: its address is the device's.
    frames.push_back({view_of(s, call.sources.back()->as<const uint8_t>()), FrameMemory::kDevice});
  }
  call.tensor.reserve(static_cast<std::size_t>(s.batch) * 3 * s.network * s.network * 4);
  call.processor->prepare(frames, s.spec, call.tensor.data(), s.half, stream);
  stream.synchronize("preparing");
}

struct Timed {
  Setting setting;
  std::vector<Call> calls;
  cuda::Graph graph;
  std::vector<double> times;
};

void bench_kernels(std::vector<Setting> settings, int replays) {
  const cuda::Stream stream;
  const cuda::Event begin(true), end(true);
  settings.insert(settings.begin(), parse("16x16:16:pil"));
  std::vector<Timed> all(settings.size());
  for (std::size_t i = 0; i < settings.size(); ++i) {
    Timed& t = all[i];
    t.setting = settings[i];
    constexpr std::size_t kBeyondL2 = std::size_t{100} << 20;
    const std::size_t of_call = t.setting.frame_bytes * static_cast<std::size_t>(t.setting.batch);
    t.calls.resize(std::clamp<std::size_t>((kBeyondL2 + of_call - 1) / of_call, 4, 20));
    for (Call& call : t.calls) make_call(call, t.setting, Buffer::Kind::kDevice, stream);
    t.graph.capture(stream, [&] {
      for (Call& call : t.calls) call.processor->enqueue(stream);
    });
  }
  for (int r = -10; r < replays; ++r) {
    for (Timed& t : all) {
      check(cudaEventRecord(begin, stream), "timing");
      t.graph.launch(stream);
      check(cudaEventRecord(end, stream), "timing");
      stream.synchronize("running the kernels");
      if (r >= 0) {
        t.times.push_back(1000.0 * cuda::elapsed_ms(begin, end) /
                          static_cast<double>(t.calls.size()));
      }
    }
  }
  std::printf("%s, kernel time in us, graphs of n calls\n%-40s %3s %8s %8s %8s %12s\n",
              all[0].calls[0].processor->device_name().c_str(), "setting", "n", "p50", "p90", "p99",
              "p50/picture");
  for (const Timed& t : all) {
    const double p50 = percentile(t.times, 0.5);
    std::printf("%-40s %3zu %8.2f %8.2f %8.2f %12.2f\n",
                &t == &all[0] ? "floor" : t.setting.text.c_str(), t.calls.size(), p50,
                percentile(t.times, 0.9), percentile(t.times, 0.99), p50 / t.setting.batch);
  }
}

void bench_pinned(const Setting& s, int replays) {
  const cuda::Stream stream;
  const cuda::Event begin(true), end(true);
  constexpr std::size_t kSources = 8;
  std::vector<Buffer> pinned;
  std::vector<Call> calls(kSources), direct(kSources);
  Call tiny;
  Setting of_tiny = s;
  of_tiny.width = of_tiny.height = 16;
  of_tiny.frame_bytes = 16 * 16 * 8;
  make_call(tiny, of_tiny, Buffer::Kind::kDevice, stream);
  const cuda::Stream beside;
  const cuda::Event forked, joined;
  constexpr int kKinds = 5;
  cuda::Graph graphs[kKinds][kSources];
  for (std::size_t i = 0; i < kSources; ++i) {
    pinned.emplace_back(Buffer::Kind::kPinned);
    pinned[i].reserve(s.frame_bytes);
    fill_noise(pinned[i], s.frame_bytes);
    make_call(calls[i], s, Buffer::Kind::kDevice, stream);
    make_call(direct[i], s, Buffer::Kind::kPinned, stream);
    const auto copy = [&] {
      check(cudaMemcpyAsync(calls[i].sources[0]->data(), pinned[i].data(), s.frame_bytes,
                            cudaMemcpyHostToDevice, stream),
            "copying");
    };
    const auto kernel = [&] { calls[i].processor->enqueue(stream); };
    graphs[0][i].capture(stream, copy);
    graphs[1][i].capture(stream, [&] {
      copy();
      kernel();
    });
    graphs[2][i].capture(stream, [&] {
      copy();
      kernel();
      kernel();
    });
    graphs[3][i].capture(stream, [&] {
      check(cudaEventRecord(forked, stream), "forking");
      check(cudaStreamWaitEvent(beside, forked, 0), "forking");
      tiny.processor->enqueue(beside);
      check(cudaEventRecord(joined, beside), "joining");
      copy();
      check(cudaStreamWaitEvent(stream, joined, 0), "joining");
      kernel();
    });
    graphs[4][i].capture(stream, [&] { direct[i].processor->enqueue(stream); });
  }
  std::vector<double> events[kKinds], wall[kKinds], difference[kKinds], wall_difference[kKinds];
  for (int r = -10; r < replays; ++r) {
    const std::size_t i = static_cast<std::size_t>(r + 10) % kSources;
    double by_events[kKinds], by_clock[kKinds];
    for (int k = 0; k < kKinds; ++k) {
      const int which = r % 2 == 0 ? k : kKinds - 1 - k;
      const cuda::Graph& graph = graphs[which][i];
      check(cudaEventRecord(begin, stream), "timing");
      graph.launch(stream);
      check(cudaEventRecord(end, stream), "timing");
      stream.synchronize("running a graph");
      by_events[which] = 1000.0 * cuda::elapsed_ms(begin, end);
      const auto start = Clock::now();
      graph.launch(stream);
      stream.synchronize("running a graph");
      by_clock[which] = microseconds(start);
    }
    if (r < 0) continue;
    for (int k = 0; k < kKinds; ++k) {
      events[k].push_back(by_events[k]);
      wall[k].push_back(by_clock[k]);
      difference[k].push_back(by_events[k] - by_events[0]);
      wall_difference[k].push_back(by_clock[k] - by_clock[0]);
    }
  }
  const char* const names[kKinds] = {"copy alone", "copy, kernel", "copy, kernel, kernel",
                                     "tiny kernel beside, kernel", "kernel reads pinned memory"};
  std::printf("%s in pinned memory, us\n", s.text.c_str());
  for (int k = 0; k < kKinds; ++k) {
    std::printf(
        "  %-28s events p50 %8.2f p90 %8.2f p99 %8.2f   wall p50 %8.2f   paired difference "
        "to the copy: events p50 %7.2f p90 %7.2f, wall p50 %7.2f\n",
        names[k], percentile(events[k], 0.5), percentile(events[k], 0.9),
        percentile(events[k], 0.99), percentile(wall[k], 0.5), percentile(difference[k], 0.5),
        percentile(difference[k], 0.9), percentile(wall_difference[k], 0.5));
  }
}

void bench_gate(const Setting& s, int replays) {
  const cuda::Stream stream, copies;
  const cuda::PixelGate gate;
  if (!gate.usable()) throw std::runtime_error("this driver's streams write no words");
  constexpr std::size_t kSources = 8;
  const std::size_t values = std::size_t{3} * s.network * s.network;
  std::vector<Buffer> pinned;
  std::vector<Call> behind(kSources), beside(kSources);
  std::vector<cuda::Graph> graphs(kSources), gated(kSources);
  const auto copy = [&](std::size_t i, Call& call, const cuda::Stream& on) {
    check(cudaMemcpyAsync(call.sources[0]->data(), pinned[i].data(), s.frame_bytes,
                          cudaMemcpyHostToDevice, on),
          "copying");
  };
  for (std::size_t i = 0; i < kSources; ++i) {
    pinned.emplace_back(Buffer::Kind::kPinned);
    pinned[i].reserve(s.frame_bytes);
    fill_noise(pinned[i], s.frame_bytes);
    make_call(behind[i], s, Buffer::Kind::kDevice, stream);
    make_call(beside[i], s, Buffer::Kind::kDevice, stream);
    beside[i].processor->wait_for(gate.words());
    graphs[i].capture(stream, [&] { behind[i].processor->enqueue(stream); });
    gated[i].capture(stream, [&] { beside[i].processor->enqueue(stream); });
  }
  std::vector<double> wall[3];
  std::size_t different = 0;
  std::vector<float> tensors[2] = {std::vector<float>(values), std::vector<float>(values)};
  for (int r = -10; r < replays; ++r) {
    const std::size_t i = static_cast<std::size_t>(r + 10) % kSources;
    check(cudaMemset(beside[i].sources[0]->data(), 0, s.frame_bytes), "spoiling a frame");
    check(cudaMemset(beside[i].tensor.data(), 0, values * sizeof(float)), "spoiling a tensor");
    for (int turn = 0; turn < 3; ++turn) {  // whichever comes first finds the GPU another way
      const int k = (turn + r + 12) % 3;
      check(cudaDeviceSynchronize(), "waiting");
      const auto start = Clock::now();
      copy(i, k < 2 ? behind[i] : beside[i], k < 2 ? stream : copies);
      if (k == 1) graphs[i].launch(stream);
      if (k == 2) {
        gate.open(copies);
        gated[i].launch(stream);
      }
      stream.synchronize("running a frame");
      if (r >= 0) wall[k].push_back(microseconds(start));
    }
    if (s.half) continue;
    for (int k = 0; k < 2; ++k) {
      check(cudaMemcpy(tensors[k].data(), (k == 0 ? behind : beside)[i].tensor.data(),
                       values * sizeof(float), cudaMemcpyDeviceToHost),
            "reading a tensor");
    }
    different += std::memcmp(tensors[0].data(), tensors[1].data(), values * sizeof(float)) != 0;
  }
  const double alone = percentile(wall[0], 0.5);
  std::printf(
      "  a single frame, wall p50: copy %.2f, kernel behind it %.2f (+%.2f), beside it %.2f "
      "(+%.2f); "
      "%zu tensors differ\n",
      alone, percentile(wall[1], 0.5), percentile(wall[1], 0.5) - alone, percentile(wall[2], 0.5),
      percentile(wall[2], 0.5) - alone, different);
}

void bench_host(const Setting& s, int replays) {
  const cuda::Stream stream;
  for (const FrameMemory memory : {FrameMemory::kPageable, FrameMemory::kPinned}) {
    CudaPreprocessor processor;
    Buffer pinned[2] = {Buffer(Buffer::Kind::kPinned), Buffer(Buffer::Kind::kPinned)};
    std::vector<uint8_t> pageable[2];
    CudaFrame frames[2];
    for (int i = 0; i < 2; ++i) {
      pinned[i].reserve(s.frame_bytes);
      fill_noise(pinned[i], s.frame_bytes);
      pageable[i].assign(pinned[i].as<uint8_t>(), pinned[i].as<uint8_t>() + s.frame_bytes);
      frames[i] = {view_of(s, memory == FrameMemory::kPinned ? pinned[i].as<const uint8_t>()
                                                             : pageable[i].data()),
                   memory};
    }
    Buffer tensor(Buffer::Kind::kDevice);
    tensor.reserve(static_cast<std::size_t>(3) * s.network * s.network * 4);
    std::vector<double> calls, wall;
    for (int r = -10; r < replays; ++r) {
      const auto start = Clock::now();
      processor.prepare({frames + (r & 1), 1}, s.spec, tensor.data(), s.half, stream);
      processor.enqueue(stream);
      const double in_calls = microseconds(start);
      stream.synchronize("running a call");
      if (r < 0) continue;
      calls.push_back(in_calls);
      wall.push_back(microseconds(start));
    }
    std::printf("%s from %s memory: wall p50 %.2f p90 %.2f us, of which the calls %.2f\n",
                s.text.c_str(), memory == FrameMemory::kPinned ? "pinned" : "pageable",
                percentile(wall, 0.5), percentile(wall, 0.9), percentile(calls, 0.5));
  }
}

int run(int argc, char** argv) {
  int replays = 300;
  std::string what = "kernel";
  std::vector<Setting> settings;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--replays" && i + 1 < argc) {
      replays = std::atoi(argv[++i]);
    } else if (argument == "kernel" || argument == "pinned" || argument == "host") {
      what = argument;
    } else {
      settings.push_back(parse(argument));
    }
  }
  check(cudaSetDeviceFlags(cudaDeviceScheduleSpin), "choosing to spin");
  if (settings.empty()) settings.push_back(parse("1920x1080:312:pil"));
  if (what == "kernel") {
    bench_kernels(settings, replays);
    return 0;
  }
  for (const Setting& s : settings) {
    what == "pinned" ? bench_pinned(s, replays) : bench_host(s, replays);
    if (what == "pinned") bench_gate(s, replays);
  }
  return 0;
}

}  // namespace
}  // namespace rfseg

int main(int argc, char** argv) {
  try {
    return rfseg::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
