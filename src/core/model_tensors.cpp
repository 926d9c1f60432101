#include "core/model_tensors.h"

#include <fmt/format.h>

#include "rfseg/error.h"

namespace rfseg {
namespace {

class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : c_(config) {}

  std::vector<TensorSpec> build() {
    decoder();
    heads();
    if (c_.seg) segmentation();
    encoder();
    projector();
    return std::move(list_);
  }

 private:
  void add(const std::string& name, Shape shape, StoredRows rows = StoredRows::kEqual) {
    list_.push_back({name, std::move(shape), rows});
  }
  void linear(const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", {out, in});
    add(name + ".bias", {out});
  }
  void norm(const std::string& name, int64_t dim) {
    add(name + ".weight", {dim});
    add(name + ".bias", {dim});
  }
  void conv(const std::string& name, int64_t out, int64_t in, int64_t side) {
    add(name + ".conv.weight", {out, in, side, side});
    norm(name + ".bn", out);
  }

  void decoder() {
    const int64_t dim = c_.dim;
    const int64_t samples =
        int64_t{c_.ca_heads} * static_cast<int64_t>(c_.levels.size()) * c_.points;
    for (int i = 0; i < c_.dec_layers; ++i) {
      const std::string layer = fmt::format("{}decoder.layers.{}.", kTransformerPrefix, i);
      add(layer + "self_attn.in_proj_weight", {3 * dim, dim});
      add(layer + "self_attn.in_proj_bias", {3 * dim});
      linear(layer + "self_attn.out_proj", dim, dim);
      norm(layer + "norm1", dim);
      linear(layer + "cross_attn.sampling_offsets", samples * 2, dim);
      linear(layer + "cross_attn.attention_weights", samples, dim);
      linear(layer + "cross_attn.value_proj", dim, dim);
      linear(layer + "cross_attn.output_proj", dim, dim);
      linear(layer + "linear1", c_.ffn_dim, dim);
      linear(layer + "linear2", dim, c_.ffn_dim);
      norm(layer + "norm2", dim);
      norm(layer + "norm3", dim);
    }
    norm(kTransformerPrefix + "decoder.norm", dim);
    linear(kTransformerPrefix + "decoder.ref_point_head.layers.0", dim, 2 * dim);
    linear(kTransformerPrefix + "decoder.ref_point_head.layers.1", dim, dim);
    linear(kTransformerPrefix + "enc_output.0", dim, dim);
    norm(kTransformerPrefix + "enc_output_norm.0", dim);
    mlp3(kTransformerPrefix + "enc_out_bbox_embed.0");
    linear(kTransformerPrefix + "enc_out_class_embed.0", c_.logits, dim);
  }

  void mlp3(const std::string& name) {
    linear(name + ".layers.0", c_.dim, c_.dim);
    linear(name + ".layers.1", c_.dim, c_.dim);
    linear(name + ".layers.2", 4, c_.dim);
  }

  void heads() {
    linear("class_embed", c_.logits, c_.dim);
    mlp3("bbox_embed");
  }

  void segmentation() {
    const int64_t dim = c_.dim;
    const std::string& head = kSegmentationPrefix;
    add(head + "bias", {1});
    for (int i = 0; i < c_.dec_layers; ++i) {
      const std::string block = head + fmt::format("blocks.{}.", i);
      add(block + "dwconv.weight", {dim, 1, 3, 3});
      add(block + "dwconv.bias", {dim});
      norm(block + "norm", dim);
      linear(block + "pwconv1", dim, dim);
    }
    add(head + "spatial_features_proj.weight", {dim, dim, 1, 1});
    add(head + "spatial_features_proj.bias", {dim});
    norm(head + "query_features_block.norm_in", dim);
    linear(head + "query_features_block.layers.0", 4 * dim, dim);
    linear(head + "query_features_block.layers.2", dim, 4 * dim);
    linear(head + "query_features_proj", dim, dim);
  }

