// NVDEC against the CPU's decoder: the same samples, numbers and times. Needs a GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "core/log.h"
#include "media/gpu_frames.h"
#include "media/video_io.h"
#include "media/video_test_support.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

std::mutex g_log_mutex;
std::string g_warnings;

class Nvdec : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!cuda::usable(&why)) GTEST_SKIP() << why;
    g_warnings.clear();
    set_log_sink([](LogLevel level, const std::string& message) {
      const std::lock_guard lock(g_log_mutex);
      if (level <= LogLevel::kWarning) g_warnings += message + "\n";
    });
  }
  void TearDown() override { set_log_sink(nullptr); }
};

/// The frame's planes in host memory, tight, NV12 as planes of their own: what append_planes gives
/// for the CPU's frame.
std::vector<uint8_t> planes_of(const VideoFrame& frame) {
  std::vector<uint8_t> bytes;
  if (!frame.held.on_device()) {
    append_planes(frame.image, bytes);
    return bytes;
  }
  cuda::check(cudaEventSynchronize(frame.held.ready), "waiting for a frame");
  const ImageView& image = frame.image;
  const bool wide = image.format == PixelFormat::kP010;
  const auto cw = static_cast<std::size_t>(image.width + 1) / 2;
  const auto ch = static_cast<std::size_t>(image.height + 1) / 2;
  const std::size_t luma_row = static_cast<std::size_t>(image.width) * (wide ? 2 : 1);
  const std::size_t luma = luma_row * static_cast<std::size_t>(image.height);
  bytes.resize(luma + 2 * cw * ch * (wide ? 2 : 1));
  const auto fetch = [&](int plane, uint8_t* to, std::size_t row, std::size_t rows) {
    cuda::check(
        cudaMemcpy2D(to, row, image.planes[plane], static_cast<std::size_t>(image.strides[plane]),
                     row, rows, cudaMemcpyDeviceToHost),
        "fetching a frame");
  };
  fetch(0, bytes.data(), luma_row, static_cast<std::size_t>(image.height));
  if (wide) {
    fetch(1, bytes.data() + luma, 4 * cw, ch);
    return bytes;
  }
  std::vector<uint8_t> pairs(2 * cw * ch);
  fetch(1, pairs.data(), 2 * cw, ch);
  for (std::size_t i = 0; i < cw * ch; ++i) {
    bytes[luma + i] = pairs[2 * i];
    bytes[luma + cw * ch + i] = pairs[2 * i + 1];
  }
  return bytes;
}

struct GpuDecoded : Decoded {
  int64_t on_gpu = 0;
};

GpuDecoded decode_on_gpu(const std::string& path, VideoOptions options = {}) {
  if (options.decoder == VideoDecoder::kCpu) options.decoder = VideoDecoder::kNvdec;
  options.threads = 1;
  GpuDecoded result;
  const std::unique_ptr<VideoReader> reader = open_video(path, options);
  VideoFrame frame;
  while (reader->read(frame)) {
    const std::vector<uint8_t> bytes = planes_of(frame);
    result.hash = fnv(bytes, result.hash);
    result.hashes.push_back(fnv(bytes));
    result.indices.push_back(frame.index);
    result.times.push_back(frame.time_s);
    result.pixels = pixel_name(frame.image);
    if (result.pixels == "nv12") result.pixels = "yuv420p";
    result.width = frame.image.width;
    result.height = frame.image.height;
    if (frame.held.on_device()) {
      EXPECT_NE(frame.held.owner, nullptr);
      EXPECT_NE(frame.held.ready, nullptr);
      ++result.on_gpu;
    }
  }
  result.broken = reader->broken_frames();
  result.info = reader->info();
  return result;
}

void expect_equal(const Decoded& gpu, const Decoded& cpu) {
  EXPECT_EQ(gpu.indices, cpu.indices);
  EXPECT_EQ(gpu.times, cpu.times);
  EXPECT_EQ(gpu.hashes, cpu.hashes);
  EXPECT_EQ(gpu.width, cpu.width);
  EXPECT_EQ(gpu.height, cpu.height);
  EXPECT_EQ(gpu.broken, cpu.broken);
}

