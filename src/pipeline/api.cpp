// The public classes, over the stages.

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "media/image_io.h"
#include "pipeline/batch_runner.h"
#include "pipeline/conventions.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"
#include "rfseg/predictor.h"

namespace rfseg {

// Adds nothing to LoadedModel: it gives the public header a name to hold.
struct Model::Impl : LoadedModel {};

Model::Model(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Model Model::load(const std::string& path, const ModelOptions& options) {
  auto impl = std::make_shared<Impl>();
  load_model(path, options, *impl);
  return Model(std::move(impl));
}

const ModelInfo& Model::info() const { return impl_->info; }

Image read_image(const std::string& path) { return decode_image(path); }

struct Predictor::Impl {
  Impl(Model m, ResolvedOptions o) : model(std::move(m)), options(std::move(o)) {}
  Model model;
  ResolvedOptions options;
  std::mutex mutex;
  std::vector<std::pair<int, std::unique_ptr<BatchRunner>>> idle;  ///< with their batch sizes

  /// A runner for batches up to `batch` that nobody else uses.
  std::pair<int, std::unique_ptr<BatchRunner>> take(int batch) {
    {
      const std::lock_guard lock(mutex);
      const auto fits = std::find_if(idle.begin(), idle.end(),
                                     [batch](const auto& entry) { return entry.first >= batch; });
      if (fits != idle.end()) {
        auto found = std::move(*fits);
        idle.erase(fits);
        return found;
      }
    }
    LoadedModel& loaded = *model.impl();
    const std::lock_guard lock(loaded.engine_mutex);  // it may enlarge the engine's workspace
    RunnerOptions wanted;
    wanted.batch = batch;
    return {batch, std::move(make_batch_runners(*loaded.engine, options, wanted).front())};
  }
  void give_back(std::pair<int, std::unique_ptr<BatchRunner>> runner) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(runner));
  }
};

// NOLINTNEXTLINE(performance-unnecessary-value-param): what the public header promises
Predictor::Predictor(Model model, PredictOptions options) {
  ResolvedOptions resolved = resolve_options(options, model.impl()->config);
  impl_ = std::make_unique<Impl>(std::move(model), std::move(resolved));
}
Predictor::~Predictor() = default;
Predictor::Predictor(Predictor&&) noexcept = default;
Predictor& Predictor::operator=(Predictor&&) noexcept = default;

const Model& Predictor::model() const { return impl_->model; }
const std::vector<std::string>& Predictor::class_names() const {
  return impl_->options.class_names;
}

Detections Predictor::predict(const ImageView& image) const {
  return std::move(predict(std::span(&image, 1)).front());
}

std::vector<Detections> Predictor::predict(std::span<const ImageView> images, int batch,
                                           const RunControl& control) const {
  if (batch < 1) throw Error(ErrorCode::kUsage, "predict: batch must be at least 1");
  LoadedModel& loaded = *impl_->model.impl();
  const std::size_t step = std::min<std::size_t>(batch, std::max<std::size_t>(images.size(), 1));
  auto taken = impl_->take(static_cast<int>(step));
  BatchRunner& runner = *taken.second;
  std::vector<Detections> results;
  results.reserve(images.size());
  for (std::size_t first = 0; first < images.size(); first += step) {
    if (control.cancelled && control.cancelled()) {
      throw Error(ErrorCode::kCancelled, "predict: cancelled");
    }
    const std::size_t count = std::min(step, images.size() - first);
    for (std::size_t i = 0; i < count; ++i) runner.add(images[first + i], {});
    runner.seal();
    {
      const std::lock_guard lock(loaded.engine_mutex);
      runner.infer();
    }
    runner.finish();
    for (std::size_t i = 0; i < count; ++i) {
      results.push_back(runner.detections(i));
      if (control.progress) control.progress(results.size(), images.size());
    }
    runner.clear();
  }
  impl_->give_back(std::move(taken));
  return results;
}

}  // namespace rfseg
