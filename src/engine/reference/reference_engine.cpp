#include "engine/reference/reference_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/model_weights.h"
#include "engine/reference/network.h"
#include "engine/reference/ops.h"
#include "rfseg/error.h"

namespace rfseg {
namespace reference {

Weights::Weights(const ModelConfig& config, const WeightSource& source)
    : position_(load_position_table(config, source)) {
  for (const TensorSpec& spec : required_tensors(config)) {
    if (spec.rows == StoredRows::kResampled) continue;  // held as position_
    tensors_.emplace(spec.name, source.read(spec.name, spec.shape));
  }
}

std::size_t Weights::bytes() const {
  int64_t count = position_.patches.size() + position_.cls.size();
  for (const auto& [name, tensor] : tensors_) count += tensor.size();
  return static_cast<std::size_t>(count) * sizeof(float);
}

Tensor Context::linear(const Tensor& x, const std::string& key) const {
  return reference::linear(x, weight(key + ".weight"), weight(key + ".bias"), threads);
}

Tensor Context::norm(const Tensor& x, const std::string& key, float eps) const {
  return layer_norm(x, weight(key + ".weight"), weight(key + ".bias"), eps);
}

Tensor Context::mlp(Tensor x, const std::string& key, int layers) const {
  for (int i = 0; i < layers; ++i) {
    x = linear(x, fmt::format("{}.layers.{}", key, i));
    if (i + 1 < layers) relu(x);
  }
  return x;
}

namespace {

/// Gives `tensor` that shape, keeping its memory where the size is right.
void resize(Tensor& tensor, const Shape& shape) {
  tensor.shape = shape;
  tensor.data.resize(static_cast<std::size_t>(element_count(shape)));
}

class ReferenceEngine final : public Engine {
 public:
  ReferenceEngine(const ModelConfig& config, const WeightSource& source, int threads)
      : config_(config),
        weights_(config, source),
        proposals_(make_proposals(config)),
        threads_(threads) {}

  const ModelConfig& config() const override { return config_; }
  const char* backend_name() const override { return "reference"; }
  std::size_t memory_bytes() const override { return weights_.bytes(); }

  void forward(const float* input, int batch, EngineOutputs& out,
               const ForwardOptions& options) override {
    if (batch < 1) {
      throw Error(ErrorCode::kUsage, fmt::format("batch is {}; it must be at least 1", batch));
    }
    const int64_t queries = config_.queries;
    resize(out.boxes, {batch, queries, 4});
    resize(out.logits, {batch, queries, config_.logits});
    resize(out.masks, config_.seg ? Shape{batch, queries, config_.mask_rows(), config_.mask_cols()}
                                  : Shape{0});
    std::vector<Trace> traces(batch);
    for (int image = 0; image < batch; ++image) {
      traces[image].enabled = static_cast<bool>(options.trace);
      Context context{config_, weights_, proposals_, threads_, traces[image]};
      forward_one(context, input + int64_t{image} * 3 * config_.height * config_.width, image,
                  options.forced_topk, out);
    }
    if (options.trace) emit(traces, options.trace);
  }

 private:
  void forward_one(Context& context, const float* input, int image, const int32_t* forced_topk,
                   EngineOutputs& out) {
    const std::vector<Tensor> maps = project(context, encode(context, input));
    Tensor memory({proposals_.count, config_.dim});
    float* end = memory.data.data();
    for (const Tensor& map : maps) end = std::copy(map.data.begin(), map.data.end(), end);

    const Tensor ref = select_queries(context, memory, forced_topk, image);
    const Tensor hs = decode(context, memory, ref);

    const Tensor logits = context.linear(hs, "class_embed");
    std::copy(logits.data.begin(), logits.data.end(),
              out.logits.data.begin() + image * logits.size());
    const Tensor delta = context.mlp(hs, "bbox_embed", 3);
    float* boxes = out.boxes.data.data() + image * ref.size();
    for (int64_t i = 0; i < ref.size(); i += 4) {
      refine_box(delta.data.data() + i, ref.data.data() + i, boxes + i);
    }
    if (!config_.seg) return;
    const Tensor masks = predict_masks(context, maps.front(), hs);
    std::copy(masks.data.begin(), masks.data.end(), out.masks.data.begin() + image * masks.size());
  }

  /// Hands the points over; those of several pictures stacked along a leading axis.
  static void emit(std::vector<Trace>& traces, const TraceSink& sink) {
    for (std::size_t p = 0; p < traces.front().points.size(); ++p) {
      const auto& [name, first] = traces.front().points[p];
      if (traces.size() == 1) {
        sink(name, first);
        continue;
      }
      Shape shape = first.shape;
      shape.insert(shape.begin(), static_cast<int64_t>(traces.size()));
      Tensor stacked(shape);
      float* end = stacked.data.data();
      for (const Trace& trace : traces) {
        const Tensor& value = trace.points[p].second;
        end = std::copy(value.data.begin(), value.data.end(), end);
      }
      sink(name, stacked);
    }
  }

  ModelConfig config_;
  reference::Weights weights_;
  Proposals proposals_;
  int threads_;
};

}  // namespace
}  // namespace reference

std::unique_ptr<Engine> create_reference_engine(const ModelConfig& config,
                                                const WeightSource& weights, int threads) {
  return std::make_unique<reference::ReferenceEngine>(config, weights, threads);
}

}  // namespace rfseg
