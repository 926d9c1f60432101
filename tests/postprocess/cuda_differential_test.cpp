// Random batches on the GPU against the CPU backends: equal in every byte, scores included.

#include <cstdlib>
#include <iostream>
#include <memory>

#include "cuda_fixture.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;
using CudaDifferential = CudaTest;

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// Results that are not run lengths in host memory.
struct Output {
  CudaPostprocessor::Limits limits;
  std::unique_ptr<CudaPostprocessor> processor;
  std::size_t cases = 0;
};

::testing::AssertionResult same_output(std::span<const Detections> expected, Output& output,
                                       const DeviceOutputs& inputs, const PostprocessSpec& spec,
                                       std::span<const PreprocessGeometry> pictures,
                                       cudaStream_t stream) {
  CudaPostprocessor& processor = *output.processor;
  processor.prepare(inputs, spec, pictures, stream);
  processor.enqueue(inputs, stream);
  const CudaPostprocessor::Results results = processor.wait(stream);
  ++output.cases;
  if (output.limits.mask_bytes == cuda::MaskBytes::kRle) {
    const std::vector<Detections> found = processor.results();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto equal = same(expected[i], found[i]);
      if (!equal) return equal;
    }
    return ::testing::AssertionSuccess();
  }
  FetchedResults fetched(results, expected.size());
  fetched.fetch_pixels(expected, output.limits.mask_bytes);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto equal = same_pixels(expected[i], fetched.pictures[i], output.limits.mask_bytes);
    if (!equal) return equal;
  }
  return ::testing::AssertionSuccess();
}

TEST_F(CudaDifferential, GpuEqualsTheCpuInEveryByte) {
  // RFSEG_CUDA_CASES asks for a longer run, RFSEG_CUDA_FIRST for other cases.
  const uint64_t cases = number_from("RFSEG_CUDA_CASES", 2000);
  const uint64_t first = number_from("RFSEG_CUDA_FIRST", 1);
  ASSERT_GT(cases, 0u);
  CudaPostprocessor::Limits limits;
  limits.blocks_per_mask = 1;  // what GPUs without clusters run
  CudaPostprocessor::Limits two_kernels;
  two_kernels.selection_apart = true;
  CudaPostprocessor processor, one_block(0, limits), apart(0, two_kernels);
  // Other outputs, of which every case has one in turn.
  using Place = CudaPostprocessor::Place;
  std::vector<Output> outputs;
  for (const auto format :
       {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits, cuda::MaskBytes::kRle}) {
    for (const Place place : {Place::kDevice, Place::kHost}) {
      if (format == cuda::MaskBytes::kRle && place == Place::kHost) continue;
      Output& output = outputs.emplace_back();
      output.limits.mask_bytes = format;
      output.limits.place = place;
      output.limits.dense_bytes = uint64_t{64} << 20;
      output.processor = std::make_unique<CudaPostprocessor>(0, output.limits);
    }
  }
  cudaStream_t stream;
  cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::size_t detections = 0, foreground = 0, pictures_done = 0;
  for (uint64_t seed = first; seed < first + cases; ++seed) {
    Random random(seed);
    std::vector<Scene> scenes;
    scenes.push_back(random_scene(random));
    const Scene shape = scenes[0];
    PostprocessSpec spec = random_spec(random, shape);
    std::vector<PreprocessGeometry> pictures{random_geometry(random, shape.rows, shape.columns)};
    for (int more = random.one_in(3) ? random.range(1, 3) : 0; more > 0; --more) {
      scenes.push_back(shape);
      for (float& v : scenes.back().logits) v += random.uniform(-1, 1);
      for (int q = 0; q < shape.queries; ++q) {
        fill_mask(random, scenes.back().mask(q), shape.rows, shape.columns);
      }
      pictures.push_back(random_geometry(random, shape.rows, shape.columns));
    }
    const bool half = random.one_in(4);
    if (half) {
      for (Scene& scene : scenes) {
        round_to_half(scene.boxes);
        round_to_half(scene.logits);
        round_to_half(scene.masks);
      }
    }
    std::vector<Detections> expected;
    bool throws = false;
    try {
      for (std::size_t i = 0; i < scenes.size(); ++i) {
        spec.geometry = pictures[i];
        spec.backend = Backend::kCpu;
        expected.push_back(postprocess(scenes[i].view(), spec));
        if (seed % 8 != 0) continue;
        spec.backend = Backend::kReference;
        ASSERT_TRUE(same(expected.back(), postprocess(scenes[i].view(), spec))) << "seed " << seed;
      }
    } catch (const Error&) {  // pads that leave nothing of the grid
      throws = true;
    }
    const DeviceScenes device(scenes, half);
    if (throws) {
      EXPECT_THROW(processor.run(device.outputs, spec, pictures), Error) << "seed " << seed;
      continue;
    }
    const std::vector<Detections> found = (seed % 4 == 0   ? one_block
                                           : seed % 4 == 1 ? apart
                                                           : processor)
                                              .run(device.outputs, spec, pictures);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_TRUE(same(expected[i], found[i]))
          << "seed " << seed << ", picture " << i << " of " << found.size() << ", grid "
          << shape.rows << "x" << shape.columns << ", " << pictures[i].original_height << "x"
          << pictures[i].original_width << ", convention " << static_cast<int>(spec.like)
          << (half ? ", float16" : "");
      detections += found[i].items.size();
      for (const Detection& item : found[i].items) foreground += item.mask->area() > 0 ? 1 : 0;
      ++pictures_done;
    }
    Output& output = outputs[seed % outputs.size()];
    ASSERT_TRUE(same_output(expected, output, device.outputs, spec, pictures, stream))
        << "seed " << seed << ", format " << static_cast<int>(output.limits.mask_bytes)
        << ", place " << static_cast<int>(output.limits.place) << ", grid " << shape.rows << "x"
        << shape.columns << ", convention " << static_cast<int>(spec.like)
        << (half ? ", float16" : "");
  }
  cuda_ok(cudaStreamDestroy(stream));
  std::cout << cases << " cases, " << pictures_done << " pictures, " << detections
            << " detections, " << foreground << " with foreground, " << processor.counters().reruns
            << " reruns\n";
  for (const Output& output : outputs) EXPECT_GE(output.cases, cases / 10);
  EXPECT_GT(detections, cases / 2);
  EXPECT_GT(foreground, cases / 4);
}

