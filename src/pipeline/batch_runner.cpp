#include "pipeline/batch_runner.h"

#include <chrono>

#include "core/tensor.h"
#include "engine/cuda/cuda_engine.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/pipeline.h"
#include "preprocess/color.h"
#include "preprocess/preprocess.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

/// Adds the time of a scope to a sum of milliseconds.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  ~Stopwatch() { sum_ += std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& sum_;
  Clock::time_point start_ = Clock::now();
};

/// Everything on the calling threads; any engine.
class HostBatchRunner final : public BatchRunner {
 public:
  HostBatchRunner(Engine& engine, const ResolvedOptions& resolved, int batch)
      : engine_(engine),
        resolved_(resolved),
        plane_(std::size_t{3} * engine.config().height * engine.config().width),
        input_(plane_ * static_cast<std::size_t>(batch)) {}

  void add(const ImageView& picture, const HeldPixels& held) override {
    if (held.on_device()) {
      throw Error(ErrorCode::kInput, "a frame lies on a GPU, but the network runs on the CPU");
    }
    const Stopwatch watch(times_.preprocess_ms);
    geometries_.push_back(
        preprocess(picture, resolved_.preprocess, input_.data() + geometries_.size() * plane_));
  }
  std::size_t size() const override { return geometries_.size(); }
  void seal() override {}
  void infer() override {
    const Stopwatch watch(times_.network_ms);
    engine_.forward(input_.data(), static_cast<int>(geometries_.size()), outputs_);
  }
  void finish() override {}
  Detections detections(std::size_t picture) override {
    const Stopwatch watch(times_.postprocess_ms);
    PostprocessSpec spec = resolved_.postprocess;
    spec.geometry = geometries_[picture];
    return postprocess(network_outputs(outputs_, picture), spec);
  }
  Times times() const override { return times_; }
  void clear() override {
    geometries_.clear();
    times_ = {};
  }

 private:
  Engine& engine_;
  const ResolvedOptions& resolved_;
  std::size_t plane_;
  AlignedVector<float> input_;
  std::vector<PreprocessGeometry> geometries_;
  EngineOutputs outputs_;
  Times times_;
};

}  // namespace

std::vector<std::unique_ptr<BatchRunner>> make_batch_runners(Engine& engine,
                                                             const ResolvedOptions& resolved,
                                                             const RunnerOptions& options) {
  std::vector<std::unique_ptr<BatchRunner>> runners;
  if (auto* cuda = dynamic_cast<CudaEngine*>(&engine)) {
    for (auto& runner : make_cuda_batch_runners(*cuda, resolved, options)) {
      runners.push_back(std::move(runner));
    }
    return runners;
  }
  for (int i = 0; i < options.count; ++i) {
    runners.push_back(std::make_unique<HostBatchRunner>(engine, resolved, options.batch));
  }
  return runners;
}

Image to_rgb(const ImageView& picture, const HeldPixels& held) {
  if (held.on_device()) return fetch_rgb(picture, held);
  Image image(picture.width, picture.height);
  convert_to_rgb(picture, image.pixels.data());
  return image;
}

HostAllocator host_allocator(const Engine& engine) {
  if (const auto* cuda = dynamic_cast<const CudaEngine*>(&engine)) {
    return {HeldPixels::Place::kPinned, pinned_allocator(cuda->device())};
  }
  return {HeldPixels::Place::kHost, [](std::size_t bytes) {
            return std::shared_ptr<std::byte>(new std::byte[bytes],
                                              std::default_delete<std::byte[]>());
          }};
}

EngineDevice engine_device(const Engine& engine) {
  const auto* cuda = dynamic_cast<const CudaEngine*>(&engine);
  if (cuda == nullptr) return {};
  return {true, cuda->device(), cuda->device_name(), cuda->kernels(),
          device_memory_used(cuda->device())};
}

}  // namespace rfseg
