// What the CUDA backend promises, on a GPU: the CPU backends' bits, no allocation and no
// synchronisation once warm, graphs that serve other sizes. Skipped without a GPU.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>
#include <memory>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "cuda_cases.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "preprocess/cuda/pixel_gate.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;
using cuda::Buffer;
using cuda::check;

class PreprocessCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!cuda::usable(&why)) GTEST_SKIP() << why;
  }
};

/// Frames of a call, where the call wants them.
class PlacedFrames {
 public:
  void add(const TestFrame& frame, FrameMemory memory) {
    CudaFrame placed{frame.view, memory};
    if (memory != FrameMemory::kPageable) {
      auto buffer = std::make_unique<Buffer>(
          memory == FrameMemory::kDevice ? Buffer::Kind::kDevice : Buffer::Kind::kPinned);
      buffer->reserve(frame.bytes.size());
      cuda::upload(buffer->data(), frame.bytes.data(), frame.bytes.size(), "placing a frame");
      placed.view = frame.at(buffer->as<const uint8_t>());
      buffers_.push_back(std::move(buffer));
    }
    frames_.push_back(placed);
    host_.push_back(frame.view);
  }
  std::span<const CudaFrame> frames() const { return frames_; }
  std::span<const ImageView> host() const { return host_; }

 private:
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<CudaFrame> frames_;
  std::vector<ImageView> host_;
};

/// The tensor's bytes after a call on a poisoned tensor.
std::vector<uint8_t> run(CudaPreprocessor& processor, std::span<const CudaFrame> frames,
                         const PreprocessSpec& spec, bool half, const cuda::Stream& stream) {
  const std::size_t bytes = frames.size() * 3 * (half ? 2 : 4) *
                            static_cast<std::size_t>(spec.network_width) *
                            static_cast<std::size_t>(spec.network_height);
  Buffer tensor(Buffer::Kind::kDevice);
  tensor.reserve(bytes);
  check(cudaMemsetAsync(tensor.data(), 0xee, bytes, stream), "poisoning the tensor");
  processor.prepare(frames, spec, tensor.data(), half, stream);
  processor.enqueue(stream);
  std::vector<uint8_t> result(bytes);
  check(cudaMemcpyAsync(result.data(), tensor.data(), bytes, cudaMemcpyDeviceToHost, stream),
        "copying the tensor");
  stream.synchronize("running a test");
  return result;
}

TEST_F(PreprocessCuda, GpuEqualsTheCpuInEveryBit) {
  const uint64_t cases = from_environment("RFSEG_CUDA_CASES", 1500);
  const uint64_t from = from_environment("RFSEG_CUDA_FIRST", 1);
  CudaPreprocessor processor;
  const cuda::Stream stream;
  std::size_t compared = 0, failed = 0;
  for (uint64_t seed = from; seed < from + cases && failed < 5; ++seed) {
    CaseRandom random(seed);
    const int most = seed % 50 == 0 ? 2500 : seed % 4 == 0 ? 700 : 200;
    const PreprocessSpec spec = random_spec(random, most / 3);
    PlacedFrames placed;
    std::vector<TestFrame> frames;
    for (int i = random.one_in(4) ? random.range(2, 4) : 1; i > 0; --i) {
      const bool plain = random.one_in(3);
      frames.push_back(make_frame(random, random_format(random), random_width(random, most),
                                  random_side(random, most), plain));
    }
    for (const TestFrame& frame : frames) {
      placed.add(frame, static_cast<FrameMemory>(random.range(0, 2)));
    }
    const bool half = random.one_in(4);
    std::vector<float> expected;
    try {
      expected = reference_batch(placed.host(), spec, Backend::kCpu);
    } catch (const Error&) {
      EXPECT_THROW(run(processor, placed.frames(), spec, half, stream), Error) << "seed " << seed;
      continue;
    }
    const std::vector<uint8_t> found = run(processor, placed.frames(), spec, half, stream);
    const std::size_t different = count_differences(expected, found.data(), half);
    failed += different != 0 ? 1 : 0;
    EXPECT_EQ(different, 0u) << "seed " << seed << ": " << describe(placed.host()[0], spec)
                             << ", batch " << frames.size();
    if (seed % 8 == 0) {
      EXPECT_EQ(run(processor, placed.frames(), spec, half, stream), found) << "seed " << seed;
    }
    compared += expected.size();
  }
  std::cout << cases << " cases, " << compared << " values\n";
  EXPECT_GT(compared, cases * 500);
}

