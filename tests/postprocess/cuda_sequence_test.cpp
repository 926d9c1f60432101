// Calls one after another on one postprocessor: masks of pixels are written over those of the call
// before, wherever they lie, and a call's end may be told by a word in memory.

#include <array>
#include <memory>

#include "cuda_fixture.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;
using CudaSequence = CudaTest;
using Limits = CudaPostprocessor::Limits;
using Place = CudaPostprocessor::Place;

/// Calls on three scenes of one shape, which take turns in the same device memory, with sizes and
/// rules of their own.
class Calls {
 public:
  Calls(Random& random, int batch) : batch_(batch) {
    const Scene shape = random_scene(random);
    for (int i = 0; i < 3; ++i) {
      std::vector<Scene> scenes;
      for (int b = 0; b < batch; ++b) {
        Scene scene = shape;
        for (float& v : scene.logits) v = random.uniform(-3, 3);
        for (int q = 0; q < scene.queries; ++q) {
          fill_mask(random, scene.mask(q), scene.rows, scene.columns);
        }
        scenes.push_back(std::move(scene));
      }
      device_.push_back(std::make_unique<DeviceScenes>(scenes));
      scenes_.push_back(std::move(scenes));
    }
    work_ = std::make_unique<DeviceScenes>(scenes_[0]);
  }
  const DeviceOutputs& outputs() const { return work_->outputs; }

  PostprocessSpec spec;
  std::vector<PreprocessGeometry> pictures;
  std::vector<Detections> expected;

  /// Another call; all before it are done with the memory afterwards. False where it is refused.
  bool choose(Random& random) {
    const auto i = static_cast<std::size_t>(random.range(0, 2));
    const Scene& shape = scenes_[i][0];
    cuda_ok(cudaDeviceSynchronize());
    const auto copy = [this](const void* to, const void* from, std::size_t each) {
      cuda_ok(cudaMemcpy(const_cast<void*>(to), from,
                         static_cast<std::size_t>(batch_) * each * sizeof(float),
                         cudaMemcpyDeviceToDevice));
    };
    const DeviceOutputs &from = device_[i]->outputs, &to = work_->outputs;
    copy(to.boxes, from.boxes, shape.boxes.size());
    copy(to.logits, from.logits, shape.logits.size());
    copy(to.masks, from.masks, shape.masks.size());
    cuda_ok(cudaDeviceSynchronize());  // copies within the device come back at once
    spec = random_spec(random, shape);
    if (random.one_in(2)) spec.like = Convention::kRfdetr;
    pictures.clear();
    expected.clear();
    try {
      for (int b = 0; b < batch_; ++b) {
        pictures.push_back(random_geometry(random, shape.rows, shape.columns));
        spec.geometry = pictures.back();
        spec.backend = Backend::kCpu;
        expected.push_back(postprocess(scenes_[i][static_cast<std::size_t>(b)].view(), spec));
      }
    } catch (const Error&) {
      return false;
    }
    return true;
  }

 private:
  int batch_;
  std::vector<std::vector<Scene>> scenes_;
  std::vector<std::unique_ptr<DeviceScenes>> device_;
  std::unique_ptr<DeviceScenes> work_;
};

::testing::AssertionResult same_answer(const Calls& calls, const CudaPostprocessor& processor,
                                       const CudaPostprocessor::Results& results,
                                       cuda::MaskBytes format) {
  if (format == cuda::MaskBytes::kRle) {
    const std::vector<Detections> found = processor.results();
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto equal = same(calls.expected[i], found[i]);
      if (!equal) return equal;
    }
    return ::testing::AssertionSuccess();
  }
  FetchedResults fetched(results, calls.expected.size());
  fetched.fetch_pixels(calls.expected, format);
  for (std::size_t i = 0; i < calls.expected.size(); ++i) {
    const auto equal = same_pixels(calls.expected[i], fetched.pictures[i], format);
    if (!equal) return equal;
  }
  return ::testing::AssertionSuccess();
}

/// A graph, captured anew when the postprocessor asks for it.
class Replayed {
 public:
  void launch(CudaPostprocessor& processor, const Calls& calls, cudaStream_t stream) {
    if (generation_ != processor.generation()) clear();
    generation_ = processor.generation();
    if (graph_ == nullptr) {
      cudaGraph_t graph;
      cuda_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      processor.enqueue(calls.outputs(), stream);
      cuda_ok(cudaStreamEndCapture(stream, &graph));
      cuda_ok(cudaGraphInstantiate(&graph_, graph, 0));
      cuda_ok(cudaGraphDestroy(graph));
    } else {
      ++replays;
    }
    cuda_ok(cudaGraphLaunch(graph_, stream));
  }
  void clear() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
    graph_ = nullptr;
  }
  ~Replayed() { clear(); }
  std::size_t replays = 0;

 private:
  cudaGraphExec_t graph_ = nullptr;
  uint64_t generation_ = 0;
};

