// The CUDA kernels' source, run by the emulator, against the reference backend: equal in every
// byte. What this cannot show is told by the tests on a GPU (cuda_differential_test.cpp).

#define RFSEG_SIMT_EMULATION 1
#include <cstdlib>
#include <iostream>
#include <vector>

#include "pixel_results.h"
#include "postprocess/cuda/dense_kernel.h"
#include "postprocess/cuda/mask_kernel.h"
#include "postprocess/cuda/plan.h"
#include "postprocess/cuda/select_kernel.h"
#include "random_calls.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;

struct EmulatedRun {
  std::vector<Detections> detections;
  uint32_t overflow = 0;
  uint64_t needed = 0;                   ///< bytes
  std::vector<std::byte> results, kept;  ///< what `pictures` points into
  std::vector<PictureResults> pictures;
};

/// Pixels that calls leave behind, and what is known of them.
struct KeptPixels {
  std::vector<std::byte> bytes;
  std::vector<uint32_t> set_runs;
  std::byte* data = nullptr;

  KeptPixels(uint64_t size, cuda::MaskBytes format)
      : bytes(size + 256),
        set_runs(size / static_cast<uint64_t>(cuda::run_bytes(format)) / 32 + 2),
        data(reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(bytes.data()) + 255) &
                                          ~uintptr_t{255})) {}
};

EmulatedRun emulate(const std::vector<NetworkOutputs>& outputs, const PostprocessSpec& spec,
                    const std::vector<PreprocessGeometry>& pictures, int cluster, int clusters,
                    uint32_t spill, uint64_t bytes, cuda::MaskBytes format = cuda::MaskBytes::kRle,
                    bool alone = false, KeptPixels* kept = nullptr) {
  const NetworkOutputs& first = outputs[0];
  cuda::Shape shape{static_cast<int>(outputs.size()),
                    first.queries,
                    first.classes,
                    first.mask_rows,
                    first.mask_cols,
                    true};
  cuda::check_call(spec, pictures, shape);
  // Inputs of all pictures behind one another.
  std::vector<float> boxes, logits, masks;
  for (const NetworkOutputs& o : outputs) {
    const std::size_t q = static_cast<std::size_t>(o.queries);
    boxes.insert(boxes.end(), o.boxes, o.boxes + q * 4);
    logits.insert(logits.end(), o.logits, o.logits + q * o.classes);
    masks.insert(masks.end(), o.masks, o.masks + q * o.mask_rows * o.mask_cols);
  }
  std::vector<std::byte> parameters(cuda::parameter_bytes(shape) + 16);
  cuda::Capacity capacity = cuda::write_parameters(spec, pictures, shape, parameters.data());
  capacity.spill = spill;
  capacity.bytes = bytes;
  capacity.blocks = cluster * clusters;
  cuda::KernelArguments a;
  a.boxes = boxes.data();
  a.logits = logits.data();
  a.masks = masks.data();
  a.batch = shape.batch;
  a.queries = shape.queries;
  a.classes = shape.classes;
  a.rows = shape.rows;
  a.columns = shape.columns;
  cuda::point_to_parameters(a, shape, parameters.data());
  std::vector<std::byte> workspace(cuda::carve_workspace(a, shape, capacity, nullptr) + 256);
  std::vector<std::byte> results(cuda::carve_results(a, shape, capacity, nullptr) + 256);
  std::memset(workspace.data(), 0x5a, workspace.size());
  std::memset(results.data(), 0x5a, results.size());
  const auto align = [](std::vector<std::byte>& v) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(v.data()) + 255) &
                                        ~uintptr_t{255});
  };
  cuda::carve_workspace(a, shape, capacity, align(workspace));
  cuda::carve_results(a, shape, capacity, align(results));
  KeptPixels fresh(format == cuda::MaskBytes::kRle ? 0 : bytes, format);
  if (format != cuda::MaskBytes::kRle) {
    if (kept == nullptr) kept = &fresh;
    a.bytes = reinterpret_cast<uint8_t*>(kept->data);
    a.set_runs = kept->set_runs.data();
  }
  cuda::ResultHeader header;
  a.header = &header;
  if (alone) *a.usage = cuda::Usage{};
  if (!alone)
    cuda::emulator::launch(
        3, shape.batch, cuda::kSelectThreads, 1, sizeof(cuda::SelectShared),
        [&](void* shared) { cuda::select_kernel(a, *static_cast<cuda::SelectShared*>(shared)); });
  const auto launch = [&](auto kernel, auto shared, int size, int threads) {
    using Shared = std::remove_pointer_t<decltype(shared)>;
    cuda::emulator::launch(size * clusters, 1, threads, size, sizeof(Shared),
                           [&](void* memory) { kernel(a, *static_cast<Shared*>(memory)); });
  };
  cuda::MaskShared* const text = nullptr;
  cuda::DenseShared* const pixels = nullptr;
  switch (format) {
    case cuda::MaskBytes::kRle:
      launch(alone                                       ? cuda::mask_kernel_alone
             : cuda::all_plain(shape, parameters.data()) ? cuda::mask_kernel<true>
                                                         : cuda::mask_kernel<false>,
             text, cluster, cuda::kMaskThreads);
      break;
    case cuda::MaskBytes::kDense:
      launch(alone ? cuda::dense_kernel<cuda::MaskBytes::kDense, true, true>
             : cuda::all_plain(shape, parameters.data())
                 ? cuda::dense_kernel<cuda::MaskBytes::kDense, true, false>
                 : cuda::dense_kernel<cuda::MaskBytes::kDense, false, false>,
             pixels, 1, cuda::kDenseThreads);
      break;
    case cuda::MaskBytes::kBits:
      launch(alone ? cuda::dense_kernel<cuda::MaskBytes::kBits, true, true>
             : cuda::all_plain(shape, parameters.data())
                 ? cuda::dense_kernel<cuda::MaskBytes::kBits, true, false>
                 : cuda::dense_kernel<cuda::MaskBytes::kBits, false, false>,
             pixels, 1, cuda::kDenseThreads);
      break;
  }
  EmulatedRun run;
  run.overflow = a.header->overflow;
  run.needed = a.usage->bytes;
  if (run.overflow == 0) {
    if (alone && a.usage->reserved != 0) run.overflow = 100;  // the next call would go wrong
    const bool text = format == cuda::MaskBytes::kRle;
    run.detections = cuda::read_results(a, shape, parameters.data(), text);
    for (int i = 0; i < shape.batch; ++i) {
      run.pictures.push_back({a.picture_records[i], a.detections + i * a.detection_pitch, a.bytes});
    }
  }
  if (kept == &fresh) {
    run.kept = std::move(fresh.bytes);  // the pictures point into it
  }
  run.results = std::move(results);
  return run;
}