  void encoder() {
    add("refpoint_embed.weight", {c_.queries, 4}, StoredRows::kEqualOrMore);
    add("query_feat.weight", {c_.queries, c_.dim}, StoredRows::kEqualOrMore);
    const int64_t dim = c_.enc_dim;
    const std::string embeddings = kEncoderPrefix + "embeddings.";
    add(embeddings + "cls_token", {1, 1, dim});
    add(embeddings + "position_embeddings", {1, int64_t{c_.pos_grid} * c_.pos_grid + 1, dim},
        StoredRows::kResampled);
    add(embeddings + "patch_embeddings.projection.weight", {dim, 3, c_.patch, c_.patch});
    add(embeddings + "patch_embeddings.projection.bias", {dim});
    for (int i = 0; i < c_.enc_layers; ++i) {
      const std::string block = kEncoderPrefix + fmt::format("encoder.layer.{}.", i);
      norm(block + "norm1", dim);
      for (const char* part : {"query", "key", "value"}) {
        linear(block + "attention.attention." + part, dim, dim);
      }
      linear(block + "attention.output.dense", dim, dim);
      add(block + "layer_scale1.lambda1", {dim});
      norm(block + "norm2", dim);
      linear(block + "mlp.fc1", 4 * dim, dim);
      linear(block + "mlp.fc2", dim, 4 * dim);
      add(block + "layer_scale2.lambda1", {dim});
    }
    norm(kEncoderPrefix + "layernorm", dim);
  }

  void projector() {
    const int64_t dim = c_.enc_dim, taps = static_cast<int64_t>(c_.taps.size()), half = c_.dim / 2;
    for (std::size_t level = 0; level < c_.levels.size(); ++level) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const std::string name =
            kProjectorPrefix + fmt::format("stages_sampling.{}.{}.0", level, tap);
        if (c_.levels[level] == Level::kP3) {
          add(name + ".weight", {dim, dim / 2, 2, 2});
          add(name + ".bias", {dim / 2});
        } else if (c_.levels[level] == Level::kP5) {
          conv(name, dim, dim, 3);
        }
      }
    }
    for (std::size_t level = 0; level < c_.levels.size(); ++level) {
      const int64_t channels = taps * (c_.levels[level] == Level::kP3 ? dim / 2 : dim);
      const std::string stage = kProjectorPrefix + fmt::format("stages.{}.0.", level);
      conv(stage + "cv1", 2 * half, channels, 1);
      conv(stage + "cv2", c_.dim, 5 * half, 1);
      for (int i = 0; i < 3; ++i) {
        conv(stage + fmt::format("m.{}.cv1", i), half, half, 3);
        conv(stage + fmt::format("m.{}.cv2", i), half, half, 3);
      }
      norm(kProjectorPrefix + fmt::format("stages.{}.1", level), c_.dim);
    }
  }

  const ModelConfig& c_;
  std::vector<TensorSpec> list_;
};

std::string expected_shape(const TensorSpec& spec) {
  switch (spec.rows) {
    case StoredRows::kEqual:
      break;
    case StoredRows::kEqualOrMore:
      return to_string(spec.shape) + " or more rows";
    case StoredRows::kResampled:
      return fmt::format("[{}, n*n+1, {}]", spec.shape[0], spec.shape[2]);
  }
  return to_string(spec.shape);
}

bool fits(const TensorSpec& spec, Shape found) {
  if (found.size() != spec.shape.size()) return false;
  if (spec.rows == StoredRows::kEqualOrMore && found[0] > spec.shape[0]) found[0] = spec.shape[0];
  if (spec.rows == StoredRows::kResampled) found[1] = spec.shape[1];  // a square: its reader checks
  return found == spec.shape;
}

}  // namespace

std::vector<TensorSpec> required_tensors(const ModelConfig& config) {
  return SpecList(config).build();
}

void check_weights(const ModelConfig& config, const WeightSource& weights) {
  for (const TensorSpec& spec : required_tensors(config)) {
    const TensorInfo* found = weights.find(spec.name);
    if (found == nullptr) {
      throw Error(ErrorCode::kModel,
                  fmt::format("{}: tensor '{}' is missing (expected shape {})", weights.origin(),
                              spec.name, expected_shape(spec)));
    }
    if (!fits(spec, found->shape)) {
      throw Error(ErrorCode::kModel,
                  fmt::format("{}: tensor '{}' has shape {}, expected {}", weights.origin(),
                              spec.name, to_string(found->shape), expected_shape(spec)));
    }
  }
}

}  // namespace rfseg
