#include "pipeline/batch_runner.h"

#include <chrono>

#include "core/tensor.h"
#include "engine/cuda/cuda_engine.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/pipeline.h"
#include "preprocess/preprocess.h"

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

  void add(const ImageView& picture) override {
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
                                                             int batch, int count) {
  if (auto* cuda = dynamic_cast<CudaEngine*>(&engine)) {
    return make_cuda_batch_runners(*cuda, resolved, batch, count);
  }
  std::vector<std::unique_ptr<BatchRunner>> runners;
  for (int i = 0; i < count; ++i) {
    runners.push_back(std::make_unique<HostBatchRunner>(engine, resolved, batch));
  }
  return runners;
}

}  // namespace rfseg