TEST_F(CudaSequence, EveryCallIsRightWhateverTheOneBeforeHasLeft) {
  cudaStream_t stream;
  cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::size_t done = 0, replays = 0, reruns = 0;
  uint64_t seed = 900;
  for (const auto format :
       {cuda::MaskBytes::kDense, cuda::MaskBytes::kBits, cuda::MaskBytes::kRle}) {
    for (const Place place : {Place::kDevice, Place::kHost}) {
      for (const int batch : {1, 1, 3}) {
        Random random(seed++);
        Limits limits;
        limits.mask_bytes = format;
        limits.place = place;
        limits.spin = seed % 2 == 0;
        limits.dense_masks = 3;  // more are an overflow
        CudaPostprocessor processor(0, limits);
        std::unique_ptr<Calls> calls;
        Replayed graph;
        for (int k = 0; k < 60; ++k) {
          if (k % 20 == 0) {  // other shapes on the same memory
            graph.clear();
            calls = std::make_unique<Calls>(random, batch);
          }
          if (!calls->choose(random)) {
            EXPECT_THROW(processor.prepare(calls->outputs(), calls->spec, calls->pictures, stream),
                         Error);
            continue;
          }
          for (int again = random.one_in(4) ? 2 : 1; again > 0; --again) {
            processor.prepare(calls->outputs(), calls->spec, calls->pictures, stream);
            const bool direct = random.one_in(3);
            if (direct) {
              processor.enqueue(calls->outputs(), stream);
            } else {
              graph.launch(processor, *calls, stream);
            }
            if (random.one_in(10)) continue;  // nobody waits for it
            const auto before = processor.counters().reruns;
            const auto results = processor.wait(stream);
            reruns += processor.counters().reruns - before;
            ASSERT_TRUE(same_answer(*calls, processor, results, format))
                << "seed " << seed - 1 << ", call " << k << ", format " << static_cast<int>(format)
                << ", place " << static_cast<int>(place) << ", batch " << batch
                << (direct ? "" : ", replayed");
            ++done;
          }
        }
        replays += graph.replays;
      }
    }
  }
  cuda_ok(cudaStreamDestroy(stream));
  EXPECT_GT(done, 600u);
  EXPECT_GT(replays, 50u);
  EXPECT_GT(reruns, 10u);
}

TEST_F(CudaSequence, CallsInFlightTogetherDoNotMeet) {
  constexpr std::size_t kTogether = 6;
  struct Lane {
    std::unique_ptr<CudaPostprocessor> processor;
    std::unique_ptr<Calls> calls;
    cudaStream_t stream = nullptr;
    bool under_way = false;
    cuda::MaskBytes format = cuda::MaskBytes::kRle;
  };
  Random random(77);
  std::array<Lane, kTogether> lanes;
  for (std::size_t i = 0; i < kTogether; ++i) {
    Lane& lane = lanes[i];
    lane.format = static_cast<cuda::MaskBytes>(i % 3);
    Limits limits;
    limits.mask_bytes = lane.format;
    limits.place = i % 2 == 0 ? Place::kDevice : Place::kHost;
    limits.spin = i >= 3;
    lane.processor = std::make_unique<CudaPostprocessor>(0, limits);
    lane.calls = std::make_unique<Calls>(random, i == 5 ? 2 : 1);
    cuda_ok(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking));
  }
  std::size_t done = 0;
  for (int round = 0; round < 60; ++round) {
    for (Lane& lane : lanes) {
      lane.under_way = lane.calls->choose(random);
    }
    for (Lane& lane : lanes) {
      if (!lane.under_way) continue;
      const DeviceOutputs& outputs = lane.calls->outputs();
      lane.processor->prepare(outputs, lane.calls->spec, lane.calls->pictures, lane.stream);
      lane.processor->enqueue(outputs, lane.stream);
    }
    for (Lane& lane : lanes) {
      if (!lane.under_way) continue;
      const auto results = lane.processor->wait(lane.stream);
      ASSERT_TRUE(same_answer(*lane.calls, *lane.processor, results, lane.format))
          << "round " << round << ", lane " << &lane - lanes.data();
      ++done;
    }
  }
  for (Lane& lane : lanes) cuda_ok(cudaStreamDestroy(lane.stream));
  EXPECT_GT(done, 200u);
}

TEST_F(CudaSequence, AWaitThatSpinsSeesItsOwnCallAlone) {
  Random random(78);
  std::vector<Scene> scenes{Scene(20, 2, 40, 40)};
  for (float& v : scenes[0].logits) v = random.uniform(-2, 2);
  for (float& v : scenes[0].boxes) v = random.uniform(0, 1);
  for (int q = 0; q < 20; ++q) fill_mask(random, scenes[0].mask(q), 40, 40);
  const DeviceScenes device(scenes);
  Limits limits;
  limits.spin = true;
  CudaPostprocessor processor(0, limits);
  cudaStream_t stream;
  cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  PostprocessSpec spec;
  spec.geometry = PreprocessGeometry::stretch(700, 900, 160, 160);
  for (int k = 0; k < 300; ++k) {
    spec.threshold = k % 2 == 0 ? 0.3f : 0.7f;
    spec.masks = k % 7 == 6 ? MaskFormat::kNone : MaskFormat::kRle;
    const Detections expected = postprocess(scenes[0].view(), spec);
    processor.prepare(device.outputs, spec, {&spec.geometry, 1}, stream);
    processor.enqueue(device.outputs, stream);
    processor.wait(stream);
    const auto found = processor.results();
    if (spec.masks == MaskFormat::kRle) {
      ASSERT_TRUE(same(expected, found[0])) << "call " << k;
    } else {
      ASSERT_EQ(expected.items.size(), found[0].items.size()) << "call " << k;
    }
    // Prepared, and then nothing is launched: the stream tells that there is nothing to wait for.
    if (k % 50 == 0) {
      processor.prepare(device.outputs, spec, {&spec.geometry, 1}, stream);
      processor.wait(stream);
    }
  }
  cuda_ok(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace rfseg