// H.264 (cropped to 200x150, B frames; interlaced), HEVC of 8 and 10 bits, VP9, AV1; and with them
// everything that NVDEC does not take: the frames that the ffmpeg program gives either way.
TEST_F(Nvdec, GivesWhatFfmpegGives) {
  std::ifstream file(kFixtures + "goldens.txt");
  int files = 0, large = 0;
  for (std::string line; std::getline(file, line); ++files) {
    std::istringstream fields(line);
    std::string name, pixels;
    int width = 0, height = 0;
    int64_t frames = 0;
    uint64_t hash = 0;
    fields >> name >> width >> height >> pixels >> frames >> std::hex >> hash;
    SCOPED_TRACE(name);
    VideoOptions options;
    options.gpu_decoders = 1 + files % 3;
    const GpuDecoded found = decode_on_gpu(kFixtures + name, options);
    EXPECT_EQ(found.width, width);
    EXPECT_EQ(found.height, height);
    EXPECT_EQ(static_cast<int64_t>(found.indices.size()), frames);
    EXPECT_EQ(found.hash, hash);
    if (name == "large_av1.mkv" && found.on_gpu == 0) {  // Hopper, for one, does not decode AV1
      EXPECT_NE(g_warnings.find("large_av1.mkv: decoded on the CPU: NVDEC of this GPU"),
                std::string::npos)
          << g_warnings;
      ++large;
    } else if (name.rfind("large_", 0) == 0) {
      EXPECT_EQ(found.on_gpu, frames) << g_warnings;
      EXPECT_TRUE(found.info.nvdec);
      ++large;
    }
    std::printf("%s: %lld of %lld frames by NVDEC\n", name.c_str(),
                static_cast<long long>(found.on_gpu), static_cast<long long>(frames));
  }
  EXPECT_EQ(files, 26);
  EXPECT_EQ(large, 6);
}

TEST_F(Nvdec, TheBundledClipIsTheSame) {
  const std::string clip = RFSEG_SOURCE_DIR "/assets/demo/clip.mp4";  // 5 groups of 50 frames
  const Decoded cpu = decode(clip);
  for (const int decoders : {0, 1, 2, 3, 4}) {
    SCOPED_TRACE(decoders);
    VideoOptions options;
    options.gpu_decoders = decoders;
    const GpuDecoded gpu = decode_on_gpu(clip, options);
    EXPECT_EQ(gpu.on_gpu, 250);
    expect_equal(gpu, cpu);
  }
  EXPECT_EQ(g_warnings, "");
}

TEST_F(Nvdec, SharedGroupsOfHevcAndOfParametersInPackets) {
  for (const auto& [name, frames] :
       {std::pair{"hevc_groups.mp4", 24}, std::pair{"stream.ts", 20}}) {
    const Decoded cpu = decode(kFixtures + name);
    EXPECT_EQ(static_cast<int>(cpu.indices.size()), frames);
    for (const int decoders : {1, 2, 3}) {
      SCOPED_TRACE(name + std::to_string(decoders));
      VideoOptions options;
      options.gpu_decoders = decoders;
      const GpuDecoded gpu = decode_on_gpu(kFixtures + name, options);
      expect_equal(gpu, cpu);
      if (name[0] == 'h') {
        EXPECT_EQ(gpu.on_gpu, 24);
      }
    }
  }
}

// HEVC always; H.264 with groups to share, if it is long enough or shared whatever its length.
TEST_F(Nvdec, IsTakenWhereItIsFaster) {
  struct Case {
    std::string path;
    int decoders;
    bool on_gpu;
    double start_s = 0;
  };
  const std::string clip = RFSEG_SOURCE_DIR "/assets/demo/clip.mp4";  // 250 frames
  for (const Case& c :
       {Case{clip, 0, false}, Case{clip, 3, true}, Case{clip, 3, true, 3.04}, Case{clip, 1, false},
        Case{kFixtures + "open_gop.mp4", 3, false}, Case{kFixtures + "large_hevc.mp4", 0, true},
        Case{kFixtures + "large_vp9.webm", 3, false}}) {
    SCOPED_TRACE(c.path + " by " + std::to_string(c.decoders));
    VideoOptions options;
    options.start_s = c.start_s;
    const Decoded cpu = decode(c.path, options);
    options.gpu_decoders = c.decoders;
    options.decoder = VideoDecoder::kWhereFaster;
    const GpuDecoded found = decode_on_gpu(c.path, options);
    EXPECT_EQ(found.info.nvdec, c.on_gpu);
    EXPECT_EQ(found.on_gpu, c.on_gpu ? static_cast<int64_t>(cpu.indices.size()) : 0);
    expect_equal(found, cpu);
  }
  EXPECT_EQ(g_warnings, "");
}

