// The CUDA kernels' source, run by the emulator, against the reference backend: equal in every
// byte. What this cannot show is told by the tests on a GPU (cuda_test.cpp).

#define RFSEG_SIMT_EMULATION 1
#include <gtest/gtest.h>

#include <iostream>

#include "cuda_cases.h"
#include "preprocess/cuda/float_kernels.h"
#include "preprocess/cuda/pil_kernel.h"
#include "preprocess/cuda/plan.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;

template <bool half>
void launch(const cuda::PreprocessArguments& a, int blocks) {
  using namespace cuda;
  const std::size_t pil = sizeof(PilShared) + static_cast<std::size_t>(a.row_bytes);
  emulator::launch(
      blocks, 1, kPreprocessThreads, 1,
      a.kernel == ResizeKernel::kPil ? pil : sizeof(AntialiasShared), [&](void* shared) {
        switch (a.kernel) {
          case ResizeKernel::kPil:
            return a.direct ? pil_kernel<half, true>(a, *static_cast<PilShared*>(shared))
                            : pil_kernel<half, false>(a, *static_cast<PilShared*>(shared));
          case ResizeKernel::kBilinear:
            return bilinear_kernel<half>(a);
          case ResizeKernel::kAntialias:
            return antialias_kernel<half>(a, *static_cast<AntialiasShared*>(shared));
        }
      });
}

/// The tensor, in bytes. `apart`: never by the kernel for frames that are read directly.
std::vector<uint8_t> emulate(cuda::Planner& planner, std::span<const ImageView> frames,
                             const PreprocessSpec& spec, bool half, const cuda::PlanLimits& limits,
                             int blocks, bool apart = false, bool* direct = nullptr) {
  for (const ImageView& frame : frames) cuda::check_frame(frame, spec);
  cuda::PreprocessArguments a =
      launch_arguments(cuda::launch_shape(frames.size(), spec, half), limits);
  const std::size_t elements =
      frames.size() * 3 * static_cast<std::size_t>(spec.network_width) * spec.network_height;
  AlignedVector<uint8_t> tensor(elements * (half ? 2 : 4) + 64);
  std::memset(tensor.data(), 0xee, tensor.size());
  const auto block = planner.build(a, frames, spec, tensor.data());
  AlignedVector<uint8_t> parameters(block.bytes.size());
  std::memcpy(parameters.data(), block.bytes.data(), parameters.size());
  a.parameters = reinterpret_cast<const std::byte*>(parameters.data());
  a.direct = block.direct && !apart;
  if (direct != nullptr) *direct = a.direct;
  half ? launch<true>(a, blocks) : launch<false>(a, blocks);
  for (std::size_t i = elements * (half ? 2 : 4); i < tensor.size(); ++i) {
    EXPECT_EQ(tensor[i], 0xee) << "written past the tensor";
  }
  return {tensor.begin(), tensor.end() - 64};
}

void run_case(uint64_t seed, int most, cuda::Planner& planner, std::size_t& compared) {
  CaseRandom random(seed);
  const PreprocessSpec spec = random_spec(random, most / 3);
  std::vector<TestFrame> frames;
  for (int i = random.one_in(4) ? 2 : 1; i > 0; --i) {
    const bool plain = random.one_in(3);
    frames.push_back(make_frame(random, random_format(random), random_width(random, most),
                                random_side(random, most), plain));
  }
  std::vector<ImageView> views;
  for (const TestFrame& frame : frames) views.push_back(frame.view);
  std::vector<float> expected;
  try {
    expected = reference_batch(views, spec);
  } catch (const Error&) {
    return;
  }
  cuda::PlanLimits limits;
  limits.processors = random.range(1, 20);
  // With little memory for rows, wide windows come in strips.
  limits.row_bytes =
      random.one_in(3) ? 16 * (128 + 64 * random.range(0, 8)) : 16000 * random.range(1, 10);
  if (random.one_in(3)) limits.tile_rows = random.range(1, 16);
  const bool half = random.one_in(4);
  const int blocks = random.range(1, 3);
  const std::vector<uint8_t> found =
      emulate(planner, views, spec, half, limits, blocks, random.one_in(4));
  ASSERT_EQ(count_differences(expected, found.data(), half), 0u)
      << "seed " << seed << ": " << describe(views[0], spec) << ", batch " << views.size()
      << ", row bytes " << limits.row_bytes << ", tile rows " << limits.tile_rows;
  compared += expected.size();
}

TEST(PreprocessEmulation, KernelsEqualTheReferenceInEveryByte) {
  const uint64_t cases = from_environment("RFSEG_EMULATION_CASES", 2500);
  const uint64_t from = from_environment("RFSEG_EMULATION_FIRST", 1);
  cuda::Planner planner;
  std::size_t compared = 0;
  for (uint64_t seed = from; seed < from + cases; ++seed) {
    run_case(seed, seed % 25 == 0 ? 700 : 150, planner, compared);
    if (HasFatalFailure()) return;
  }
  std::cout << cases << " cases, " << compared << " values\n";
  EXPECT_GT(compared, cases * 500);
}