/// No run has a set pixel that is not told.
::testing::AssertionResult tells_what_is_set(const KeptPixels& kept, cuda::MaskBytes format) {
  const auto run = static_cast<std::size_t>(cuda::run_bytes(format));
  const std::size_t size = kept.bytes.size() - 256;
  for (std::size_t i = 0; i < size; ++i) {
    if (kept.data[i] == std::byte{0}) continue;
    const std::size_t at = i / run;
    if ((kept.set_runs[at / 32] >> (at % 32) & 1u) == 0) {
      return ::testing::AssertionFailure() << "byte " << i << " is set, its run is not";
    }
  }
  return ::testing::AssertionSuccess();
}

TEST(CudaEmulation, KernelsEqualTheReferenceInEveryByte) {
  const char* wanted = std::getenv("RFSEG_EMULATION_CASES");
  const uint64_t cases = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 600;
  const char* first = std::getenv("RFSEG_EMULATION_FIRST");
  const uint64_t from = first != nullptr ? std::strtoull(first, nullptr, 10) : 1;
  std::size_t detections = 0, alone = 0, calls_on_others = 0;
  for (uint64_t seed = from; seed < from + cases; ++seed) {
    Random random(seed);
    std::vector<Scene> scenes{random_scene(random)};
    scenes.reserve(2);
    PostprocessSpec spec = random_spec(random, scenes[0]);
    const Scene& scene = scenes[0];
    std::vector<PreprocessGeometry> pictures{random_geometry(random, scene.rows, scene.columns)};
    if (random.one_in(4)) {  // a second picture of another size
      scenes.push_back(scenes[0]);
      for (float& v : scenes[1].masks) v = -v;
      for (float& v : scenes[1].logits) v += 0.5f;
      pictures.push_back(random_geometry(random, scene.rows, scene.columns));
    }
    spec.backend = Backend::kReference;
    std::vector<NetworkOutputs> outputs;
    std::vector<Detections> expected;
    try {
      for (std::size_t i = 0; i < scenes.size(); ++i) {
        outputs.push_back(scenes[i].view());
        spec.geometry = pictures[i];
        expected.push_back(postprocess(outputs[i], spec));
      }
    } catch (const Error&) {
      continue;
    }
    const int cluster = random.range(1, 4);
    const EmulatedRun run =
        emulate(outputs, spec, pictures, cluster, random.range(1, 3), 1u << 18, 1u << 22);
    ASSERT_EQ(run.overflow, 0u) << "seed " << seed;
    for (std::size_t i = 0; i < scenes.size(); ++i) {
      ASSERT_TRUE(same(expected[i], run.detections[i]))
          << "seed " << seed << ", picture " << i << ", grid " << scene.rows << "x" << scene.columns
          << ", " << pictures[i].original_height << "x" << pictures[i].original_width
          << ", convention " << static_cast<int>(spec.like) << ", cluster " << cluster;
      detections += expected[i].items.size();
    }
    for (const cuda::MaskBytes format : {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
      uint64_t room = 0;
      for (const PreprocessGeometry& picture : pictures) {
        room += static_cast<uint64_t>(scene.queries) *
                cuda::mask_bytes(picture.original_height, picture.original_width, format);
      }
      // Alone, or with what the calls before have left, where there is room.
      constexpr uint64_t kKept = 1u << 22;
      static KeptPixels left[] = {{kKept, cuda::MaskBytes::kDense},
                                  {kKept, cuda::MaskBytes::kBits}};
      KeptPixels* const kept =
          room <= kKept && !random.one_in(8) ? &left[format == cuda::MaskBytes::kBits] : nullptr;
      const bool by_itself =
          scenes.size() == 1 && spec.like != Convention::kInference && random.one_in(2);
      if (kept != nullptr && random.one_in(6)) {  // a call that has no room leaves all as it was
        const std::vector<std::byte> before = kept->bytes;
        const EmulatedRun none =
            emulate(outputs, spec, pictures, 1, random.range(1, 7), 0, 15, format, by_itself, kept);
        EXPECT_EQ(none.overflow != 0, none.needed > 0);
        EXPECT_EQ(kept->bytes, before);
      }
      const EmulatedRun pixels = emulate(outputs, spec, pictures, 1, random.range(1, 7), 0,
                                         kept ? kKept : room, format, by_itself, kept);
      ASSERT_EQ(pixels.overflow, 0u) << "seed " << seed;
      calls_on_others += kept != nullptr ? 1 : 0;
      if (kept != nullptr) {
        ASSERT_TRUE(tells_what_is_set(*kept, format)) << "seed " << seed;
      }
      for (std::size_t i = 0; i < scenes.size(); ++i) {
        ASSERT_TRUE(same_pixels(expected[i], pixels.pictures[i], format))
            << "seed " << seed << ", picture " << i << ", grid " << scene.rows << "x"
            << scene.columns << ", " << pictures[i].original_height << "x"
            << pictures[i].original_width << ", convention " << static_cast<int>(spec.like)
            << ", format " << static_cast<int>(format);
      }
    }
    if (scenes.size() > 1 || spec.like == Convention::kInference) continue;
    const EmulatedRun one =
        emulate(outputs, spec, pictures, 1 << random.range(0, 2), random.range(1, 3), 1u << 18,
                1u << 22, cuda::MaskBytes::kRle, true);
    ASSERT_EQ(one.overflow, 0u) << "seed " << seed;
    ASSERT_TRUE(same(expected[0], one.detections[0])) << "seed " << seed << ", alone";
    ++alone;
  }
  EXPECT_GT(alone, cases / 4);
  EXPECT_GT(calls_on_others, cases);
  std::cout << cases << " cases, " << detections << " detections\n";
  EXPECT_GT(detections, cases / 2);
}

// Selection beyond what shared memory holds: radix selection, sorting in device memory.
TEST(CudaEmulation, SelectsAmongMoreCandidatesThanFitInSharedMemory) {
  Random random(5);
  for (const int num_select : {50, 2000, 5000, 9000}) {
    Scene scene(3000, 3, 2, 2);
    for (float& v : scene.logits) v = static_cast<float>(random.range(-64, 64)) / 8;
    for (float& v : scene.boxes) v = random.uniform(0, 1);
    for (float& v : scene.masks) v = random.uniform(-1, 1);
    PostprocessSpec spec;
    spec.threshold = -1;
    spec.num_select = num_select;
    spec.max_detections = num_select == 2000 ? 700 : 40;
    spec.class_map = {4, -1, 2};
    spec.geometry = PreprocessGeometry::stretch(3, 3, 8, 8);
    spec.backend = Backend::kReference;
    const Detections expected = postprocess(scene.view(), spec);
    const EmulatedRun run =
        emulate({scene.view()}, spec, {spec.geometry}, 1, 3, 1u << 10, 1u << 20);
    ASSERT_EQ(run.overflow, 0u);
    ASSERT_TRUE(same(expected, run.detections[0])) << num_select;
    EXPECT_GE(expected.items.size(), 30u);
  }
}

TEST(CudaEmulation, OneKernelAloneTellsTooManyCandidates) {
  Random random(6);
  Scene scene(60, 4, 5, 5);
  for (float& v : scene.logits) v = random.uniform(-2, 2);
  for (float& v : scene.masks) v = random.uniform(-1, 1);
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(40, 50, 20, 20);
  spec.backend = Backend::kReference;
  for (const float threshold : {0.75f, 0.5f}) {
    spec.threshold = threshold;
    const Detections expected = postprocess(scene.view(), spec);
    const EmulatedRun run = emulate({scene.view()}, spec, {spec.geometry}, 4, 2, 1u << 10, 1u << 20,
                                    cuda::MaskBytes::kRle, true);
    if (threshold < 0.6f) {
      EXPECT_GT(expected.items.size(), 100u);
      EXPECT_EQ(run.overflow, cuda::kTooManyCandidates);
    } else {
      EXPECT_GT(expected.items.size(), 40u);
      ASSERT_EQ(run.overflow, 0u);
      EXPECT_TRUE(same(expected, run.detections[0]));
    }
  }
}

// Tiles beside each other, and exactly the room that all masks need.
TEST(CudaEmulation, WideMasksInExactlyTheirRoom) {
  Random random(11);
  Scene scene(3, 1, 20, 40);
  for (float& v : scene.logits) v = 3;
  for (int q = 0; q < 3; ++q) fill_mask(random, scene.mask(q), 20, 40);
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(50, 1300, 80, 160);
  spec.backend = Backend::kReference;
  const Detections expected = postprocess(scene.view(), spec);
  ASSERT_EQ(expected.items.size(), 3u);
  for (const cuda::MaskBytes format : {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
    for (const bool alone : {false, true}) {
      const EmulatedRun run = emulate({scene.view()}, spec, {spec.geometry}, 1, 2, 0,
                                      3 * cuda::mask_bytes(50, 1300, format), format, alone);
      ASSERT_EQ(run.overflow, 0u);
      EXPECT_TRUE(same_pixels(expected, run.pictures[0], format)) << alone;
    }
  }
}

// More runs with borders than a block gathers.
TEST(CudaEmulation, MasksOfNoise) {
  Random random(10);
  Scene scene(2, 1, 60, 60);
  for (float& v : scene.logits) v = 3;
  for (float& v : scene.masks) v = random.uniform(-1, 1);
  for (const Convention like : {Convention::kRfdetr, Convention::kInference}) {
    PostprocessSpec spec;
    spec.like = like;
    spec.geometry = PreprocessGeometry::stretch(400, 500, 240, 240);
    spec.backend = Backend::kReference;
    const Detections expected = postprocess(scene.view(), spec);
    for (const cuda::MaskBytes format : {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
      const EmulatedRun run = emulate({scene.view()}, spec, {spec.geometry}, 1, 1, 0,
                                      2 * cuda::mask_bytes(400, 500, format), format);
      ASSERT_EQ(run.overflow, 0u);
      EXPECT_TRUE(same_pixels(expected, run.pictures[0], format));
    }
  }
}

TEST(CudaEmulation, OverflowsAreTold) {
  Random random(9);
  Scene scene(2, 1, 40, 40);
  for (float& v : scene.logits) v = 3;
  for (float& v : scene.masks) v = random.uniform(-1, 1);
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(300, 300, 160, 160);
  spec.backend = Backend::kReference;
  const Detections expected = postprocess(scene.view(), spec);
  EXPECT_TRUE(emulate({scene.view()}, spec, {spec.geometry}, 2, 1, 0, 1u << 20).overflow);
  EXPECT_TRUE(emulate({scene.view()}, spec, {spec.geometry}, 2, 1, 1u << 18, 1u << 10).overflow);
  const EmulatedRun run = emulate({scene.view()}, spec, {spec.geometry}, 2, 1, 1u << 18, 1u << 20);
  ASSERT_EQ(run.overflow, 0u);
  EXPECT_TRUE(same(expected, run.detections[0]));
  for (const cuda::MaskBytes format : {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits}) {
    const uint64_t exact = 2 * cuda::mask_bytes(300, 300, format);
    const EmulatedRun small =
        emulate({scene.view()}, spec, {spec.geometry}, 1, 3, 0, exact - 1, format);
    EXPECT_EQ(small.overflow, cuda::kBuffersTooSmall);
    EXPECT_EQ(small.needed, exact);
    const EmulatedRun fits = emulate({scene.view()}, spec, {spec.geometry}, 1, 3, 0, exact, format);
    ASSERT_EQ(fits.overflow, 0u);
    EXPECT_TRUE(same_pixels(expected, fits.pictures[0], format));
  }
}

}  // namespace
}  // namespace rfseg
