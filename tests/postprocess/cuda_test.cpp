// Goldens of independent references on the GPU, and what the CUDA backend promises about memory,
// graphs and overflow.

#include <bit>
#include <cmath>

#include "cuda_fixture.h"
#include "golden_cases.h"
#include "rfseg/error.h"
#include "torch_grid.h"
#include "torch_masks.h"

namespace rfseg {
namespace {

using namespace test;
using CudaGolden = CudaTest;
using Cuda = CudaTest;

TEST_F(CudaGolden, BoxesClassesOrderAndRunLengthBytes) {
  std::size_t masks = 0;
  for (const json& c : goldens()["cases"]) {
    const std::string name = c["name"];
    const Scene scene = golden_scene(c);
    PostprocessSpec spec = golden_spec(c);
    spec.backend = Backend::kCuda;
    const Detections found = postprocess(scene.view(), spec);
    const json& expected = c["detections"];
    ASSERT_EQ(found.items.size(), expected.size()) << name;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Detection& item = found.items[i];
      const json& e = expected[i];
      EXPECT_EQ(item.query, e["query"].get<int>()) << name << ", detection " << i;
      EXPECT_EQ(item.class_id, e["class_id"].get<int>()) << name << ", detection " << i;
      EXPECT_NEAR(item.score, e["score"].get<float>(), 2e-7) << name << ", detection " << i;
      for (std::size_t k = 0; k < 4; ++k) {
        EXPECT_EQ(item.box_xyxy[k], e["box"][k].get<float>()) << name << ", detection " << i;
      }
      ASSERT_NE(item.mask, nullptr);
      EXPECT_EQ(item.mask->counts, e["counts"].get<std::string>()) << name << ", detection " << i;
      ++masks;
    }
  }
  EXPECT_GT(masks, 500u);
}

TEST_F(CudaGolden, MasksEqualThoseOfTorchOnCudaInEveryPixel) {
  expect_torch_cuda_masks(Backend::kCuda);
}

TEST_F(CudaGolden, WholeCallsEqualThoseOfTorchOnCuda) { expect_torch_grid(Backend::kCuda); }

bool has_clusters() {
  int major = 0;
  cuda_ok(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
}

/// A scene with blobs that no random oddity replaces.
Scene blobs(uint64_t seed, int queries, int grid) {
  Random random(seed);
  Scene scene(queries, 3, grid, grid);
  for (float& v : scene.logits) v = random.uniform(-4, 4);
  for (float& v : scene.boxes) v = random.uniform(0.1f, 0.6f);
  for (int q = 0; q < queries; ++q) {
    const float cy = random.uniform(0.2f, 0.8f) * static_cast<float>(grid);
    const float cx = random.uniform(0.2f, 0.8f) * static_cast<float>(grid);
    for (int i = 0; i < grid * grid; ++i) {
      const float dy = static_cast<float>(i / grid) - cy, dx = static_cast<float>(i % grid) - cx;
      scene.mask(q)[i] = 6 - std::sqrt(dy * dy + dx * dx) + random.uniform(-0.4f, 0.4f);
    }
  }
  return scene;
}

TEST_F(Cuda, RunsTwiceWithTheSameAnswer) {
  const std::vector<Scene> scenes{blobs(1, 60, 48), blobs(2, 60, 48), blobs(3, 60, 48)};
  const DeviceScenes device(scenes);
  PostprocessSpec spec;
  const std::vector<PreprocessGeometry> pictures{PreprocessGeometry::stretch(480, 640, 192, 192),
                                                 PreprocessGeometry::stretch(1080, 1920, 192, 192),
                                                 PreprocessGeometry::stretch(37, 50, 192, 192)};
  CudaPostprocessor processor, other;
  const auto first = processor.run(device.outputs, spec, pictures);
  for (int k = 0; k < 20; ++k) {
    const auto again = (k % 2 == 0 ? processor : other).run(device.outputs, spec, pictures);
    for (std::size_t i = 0; i < 3; ++i) ASSERT_TRUE(same(first[i], again[i]));
  }
  for (std::size_t i = 0; i < 3; ++i) {
    spec.geometry = pictures[i];
    EXPECT_TRUE(same(postprocess(scenes[i].view(), spec), first[i]));
  }
}

TEST_F(Cuda, DoesNotAllocateAfterTheFirstCallAndSynchronisesOnce) {
  const std::vector<Scene> scenes{blobs(4, 30, 78)};
  const DeviceScenes device(scenes);
  for (const bool apart : {false, true}) {
    CudaPostprocessor::Limits limits;
    limits.selection_apart = apart;
    CudaPostprocessor processor(0, limits);
    PostprocessSpec spec;
    const int sizes[][2] = {{1080, 1920}, {480, 640}, {2160, 3840}, {1, 1}, {40, 40}};
    spec.geometry = PreprocessGeometry::stretch(720, 1280, 312, 312);
    processor.run(device.outputs, spec, {&spec.geometry, 1});
    const auto before = processor.counters();
    for (const auto& size : sizes) {
      spec.geometry = PreprocessGeometry::stretch(size[0], size[1], 312, 312);
      spec.threshold = size[0] > 1000 ? 0.7f : 0.3f;
      const auto found = processor.run(device.outputs, spec, {&spec.geometry, 1});
      EXPECT_TRUE(same(postprocess(scenes[0].view(), spec), found[0]));
    }
    const auto after = processor.counters();
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.synchronisations, before.synchronisations + 5);
    EXPECT_EQ(after.launches, before.launches + (apart || !has_clusters() ? 10 : 5));
    EXPECT_EQ(after.uploads, before.uploads + 5);
    EXPECT_EQ(after.reruns, 0u);
    // Other processes on the same GPU may change what is free, but not every time.
    bool steady = false;
    for (int round = 0; round < 20 && !steady; ++round) {
      std::size_t free_before = 0, free_after = 1, total = 0;
      cuda_ok(cudaMemGetInfo(&free_before, &total));
      processor.run(device.outputs, spec, {&spec.geometry, 1});
      cuda_ok(cudaMemGetInfo(&free_after, &total));
      steady = free_before == free_after;
    }
    EXPECT_TRUE(steady);
  }
}

TEST_F(Cuda, SelectsInAKernelOfItsOwnWhereThereAreManyCandidates) {
  const std::vector<Scene> scenes{blobs(13, 200, 12)};
  const DeviceScenes device(scenes);
  for (const auto format :
       {cuda::MaskBytes::kRle, cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
    CudaPostprocessor::Limits limits;
    limits.mask_bytes = format;
    limits.dense_masks = 300;
    CudaPostprocessor processor(0, limits);
    cudaStream_t stream;
    cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    PostprocessSpec spec;
    spec.geometry = PreprocessGeometry::stretch(60, 80, 48, 48);
    // 600 pairs, of which so many pass; launches and reruns of each call.
    const struct {
      float threshold;
      uint64_t launches, reruns;
    } calls[] = {{0.95f, 1, 0}, {0.1f, 3, 1}, {0.9f, 1, 0}, {0.1f, 3, 1},
                 {0.1f, 2, 0},  {0.1f, 2, 0}, {0.9f, 1, 0}, {0.1f, 3, 1}};
    for (const auto& call : calls) {
      spec.threshold = call.threshold;
      const Detections expected = postprocess(scenes[0].view(), spec);
      EXPECT_EQ(expected.items.size() > 256, call.threshold < 0.5f);
      const auto before = processor.counters();
      processor.prepare(device.outputs, spec, {&spec.geometry, 1}, stream);
      processor.enqueue(device.outputs, stream);
      FetchedResults fetched(processor.wait(stream), 1);
      if (has_clusters() && format == cuda::MaskBytes::kRle) {
        EXPECT_EQ(processor.counters().launches, before.launches + call.launches);
        EXPECT_EQ(processor.counters().reruns, before.reruns + call.reruns);
      }
      if (format == cuda::MaskBytes::kRle) {
        EXPECT_TRUE(same(expected, processor.results()[0]));
      } else {
        fetched.fetch_pixels({&expected, 1}, format);
        EXPECT_TRUE(same_pixels(expected, fetched.pictures[0], format));
      }
    }
    cuda_ok(cudaStreamDestroy(stream));
  }
}

TEST_F(Cuda, ACapturedGraphServesOtherSizesThresholdsAndClassMaps) {
  const std::vector<Scene> scenes{blobs(5, 40, 60), blobs(6, 40, 60)};
  const DeviceScenes device(scenes);
  cudaStream_t stream;
  cuda_ok(cudaStreamCreate(&stream));
  CudaPostprocessor processor;
  PostprocessSpec spec;
  std::vector<PreprocessGeometry> pictures(2, PreprocessGeometry::stretch(480, 640, 240, 240));
  processor.prepare(device.outputs, spec, pictures, stream);
  const uint64_t generation = processor.generation();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cuda_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  processor.enqueue(device.outputs, stream);
  cuda_ok(cudaStreamEndCapture(stream, &graph));
  std::size_t nodes = 0;
  cuda_ok(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_LE(nodes, 3u);
  cuda_ok(cudaGraphInstantiate(&executable, graph, 0));
  Random random(7);
  for (int k = 0; k < 60; ++k) {
    for (auto& picture : pictures) {
      picture = PreprocessGeometry::stretch(random.range(1, 1200), random.range(1, 1900), 240, 240);
      if (random.one_in(3)) {
        picture.crop_width = random.range(1, picture.original_width);
        picture.crop_x = random.range(0, picture.original_width - picture.crop_width);
      }
    }
    spec.threshold = random.uniform(-0.1f, 0.9f);
    spec.max_detections = random.range(0, 120);
    spec.num_select = random.range(0, 130);
    spec.class_map = random.one_in(2) ? std::vector<int>{2, -1, 5} : std::vector<int>{};
    processor.prepare(device.outputs, spec, pictures, stream);
    ASSERT_EQ(processor.generation(), generation);
    cuda_ok(cudaGraphLaunch(executable, stream));
    processor.wait(stream);
    const auto found = processor.results();
    for (std::size_t i = 0; i < 2; ++i) {
      spec.geometry = pictures[i];
      ASSERT_TRUE(same(postprocess(scenes[i].view(), spec), found[i])) << "replay " << k;
    }
  }
  cuda_ok(cudaGraphExecDestroy(executable));
  cuda_ok(cudaGraphDestroy(graph));
  cuda_ok(cudaStreamDestroy(stream));
}

TEST_F(Cuda, RecoversFromOverflow) {
  Random random(8);
  std::vector<Scene> scenes{Scene(5, 1, 64, 64)};
  for (float& v : scenes[0].logits) v = 2;
  for (float& v : scenes[0].boxes) v = 0.5f;
  for (float& v : scenes[0].masks) v = random.uniform(-1, 1);
  const DeviceScenes device(scenes);
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(900, 1100, 256, 256);
  const Detections expected = postprocess(scenes[0].view(), spec);
  // No room for toggles, for bytes, for both.
  const CudaPostprocessor::Limits limits[] = {
      {.toggles_per_block = 0, .bytes = uint64_t{1} << 22, .bytes_per_picture = 0},
      {.toggles_per_block = 1u << 20, .bytes = 64, .bytes_per_picture = 0},
      {.toggles_per_block = 0, .bytes = 16, .bytes_per_picture = 16}};
  for (const auto& limit : limits) {
    CudaPostprocessor processor(0, limit);
    const auto found = processor.run(device.outputs, spec, {&spec.geometry, 1});
    EXPECT_TRUE(same(expected, found[0]));
    EXPECT_EQ(processor.counters().reruns, 1u);
    EXPECT_EQ(processor.counters().synchronisations, 3u);
    // The next call that fits runs once.
    PostprocessSpec none = spec;
    none.threshold = 1;
    const auto empty = processor.run(device.outputs, none, {&spec.geometry, 1});
    EXPECT_TRUE(empty[0].items.empty());
    EXPECT_EQ(processor.counters().reruns, 1u);
  }
}

TEST_F(Cuda, PixelsAndRunLengthsOnTheDeviceOrTheHost) {
  const std::vector<Scene> scenes{blobs(10, 20, 48), blobs(11, 20, 48), blobs(12, 20, 48)};
  const DeviceScenes device(scenes);
  PostprocessSpec spec;
  spec.max_detections = 25;
  const std::vector<PreprocessGeometry> pictures{PreprocessGeometry::stretch(333, 501, 192, 192),
                                                 PreprocessGeometry::stretch(720, 1280, 192, 192),
                                                 PreprocessGeometry::stretch(37, 50, 192, 192)};
  std::vector<Detections> expected;
  for (std::size_t i = 0; i < scenes.size(); ++i) {
    spec.geometry = pictures[i];
    expected.push_back(postprocess(scenes[i].view(), spec));
    EXPECT_EQ(expected.back().items.size(), 25u);
  }
  cudaStream_t stream;
  cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const auto format :
       {cuda::MaskBytes::kRle, cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
    for (const auto place : {CudaPostprocessor::Place::kHost, CudaPostprocessor::Place::kDevice}) {
      CudaPostprocessor::Limits limits;
      limits.mask_bytes = format;
      limits.place = place;
      CudaPostprocessor processor(0, limits);
      for (int again = 0; again < 3; ++again) {
        const auto before = processor.counters();
        processor.prepare(device.outputs, spec, pictures, stream);
        processor.enqueue(device.outputs, stream);
        const auto results = processor.wait(stream);
        const auto after = processor.counters();
        EXPECT_EQ(after.launches, before.launches + 2);
        EXPECT_EQ(after.synchronisations, before.synchronisations + 1);
        EXPECT_TRUE(again == 0 || after.allocations == before.allocations);
        cudaPointerAttributes attributes;
        cuda_ok(cudaPointerGetAttributes(&attributes, results.bytes));
        EXPECT_EQ(attributes.type, place == CudaPostprocessor::Place::kHost ? cudaMemoryTypeHost
                                                                            : cudaMemoryTypeDevice);
        FetchedResults fetched(results, 3);
        if (format != cuda::MaskBytes::kRle) fetched.fetch_pixels(expected, format);
        const auto objects = processor.results();
        for (std::size_t i = 0; i < 3; ++i) {
          if (format != cuda::MaskBytes::kRle) {
            ASSERT_TRUE(same_pixels(expected[i], fetched.pictures[i], format));
            ASSERT_EQ(objects[i].items.size(), expected[i].items.size());
            EXPECT_EQ(objects[i].items[0].mask, nullptr);
            EXPECT_EQ(objects[i].items[24].query, expected[i].items[24].query);
            continue;
          }
          ASSERT_TRUE(same(expected[i], objects[i]));
          for (std::size_t k = 0; k < 25; ++k) {
            EXPECT_EQ(fetched.text(i, fetched.pictures[i].detections[k].mask),
                      expected[i].items[k].mask->counts);
          }
        }
      }
    }
  }
  // Without room for all, the call runs again with what it needs.
  CudaPostprocessor::Limits limits;
  limits.mask_bytes = cuda::MaskBytes::kDense;
  for (const bool by_masks : {true, false}) {
    limits.dense_masks = by_masks ? 3 : 100;
    limits.dense_bytes = by_masks ? uint64_t{1} << 30 : 1'000'000;
    CudaPostprocessor processor(0, limits);
    processor.prepare(device.outputs, spec, pictures, stream);
    processor.enqueue(device.outputs, stream);
    FetchedResults fetched(processor.wait(stream), 3);
    fetched.fetch_pixels(expected, limits.mask_bytes);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(same_pixels(expected[i], fetched.pictures[i], limits.mask_bytes));
    }
    EXPECT_EQ(processor.counters().reruns, 1u);
    EXPECT_EQ(processor.counters().synchronisations, 3u);
  }
  cuda_ok(cudaStreamDestroy(stream));
}

TEST_F(Cuda, BoxesAloneAndBadCalls) {
  const std::vector<Scene> scenes{blobs(9, 20, 16)};
  DeviceScenes device(scenes);
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(48, 64, 64, 64);
  spec.masks = MaskFormat::kNone;
  CudaPostprocessor processor;
  const auto found = processor.run(device.outputs, spec, {&spec.geometry, 1});
  const Detections expected = postprocess(scenes[0].view(), spec);
  ASSERT_EQ(found[0].items.size(), expected.items.size());
  for (std::size_t i = 0; i < expected.items.size(); ++i) {
    EXPECT_EQ(found[0].items[i].query, expected.items[i].query);
    EXPECT_EQ(found[0].items[i].mask, nullptr);
  }
  EXPECT_EQ(processor.counters().launches, 1u);  // the selection
  const PreprocessGeometry two[] = {spec.geometry, spec.geometry};
  EXPECT_THROW(processor.run(device.outputs, spec, two), Error);
  spec.threshold = NAN;
  EXPECT_THROW(processor.run(device.outputs, spec, {&spec.geometry, 1}), Error);
  EXPECT_THROW(CudaPostprocessor(1000), Error);
}

}  // namespace
}  // namespace rfseg
