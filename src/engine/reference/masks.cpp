#include <fmt/format.h>

#include "engine/model_weights.h"
#include "engine/reference/gemm.h"
#include "engine/reference/network.h"
#include "engine/reference/ops.h"

// Segmentation head: models/segmentation_head.py of roboflow/rf-detr 1.4.1.

namespace rfseg::reference {

Tensor predict_masks(Context& context, const Tensor& map, const Tensor& hs) {
  const ModelConfig& config = context.config;
  const std::string& s = kSegmentationPrefix;
  const int64_t dim = config.dim, rows = config.mask_rows(), cols = config.mask_cols();

  Tensor x = resample_map(map, linear_weights(static_cast<int>(map.dim(0)), config.mask_rows()),
                          linear_weights(static_cast<int>(map.dim(1)), config.mask_cols()));
  for (int block = 0; block < config.dec_layers; ++block) {
    const std::string b = fmt::format("{}blocks.{}.", s, block);
    Tensor y =
        depthwise3x3(x, context.weight(b + "dwconv.weight"), context.weight(b + "dwconv.bias"));
    y = context.linear(context.norm(y, b + "norm", 1e-6f), b + "pwconv1");
    gelu(y);
    add(x, y);
  }
  Tensor weight = context.weight(s + "spatial_features_proj.weight");
  weight.shape = {dim, dim};
  const Tensor features =
      linear(x, weight, context.weight(s + "spatial_features_proj.bias"), context.threads);
  context.trace.keep("mask_features", features);

  const std::string block = s + "query_features_block.";
  Tensor hidden = context.linear(context.norm(hs, block + "norm_in", 1e-5f), block + "layers.0");
  gelu(hidden);
  Tensor query = context.linear(hidden, block + "layers.2");
  add(query, hs);
  query = context.linear(query, s + "query_features_proj");

  Tensor masks({config.queries, rows, cols});
  gemm(Second::kTransposed, config.queries, rows * cols, dim, query.data.data(), dim,
       features.data.data(), dim, masks.data.data(), rows * cols, context.threads);
  const float bias = context.weight(s + "bias").data[0];
  for (float& v : masks.data) v += bias;
  return masks;
}

}  // namespace rfseg::reference