/// Sizes that people have, in all formats, memories and modes.
TEST_F(PreprocessCuda, RealSizes) {
  CudaPreprocessor processor;
  const cuda::Stream stream;
  CaseRandom random(11);
  const int sizes[][2] = {{1920, 1080}, {1080, 1920}, {640, 480}, {500, 375}, {3840, 2160}};
  for (const auto& size : sizes) {
    for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kBgr8, PixelFormat::kNv12}) {
      const bool plain = random.one_in(2);
      const TestFrame frame = make_frame(random, format, size[0], size[1], plain);
      PlacedFrames placed;
      placed.add(frame, static_cast<FrameMemory>(random.range(0, 2)));
      for (const ResizeMode mode :
           {ResizeMode::kPil, ResizeMode::kPil13, ResizeMode::kBilinear, ResizeMode::kAntialias}) {
        PreprocessSpec spec;
        spec.resize = mode;
        spec.network_width = spec.network_height = 312;
        if (random.one_in(4)) {
          spec.placement = random.one_in(2) ? Placement::kLetterbox : Placement::kCenterCrop;
          spec.intermediate_width = spec.intermediate_height = 640;
        }
        const std::vector<float> expected = reference_batch(placed.host(), spec, Backend::kCpu);
        for (int twice = 0; twice < 2; ++twice) {
          const std::vector<uint8_t> found = run(processor, placed.frames(), spec, false, stream);
          ASSERT_EQ(count_differences(expected, found.data(), false), 0u)
              << describe(frame.view, spec);
        }
      }
    }
  }
}

TEST_F(PreprocessCuda, ACapturedGraphServesOtherSizesFormatsAndPlaces) {
  constexpr int kSide = 240, kBatch = 3;
  CaseRandom random(7);
  CudaPreprocessor processor;
  const cuda::Stream stream;
  for (const ResizeMode mode : {ResizeMode::kPil, ResizeMode::kBilinear, ResizeMode::kAntialias}) {
    const bool half = mode == ResizeMode::kBilinear;
    PreprocessSpec spec;
    spec.resize = mode;
    spec.network_width = spec.network_height = kSide;
    const std::size_t bytes = std::size_t{kBatch} * 3 * kSide * kSide * (half ? 2 : 4);
    Buffer tensors[2] = {Buffer(Buffer::Kind::kDevice), Buffer(Buffer::Kind::kDevice)};
    for (Buffer& tensor : tensors) tensor.reserve(bytes);
    cuda::Graph graph;
    uint64_t generation = 0;
    int captures = 0;
    // At first only frames that are read directly; then what else there is takes one more capture.
    for (int k = 0; k < 60; ++k) {
      const bool aligned = k < 20;
      PlacedFrames placed;
      std::vector<TestFrame> frames;
      for (int i = 0; i < kBatch; ++i) {
        const PixelFormat format = aligned ? PixelFormat::kBgr8 : random_format(random);
        const int width = aligned ? 16 * random.range(1, 56) : random.range(1, 900);
        frames.push_back(
            make_frame(random, format, width, random.range(1, 900), aligned || random.one_in(2)));
      }
      for (const TestFrame& frame : frames) {
        placed.add(frame, static_cast<FrameMemory>(random.range(0, 2)));
      }
      spec.placement = static_cast<Placement>(aligned ? 0 : random.range(0, 1));
      spec.intermediate_width = spec.intermediate_height = 320;
      for (float& v : spec.mean) v = random.uniform(0, 1);
      std::vector<float> expected;
      try {
        expected = reference_batch(placed.host(), spec, Backend::kCpu);
      } catch (const Error&) {  // too narrow for the letterbox
        continue;
      }
      Buffer& tensor = tensors[k % 2];
      check(cudaMemsetAsync(tensor.data(), 0xee, bytes, stream), "poisoning the tensor");
      processor.prepare(placed.frames(), spec, tensor.data(), half, stream);
      if (captures == 0 || processor.generation() != generation) {
        generation = processor.generation();
        graph.capture(stream, [&] { processor.enqueue(stream); });
        ++captures;
      }
      ASSERT_LE(captures, mode == ResizeMode::kPil && !aligned ? 2 : 1);
      graph.launch(stream);
      std::vector<uint8_t> found(bytes);
      check(cudaMemcpyAsync(found.data(), tensor.data(), bytes, cudaMemcpyDeviceToHost, stream),
            "copying the tensor");
      stream.synchronize("running a test");
      ASSERT_EQ(count_differences(expected, found.data(), half), 0u) << "replay " << k;
    }
  }
}

