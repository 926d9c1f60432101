#include <fmt/format.h>

#include <algorithm>

#include "engine/model_weights.h"
#include "engine/reference/network.h"
#include "engine/reference/ops.h"

// Multi-scale projector of C2f blocks with LayerNorm: models/backbone/projector.py of
// roboflow/rf-detr 1.4.1.

namespace rfseg::reference {
namespace {

constexpr float kNormEps = 1e-6f;

enum class Activation { kSilu, kRelu };

/// Convolution without bias, LayerNorm over the channels of each pixel, activation.
Tensor conv_norm(Context& context, const Tensor& x, const std::string& key, int stride = 1,
                 Activation activation = Activation::kSilu) {
  const Tensor& weight = context.weight(key + ".conv.weight");
  Tensor y = context.norm(conv2d(x, weight, stride, context.threads), key + ".bn", kNormEps);
  if (activation == Activation::kSilu) {
    silu(y);
  } else {
    relu(y);
  }
  return y;
}

Tensor channels(const Tensor& x, int64_t begin, int64_t end) {
  const int64_t all = x.dim(2);
  Tensor part({x.dim(0), x.dim(1), end - begin});
  float* out = part.data.data();
  for (int64_t i = begin; i < x.size(); i += all) {
    out = std::copy_n(x.data.data() + i, end - begin, out);
  }
  return part;
}

/// Three chained bottlenecks beside two halves, no residual.
Tensor c2f(Context& context, const Tensor& x, const std::string& key) {
  const int64_t dim = context.config.dim;
  const Tensor y = conv_norm(context, x, key + "cv1");
  std::vector<Tensor> parts;
  parts.push_back(channels(y, 0, dim / 2));
  parts.push_back(channels(y, dim / 2, dim));
  for (int m = 0; m < 3; ++m) {
    const Tensor middle = conv_norm(context, parts.back(), fmt::format("{}m.{}.cv1", key, m));
    parts.push_back(conv_norm(context, middle, fmt::format("{}m.{}.cv2", key, m)));
  }
  std::vector<const Tensor*> pointers;
  for (const Tensor& part : parts) pointers.push_back(&part);
  return conv_norm(context, concat_channels(pointers), key + "cv2");
}

}  // namespace

std::vector<Tensor> project(Context& context, const std::vector<Tensor>& taps) {
  const ModelConfig& config = context.config;
  std::vector<Tensor> maps;
  for (std::size_t i = 0; i < config.levels.size(); ++i) {
    std::vector<Tensor> sampled;
    std::vector<const Tensor*> inputs;
    sampled.reserve(taps.size());
    for (std::size_t j = 0; j < taps.size(); ++j) {
      const std::string key = fmt::format("{}stages_sampling.{}.{}.0", kProjectorPrefix, i, j);
      switch (config.levels[i]) {
        case Level::kP3:
          sampled.push_back(conv_transpose2x2(taps[j], context.weight(key + ".weight"),
                                              context.weight(key + ".bias"), context.threads));
          inputs.push_back(&sampled.back());
          break;
        case Level::kP5:
          sampled.push_back(conv_norm(context, taps[j], key, 2, Activation::kRelu));
          inputs.push_back(&sampled.back());
          break;
        case Level::kP4:
          inputs.push_back(&taps[j]);
          break;
      }
    }
    const std::string key = fmt::format("{}stages.{}.", kProjectorPrefix, i);
    maps.push_back(
        context.norm(c2f(context, concat_channels(inputs), key + "0."), key + "1", kNormEps));
    context.trace.keep(fmt::format("memory{}", i), maps.back());
  }
  return maps;
}

}  // namespace rfseg::reference