// The next files are opened while the decoders of the ones before are being closed.
TEST_F(Nvdec, SharedFilesThatAreLeftEarly) {
  const std::string clip = RFSEG_SOURCE_DIR "/assets/demo/clip.mp4";
  VideoOptions options;
  options.end_s = 1;
  const Decoded cpu = decode(clip, options);
  for (int round = 0; round < 4; ++round) {
    options.decoder = VideoDecoder::kNvdec;
    options.gpu_decoders = 3;
    const std::unique_ptr<VideoReader> reader = open_video(clip, options);
    VideoFrame frame;
    for (int i = 0; i < 1 + 8 * round; ++i) {
      ASSERT_TRUE(reader->read(frame));
      EXPECT_EQ(frame.index, i);
      EXPECT_EQ(fnv(planes_of(frame)), cpu.hashes[static_cast<std::size_t>(i)]);
    }
  }
}

TEST_F(Nvdec, StartEndAndEveryAreExact) {
  for (const char* name : {"large_h264.mp4", "large_hevc.mp4", "large_vp9.webm"}) {
    for (const double start : {0.0, 0.2, 0.31}) {
      for (const int every : {1, 3}) {
        VideoOptions options;
        options.start_s = start;
        options.end_s = 0.4;
        options.every = every;
        options.gpu_decoders = every;
        SCOPED_TRACE(std::string(name) + " from " + std::to_string(start));
        const GpuDecoded gpu = decode_on_gpu(kFixtures + name, options);
        expect_equal(gpu, decode(kFixtures + name, options));
        EXPECT_EQ(gpu.on_gpu, static_cast<int64_t>(gpu.indices.size()));
      }
    }
  }
}

TEST_F(Nvdec, PartsOfASharedFile) {
  const std::string clip = RFSEG_SOURCE_DIR "/assets/demo/clip.mp4";
  for (const double start : {1.9, 3.04}) {
    for (const double end : {4.2, 9.6}) {
      VideoOptions options;
      options.start_s = start;
      options.end_s = end;
      options.every = 7;
      SCOPED_TRACE(start);
      const Decoded cpu = decode(clip, options);
      options.gpu_decoders = 3;
      expect_equal(decode_on_gpu(clip, options), cpu);
    }
  }
}

TEST_F(Nvdec, FramesStayWhenTheDecoderIsGone) {
  VideoOptions options;
  options.decoder = VideoDecoder::kNvdec;
  options.gpu_decoders = 2;
  std::vector<VideoFrame> frames;
  {
    const std::unique_ptr<VideoReader> reader =
        open_video(RFSEG_SOURCE_DIR "/assets/demo/clip.mp4", options);
    for (VideoFrame frame; frames.size() < 60 && reader->read(frame);) frames.push_back(frame);
  }
  options = {};
  options.end_s = 2.4;
  const Decoded cpu = decode(RFSEG_SOURCE_DIR "/assets/demo/clip.mp4", options);
  ASSERT_EQ(frames.size(), 60u);
  ASSERT_EQ(cpu.hashes.size(), 60u);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    ASSERT_TRUE(frames[i].held.on_device());
    EXPECT_EQ(fnv(planes_of(frames[i])), cpu.hashes[i]) << i;
  }
}