// The kernel is there before its pixels are, behind a copy that is long under way.
TEST_F(PreprocessCuda, WaitsForPixelsBehindAGate) {
  const cuda::PixelGate gate;
  if (!gate.usable()) GTEST_SKIP() << "this driver's streams write no words";
  const cuda::Stream stream, copies;
  CudaPreprocessor processor;
  processor.wait_for(gate.words());
  Buffer delay(Buffer::Kind::kDevice), from(Buffer::Kind::kPinned), to(Buffer::Kind::kDevice);
  delay.reserve(std::size_t{256} << 20);
  constexpr std::size_t kMost = std::size_t{16} << 20;
  from.reserve(kMost);
  to.reserve(kMost);
  cuda::Graph graph;
  uint64_t generation = 0;
  Buffer tensor(Buffer::Kind::kDevice);
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    CaseRandom random(seed + 4000);
    PreprocessSpec spec = random_spec(random, 200);
    if (seed % 2 == 0) {  // one shape again and again: a graph that is replayed
      spec.network_width = spec.network_height = 96;
      spec.resize = ResizeMode::kPil;
    }
    const TestFrame frame = make_frame(random, random_format(random), random_width(random, 700),
                                       random_side(random, 500), random.one_in(2));
    ASSERT_LE(frame.bytes.size(), kMost);
    std::vector<float> expected;
    try {
      expected = reference_batch({&frame.view, 1}, spec, Backend::kCpu);
    } catch (const Error&) {
      continue;
    }
    std::memcpy(from.data(), frame.bytes.data(), frame.bytes.size());
    check(cudaMemset(to.data(), 0x3c, kMost), "spoiling the pixels");
    check(cudaDeviceSynchronize(), "spoiling the pixels");
    tensor.reserve(expected.size() * sizeof(float));
    const CudaFrame placed{frame.at(to.as<const uint8_t>()), FrameMemory::kDevice};
    processor.prepare({&placed, 1}, spec, tensor.data(), false, stream);
    stream.synchronize("preparing");
    if (random.one_in(2)) {
      check(cudaMemsetAsync(delay.data(), 1, delay.size(), copies), "a delay");
    }
    check(
        cudaMemcpyAsync(to.data(), from.data(), frame.bytes.size(), cudaMemcpyHostToDevice, copies),
        "copying a frame");
    gate.open(copies);
    if (seed % 2 == 0) {
      if (graph.empty() || generation != processor.generation()) {
        graph.reset();
        graph.capture(stream, [&] { processor.enqueue(stream); });
        generation = processor.generation();
      }
      graph.launch(stream);
    } else {
      processor.enqueue(stream);
    }
    std::vector<float> found(expected.size());
    check(cudaMemcpyAsync(found.data(), tensor.data(), found.size() * sizeof(float),
                          cudaMemcpyDeviceToHost, stream),
          "copying the tensor");
    stream.synchronize("running a test");
    ASSERT_EQ(count_differences(expected, found.data(), false), 0u)
        << "seed " << seed << ": " << describe(frame.view, spec);
  }
  uint32_t words[2] = {7, 7};
  check(cudaMemcpy(words, gate.words(), sizeof(words), cudaMemcpyDeviceToHost), "looking");
  EXPECT_EQ(words[0], 0u);  // closed behind the last
  EXPECT_EQ(words[1], 0u);
}

