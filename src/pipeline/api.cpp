// The public classes, over the stages.

#include <algorithm>
#include <mutex>

#include "core/tensor.h"
#include "media/image_io.h"
#include "pipeline/conventions.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"
#include "postprocess/postprocess.h"
#include "preprocess/preprocess.h"
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
  Model model;
  ResolvedOptions options;
};

// NOLINTNEXTLINE(performance-unnecessary-value-param): as the public header has it.
Predictor::Predictor(Model model, PredictOptions options) {
  ResolvedOptions resolved = resolve_options(options, model.impl()->config);
  impl_ = std::make_unique<Impl>(Impl{std::move(model), std::move(resolved)});
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
  const ModelConfig& config = loaded.config;
  const std::size_t plane = std::size_t{3} * config.height * config.width;
  const std::size_t step = std::min<std::size_t>(batch, std::max<std::size_t>(images.size(), 1));
  AlignedVector<float> input(plane * step);
  std::vector<PreprocessGeometry> geometry(step);
  EngineOutputs outputs;
  std::vector<Detections> results;
  results.reserve(images.size());
  for (std::size_t first = 0; first < images.size(); first += step) {
    if (control.cancelled && control.cancelled()) {
      throw Error(ErrorCode::kCancelled, "predict: cancelled");
    }
    const std::size_t count = std::min(step, images.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      geometry[i] =
          preprocess(images[first + i], impl_->options.preprocess, input.data() + i * plane);
    }
    {
      const std::lock_guard lock(loaded.engine_mutex);
      loaded.engine->forward(input.data(), static_cast<int>(count), outputs);
    }
    for (std::size_t i = 0; i < count; ++i) {
      PostprocessSpec spec = impl_->options.postprocess;
      spec.geometry = geometry[i];
      results.push_back(postprocess(network_outputs(outputs, i), spec));
      if (control.progress) control.progress(results.size(), images.size());
    }
  }
  return results;
}

}  // namespace rfseg