// A decoder may be given the memory of a frame that was dropped while another decoder's copy to it
// had not begun.
TEST_F(Nvdec, MemoryIsNotWrittenByTwoDecoders) {
  constexpr int kWidth = 256, kHeight = 128;
  constexpr std::size_t kBytes = std::size_t{kWidth} * kHeight * 3 / 2;
  std::string why;
  const std::unique_ptr<GpuFrames> first = open_gpu_frames(0, why);
  ASSERT_NE(first, nullptr) << why;
  const std::unique_ptr<GpuFrames> second = first->sibling();
  const auto pixels = [](int value) {
    auto memory = std::make_unique<cuda::Buffer>(cuda::Buffer::Kind::kDevice);
    memory->reserve(kBytes);
    cuda::check(cudaMemset(memory->data(), value, kBytes), "filling a picture");
    return memory;
  };
  const auto shows = [](const cuda::Buffer& memory) {
    VideoFrame frame;
    frame.image.format = PixelFormat::kNv12;
    frame.image.width = kWidth;
    frame.image.height = kHeight;
    const auto* at = reinterpret_cast<const uint8_t*>(memory.data());
    frame.image.planes[0] = at;
    frame.image.planes[1] = at + kWidth * kHeight;
    frame.image.strides[0] = frame.image.strides[1] = kWidth;
    return frame;
  };
  const auto old_pixels = pixels(1), new_pixels = pixels(2);
  cuda::check(cudaDeviceSynchronize(), "filling pictures");
  VideoFrame dropped = shows(*old_pixels);
  first->take(dropped);  // memory is taken now: nothing below waits for the GPU
  first->wait();
  const uint8_t* const place = dropped.image.planes[0];
  dropped = shows(*old_pixels);

  std::atomic<bool> go_on = false;
  const auto hold = [](void* flag) {
    const auto& free = *static_cast<std::atomic<bool>*>(flag);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!free && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  };
  cuda::check(cudaLaunchHostFunc(static_cast<cudaStream_t>(first->stream()), hold, &go_on),
              "holding a stream up");
  first->take(dropped);
  dropped = {};
  VideoFrame kept = shows(*new_pixels);
  second->take(kept);
  EXPECT_EQ(kept.image.planes[0], place) << "other memory: nothing is tried here";
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(cudaEventQuery(kept.held.ready), cudaErrorNotReady);
  go_on = true;
  first->wait();
  const std::vector<uint8_t> found = planes_of(kept);
  ASSERT_EQ(found.size(), kBytes);
  EXPECT_EQ(std::count(found.begin(), found.end(), 2), static_cast<std::ptrdiff_t>(kBytes));
}

// The frames of the second size are fetched and scaled as on the CPU.
TEST_F(Nvdec, PicturesThatChangeTheirSize) {
  const Decoded cpu = decode(kFixtures + "size_change.h264");
  EXPECT_EQ(cpu.indices.size(), 10u);
  for (const int decoders : {1, 2}) {
    VideoOptions options;
    options.gpu_decoders = decoders;
    const GpuDecoded gpu = decode_on_gpu(kFixtures + "size_change.h264", options);
    expect_equal(gpu, cpu);
    EXPECT_EQ(gpu.on_gpu, 5);
  }
}

TEST_F(Nvdec, SaysOnceWhatItDoesNotTake) {
  for (const char* name : {"mpeg4.avi", "yuv_444.mp4", "turn_90.mp4", "odd.webm"}) {
    g_warnings.clear();
    const GpuDecoded gpu = decode_on_gpu(kFixtures + name);
    EXPECT_EQ(gpu.on_gpu, 0) << name;
    EXPECT_FALSE(gpu.info.nvdec) << name;
    EXPECT_NE(g_warnings.find(std::string(name) + ": decoded on the CPU: "), std::string::npos)
        << g_warnings;
    EXPECT_EQ(std::count(g_warnings.begin(), g_warnings.end(), '\n'), 1) << g_warnings;
    g_warnings.clear();
    VideoOptions options;
    options.decoder = VideoDecoder::kAuto;
    expect_equal(decode(kFixtures + name, options), decode(kFixtures + name));
    EXPECT_EQ(g_warnings, "") << name;
  }
}

TEST_F(Nvdec, SurvivesDamage) {
  const Folder folder;
  int frames = 0;
  for (const char* name : {"large_h264.mp4", "large_hevc.mp4", "large_vp9.webm", "large_av1.mkv"}) {
    const std::vector<char> whole = read_bytes(kFixtures + name);
    uint32_t state = 7;
    const auto random = [&state] { return state = state * 1664525 + 1013904223; };
    for (int round = 0; round < 10; ++round) {
      std::vector<char> bytes = whole;
      for (int i = 0; i < 1 << round % 6; ++i) {
        bytes[(random() >> 4) % bytes.size()] = static_cast<char>(random() >> 13);
      }
      const std::string path = folder / ("damaged" + fs::path(name).extension().string());
      write_bytes(path, bytes);
      try {
        VideoOptions options;
        options.decoder = VideoDecoder::kAuto;
        options.gpu_decoders = 1 + round % 2;
        const std::unique_ptr<VideoReader> reader = open_video(path, options);
        for (VideoFrame frame; frames < 100000 && reader->read(frame); ++frames) {
          EXPECT_EQ(frame.image.width, reader->info().width);
          EXPECT_EQ(frame.image.height, reader->info().height);
          planes_of(frame);
        }
      } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::kInput))
            << error.what();
      }
    }
  }
  EXPECT_GT(frames, 50);
  EXPECT_LT(frames, 100000);
}

}  // namespace
}  // namespace rfseg