// More pairs, queries and detections than shared memory holds.
TEST_F(CudaDifferential, LargeSelectionsEqualTheCpu) {
  Random random(11);
  CudaPostprocessor processor;
  const int shapes[][2] = {{100, 91}, {300, 91}, {3000, 3}, {5000, 7}, {1, 20000}};
  for (const auto& shape : shapes) {
    std::vector<Scene> scenes{Scene(shape[0], shape[1], 3, 4)};
    Scene& scene = scenes[0];
    for (float& v : scene.logits) v = static_cast<float>(random.range(-640, 320)) / 64;  // ties
    for (float& v : scene.boxes) v = random.uniform(0, 1);
    for (float& v : scene.masks) v = random.uniform(-1, 1);
    const DeviceScenes device(scenes);
    for (const float threshold : {-1.0f, 0.2f, 0.5f, 0.99f}) {
      for (const int num_select : {1, 100, 300, 1025, 4096, 6000, 40000}) {
        PostprocessSpec spec;
        spec.threshold = threshold;
        spec.num_select = num_select;
        spec.max_detections = num_select == 4096 ? 2500 : num_select == 40000 ? 40000 : 300;
        spec.geometry = PreprocessGeometry::stretch(31, 17, 12, 16);
        const Detections expected = postprocess(scene.view(), spec);
        const auto found = processor.run(device.outputs, spec, {&spec.geometry, 1});
        ASSERT_TRUE(same(expected, found[0]))
            << shape[0] << "x" << shape[1] << ", " << threshold << ", " << num_select;
      }
    }
  }
}

TEST_F(CudaDifferential, LargePicturesEqualTheCpu) {
  Random random(12);
  CudaPostprocessor processor;
  const int sizes[][2] = {{1080, 1920}, {2160, 3840}, {16384, 16384}, {1, 16384},
                          {16384, 1},   {78, 78},     {60, 100},      {234, 234}};
  for (const auto& size : sizes) {
    for (const Convention like : {Convention::kRfdetr, Convention::kInference}) {
      std::vector<Scene> scenes{Scene(6, 2, 78, 78)};
      for (float& v : scenes[0].logits) v = random.uniform(0.5f, 4);
      for (int q = 0; q < 6; ++q) fill_mask(random, scenes[0].mask(q), 78, 78);
      PostprocessSpec spec;
      spec.like = like;
      spec.geometry = PreprocessGeometry::stretch(size[0], size[1], 312, 312);
      const Detections expected = postprocess(scenes[0].view(), spec);
      const DeviceScenes device(scenes);
      const auto found = processor.run(device.outputs, spec, {&spec.geometry, 1});
      ASSERT_TRUE(same(expected, found[0])) << size[0] << "x" << size[1];
      EXPECT_EQ(expected.items.size(), 12u);
      if (int64_t{size[0]} * size[1] > 10'000'000) continue;  // 6 masks of 268 MB
      for (const auto format : {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
        Output output;
        output.limits.mask_bytes = format;
        output.limits.place = CudaPostprocessor::Place::kDevice;
        output.processor = std::make_unique<CudaPostprocessor>(0, output.limits);
        ASSERT_TRUE(
            same_output({&expected, 1}, output, device.outputs, spec, {&spec.geometry, 1}, nullptr))
            << size[0] << "x" << size[1];
      }
    }
  }
}

}  // namespace
}  // namespace rfseg
