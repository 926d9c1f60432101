#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "core/weights.h"
#include "engine/position.h"
#include "engine/two_stage.h"

// The network in its four parts, each for one picture, in the order of computation:
//   encode -> project -> select_queries -> decode -> (heads) and predict_masks.

namespace rfseg::reference {

/// The weights under their upstream names, as they lie in the checkpoint.
class Weights {
 public:
  Weights(const ModelConfig& config, const WeightSource& source);
  const Tensor& operator[](const std::string& name) const { return tensors_.at(name); }
  const PositionTable& position() const { return position_; }
  std::size_t bytes() const;

 private:
  std::unordered_map<std::string, Tensor> tensors_;
  PositionTable position_;
};

/// The named points of one picture, in the order of computation; keeps nothing unless enabled.
struct Trace {
  bool enabled = false;
  std::vector<std::pair<std::string, Tensor>> points;
  void keep(const std::string& name, const Tensor& value) {
    if (enabled) points.emplace_back(name, value);
  }
};

/// What every part needs.
struct Context {
  const ModelConfig& config;
  const Weights& weights;
  const Proposals& proposals;
  int threads;
  Trace& trace;

  const Tensor& weight(const std::string& name) const { return weights[name]; }
  Tensor linear(const Tensor& x, const std::string& key) const;
  Tensor norm(const Tensor& x, const std::string& key, float eps) const;
  /// `layers` linear layers key.layers.i with ReLU between them.
  Tensor mlp(Tensor x, const std::string& key, int layers) const;
};

/// Picture [3, H, W] -> one map [grid_rows, grid_cols, D] per tap.
std::vector<Tensor> encode(Context& context, const float* image);

/// Taps -> one map [rows, cols, C] per level.
std::vector<Tensor> project(Context& context, const std::vector<Tensor>& taps);

/// Two-stage selection: `memory` [N, C] -> reference boxes [Q, 4]. `forced` is [B, Q] or null.
Tensor select_queries(Context& context, const Tensor& memory, const int32_t* forced, int image);

/// -> hs [Q, C]
Tensor decode(Context& context, const Tensor& memory, const Tensor& ref);

/// Level 0 [rows, cols, C] and hs [Q, C] -> mask logits [Q, H/4, W/4].
Tensor predict_masks(Context& context, const Tensor& map, const Tensor& hs);

}  // namespace rfseg::reference