/// Frames whose rows are used as they are, which have a kernel of their own; by the other one, too,
/// and with memory for one tile or for two.
TEST(PreprocessEmulation, AlignedFramesEqualTheReferenceInEveryByte) {
  const uint64_t cases = from_environment("RFSEG_EMULATION_CASES", 2500) / 5;
  cuda::Planner planner;
  std::size_t by_its_kernel = 0;
  for (uint64_t seed = 1; seed <= cases; ++seed) {
    CaseRandom random(seed + 1000000);
    PreprocessSpec spec;
    spec.resize = ResizeMode::kPil;
    spec.network_width = random_side(random, 150);
    spec.network_height = random_side(random, 60);
    for (float& v : spec.mean) v = random.uniform(0, 1);
    std::vector<TestFrame> frames;
    std::vector<ImageView> views;
    for (int i = random.range(1, 3); i > 0; --i) {
      const PixelFormat format = random.one_in(2) ? PixelFormat::kRgb8 : PixelFormat::kBgr8;
      const int most = random.one_in(20) ? 60 : 14;
      frames.push_back(
          make_frame(random, format, 16 * random.range(1, most), random_side(random, 200), true));
    }
    for (const TestFrame& frame : frames) views.push_back(frame.view);
    cuda::PlanLimits limits;
    limits.processors = random.range(1, 20);
    limits.row_bytes = 16000 * random.range(1, 10);
    if (random.one_in(3)) limits.tile_rows = random.range(1, 16);
    const bool half = random.one_in(4), apart = random.one_in(4);
    const std::vector<float> expected = reference_batch(views, spec);
    const int blocks = random.range(1, 3);
    bool direct = false;
    const std::vector<uint8_t> found =
        emulate(planner, views, spec, half, limits, blocks, apart, &direct);
    by_its_kernel += direct ? 1 : 0;
    ASSERT_EQ(count_differences(expected, found.data(), half), 0u)
        << "seed " << seed << ": " << describe(views[0], spec) << ", batch " << views.size()
        << ", row bytes " << limits.row_bytes << ", tile rows " << limits.tile_rows
        << ", its kernel " << direct;
  }
  EXPECT_GT(by_its_kernel, cases / 6);
}

/// Widths and heights that the usual cases do not reach, in all modes.
TEST(PreprocessEmulation, ExtremeShapes) {
  struct Shape {
    int width, height, network_width, network_height;
  };
  constexpr Shape kShapes[] = {{65535, 1, 3, 2},  {1, 65535, 2, 3}, {900, 3, 1, 1},
                               {3, 900, 1, 1},    {1, 1, 100, 70},  {1920, 20, 130, 6},
                               {20, 1920, 6, 130}};
  CaseRandom random(77);
  cuda::Planner planner;
  for (const Shape& shape : kShapes) {
    for (const ResizeMode mode :
         {ResizeMode::kPil, ResizeMode::kPil13, ResizeMode::kBilinear, ResizeMode::kAntialias}) {
      for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kNv12}) {
        if (format == PixelFormat::kNv12 && shape.width * shape.height > 60000) continue;
        const TestFrame frame = make_frame(random, format, shape.width, shape.height, true);
        PreprocessSpec spec;
        spec.resize = mode;
        spec.network_width = shape.network_width;
        spec.network_height = shape.network_height;
        const std::vector<float> expected = reference_batch({&frame.view, 1}, spec);
        const std::vector<uint8_t> found =
            emulate(planner, {&frame.view, 1}, spec, false, cuda::PlanLimits{}, 2);
        ASSERT_EQ(count_differences(expected, found.data(), false), 0u)
            << describe(frame.view, spec);
      }
    }
  }
}

TEST(PreprocessEmulation, TablesAreOnlySentWhenSizesChange) {
  CaseRandom random(5);
  cuda::Planner planner;
  PreprocessSpec spec;
  spec.network_width = spec.network_height = 40;
  spec.resize = ResizeMode::kPil;
  const auto a = launch_arguments(cuda::launch_shape(1, spec, false), cuda::PlanLimits{});
  const TestFrame one = make_frame(random, PixelFormat::kRgb8, 100, 80, true);
  const TestFrame other = make_frame(random, PixelFormat::kNv12, 100, 80, false);
  const TestFrame larger = make_frame(random, PixelFormat::kRgb8, 101, 80, true);
  float tensor;
  const auto changed = [&](const TestFrame& frame) {
    return planner.build(a, {&frame.view, 1}, spec, &tensor).tables_changed;
  };
  EXPECT_TRUE(changed(one));
  EXPECT_FALSE(changed(one));
  EXPECT_FALSE(changed(other));
  EXPECT_TRUE(changed(larger));
  EXPECT_TRUE(changed(one));
}

TEST(PreprocessEmulation, RefusesWhatPreprocessRefuses) {
  CaseRandom random(6);
  const TestFrame frame = make_frame(random, PixelFormat::kNv12, 20, 10, true);
  PreprocessSpec spec;
  spec.network_width = spec.network_height = 8;
  EXPECT_NO_THROW(cuda::check_frame(frame.view, spec));
  ImageView broken = frame.view;
  broken.planes[1] = nullptr;
  EXPECT_THROW(cuda::check_frame(broken, spec), Error);
  broken = frame.view;
  broken.width = 0;
  EXPECT_THROW(cuda::check_frame(broken, spec), Error);
  broken.width = 65536;
  EXPECT_THROW(cuda::check_frame(broken, spec), Error);
  spec.padding_value = 256;
  EXPECT_THROW(cuda::check_frame(frame.view, spec), Error);
  spec.padding_value = 0;
  spec.network_height = 0;
  EXPECT_THROW(cuda::check_frame(frame.view, spec), Error);
  EXPECT_THROW(cuda::launch_shape(0, spec, false), Error);
}

}  // namespace
}  // namespace rfseg