TEST_F(PreprocessCuda, NeitherAllocatesNorWaitsOnceSizesHaveBeenSeen) {
  CaseRandom random(9);
  CudaPreprocessor processor;
  const cuda::Stream stream;
  PreprocessSpec spec;
  spec.resize = ResizeMode::kPil;
  spec.network_width = spec.network_height = 312;
  std::vector<PlacedFrames> calls(6);
  std::vector<TestFrame> frames;
  frames.reserve(12);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    for (int k = 0; k < 2; ++k) {
      frames.push_back(make_frame(random, k == 0 ? PixelFormat::kRgb8 : PixelFormat::kNv12,
                                  random.range(200, 1280), random.range(200, 800), true));
      calls[i].add(frames.back(), static_cast<FrameMemory>(i % 3));
    }
  }
  Buffer tensor(Buffer::Kind::kDevice);
  tensor.reserve(2 * 3 * 312 * 312 * 4);
  const auto pass = [&] {
    for (const PlacedFrames& call : calls) {
      processor.prepare(call.frames(), spec, tensor.data(), false, stream);
      processor.enqueue(stream);
    }
    stream.synchronize("running a test");
  };
  // Pinned memory is taken from four slots in turn: all have met all sizes after some passes.
  for (int k = 0; k < 8; ++k) pass();
  // Free memory is the whole GPU's, and other processes may use it, too: one quiet pass of some
  // will do. What the pre-processor counts must be right in each.
  bool steady = false;
  for (int attempt = 0; attempt < 5 && !steady; ++attempt) {
    const auto before = processor.counters();
    std::size_t free_before = 0, free_after = 0, total = 0;
    check(cudaMemGetInfo(&free_before, &total), "reading free memory");
    for (const PlacedFrames& call : calls) {
      processor.prepare(call.frames(), spec, tensor.data(), false, stream);
      processor.enqueue(stream);
      stream.synchronize("running a test");  // the caller's own wait: otherwise slots may be busy
    }
    check(cudaMemGetInfo(&free_after, &total), "reading free memory");
    const auto after = processor.counters();
    steady = free_before == free_after;
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.synchronisations, before.synchronisations);
    EXPECT_EQ(after.launches, before.launches + calls.size());
    EXPECT_EQ(after.uploads, before.uploads + calls.size());
  }
  EXPECT_TRUE(steady);
  const auto after = processor.counters();
  // A call that repeats the last one sends no parameters.
  processor.prepare(calls.back().frames(), spec, tensor.data(), false, stream);
  EXPECT_EQ(processor.counters().uploads, after.uploads);
  stream.synchronize("running a test");
}

TEST_F(PreprocessCuda, PreprocessRunsOnTheGpuWhenAsked) {
  CaseRandom random(3);
  const TestFrame frame = make_frame(random, PixelFormat::kI420, 333, 222, false);
  PreprocessSpec spec;
  spec.network_width = 96;
  spec.network_height = 64;
  const std::vector<float> expected = reference_batch({&frame.view, 1}, spec);
  EXPECT_EQ(expected, reference_batch({&frame.view, 1}, spec, Backend::kCuda));
  EXPECT_THROW(CudaPreprocessor(1000), Error);
  ImageView broken = frame.view;
  broken.planes[2] = nullptr;
  EXPECT_THROW(reference_batch({&broken, 1}, spec, Backend::kCuda), Error);
}

}  // namespace
}  // namespace rfseg
