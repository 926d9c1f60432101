#include "checkpoint/inference_tensors.h"

#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include "checkpoint/byte_source.h"
#include "checkpoint/names.h"

namespace rfseg {
namespace {

class Builder {
 public:
  explicit Builder(const ModelConfig& config) : c_(config) {}

  std::vector<ExpectedTensor> build() {
    decoder();
    heads();
    if (c_.seg) segmentation();
    encoder();
    projector();
    return std::move(list_);
  }

 private:
  void add(const std::string& name, Shape shape, bool first_rows = false) {
    list_.push_back({name, std::move(shape), first_rows});
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
      const std::string layer = fmt::format("transformer.decoder.layers.{}.", i);
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
    norm("transformer.decoder.norm", dim);
    linear("transformer.decoder.ref_point_head.layers.0", dim, 2 * dim);
    linear("transformer.decoder.ref_point_head.layers.1", dim, dim);
    linear("transformer.enc_output.0", dim, dim);
    norm("transformer.enc_output_norm.0", dim);
    mlp3("transformer.enc_out_bbox_embed.0");
    linear("transformer.enc_out_class_embed.0", c_.logits, dim);
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
    const std::string head = "segmentation_head.";
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
    add("refpoint_embed.weight", {c_.queries, 4}, true);
    add("query_feat.weight", {c_.queries, c_.dim}, true);
    const int64_t dim = c_.enc_dim;
    add(kClassToken, {1, 1, dim});
    add(kPositionTable, {1, int64_t{c_.pos_grid} * c_.pos_grid + 1, dim});
    add(kPatchWeight, {dim, 3, c_.patch, c_.patch});
    add(std::string(kEncoder) + "embeddings.patch_embeddings.projection.bias", {dim});
    for (int i = 0; i < c_.enc_layers; ++i) {
      const std::string block = kEncoder + fmt::format("encoder.layer.{}.", i);
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
    norm(std::string(kEncoder) + "layernorm", dim);
  }

  void projector() {
    const int64_t dim = c_.enc_dim, taps = static_cast<int64_t>(c_.taps.size()), half = c_.dim / 2;
    for (std::size_t level = 0; level < c_.levels.size(); ++level) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const std::string name = kProjector + fmt::format("stages_sampling.{}.{}.0", level, tap);
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
      const std::string stage = kProjector + fmt::format("stages.{}.0.", level);
      conv(stage + "cv1", 2 * half, channels, 1);
      conv(stage + "cv2", c_.dim, 5 * half, 1);
      for (int i = 0; i < 3; ++i) {
        conv(stage + fmt::format("m.{}.cv1", i), half, half, 3);
        conv(stage + fmt::format("m.{}.cv2", i), half, half, 3);
      }
      norm(kProjector + fmt::format("stages.{}.1", level), c_.dim);
    }
  }

  const ModelConfig& c_;
  std::vector<ExpectedTensor> list_;
};

}  // namespace

std::vector<ExpectedTensor> inference_tensors(const ModelConfig& config) {
  return Builder(config).build();
}

void check_tensors(const ModelConfig& config, const WeightSource& weights) {
  for (const ExpectedTensor& expected : inference_tensors(config)) {
    const TensorInfo* found = weights.find(expected.name);
    if (found == nullptr) {
      fail_model(weights.origin(), fmt::format("tensor '{}' is missing (expected shape {})",
                                               expected.name, to_string(expected.shape)));
    }
    Shape shape = found->shape;
    if (expected.first_rows && !shape.empty() && shape[0] >= expected.shape[0]) {
      shape[0] = expected.shape[0];
    }
    if (shape != expected.shape) {
      fail_model(weights.origin(),
                 fmt::format("tensor '{}' has shape {}, expected {}{}", expected.name,
                             to_string(found->shape), to_string(expected.shape),
                             expected.first_rows ? " or more rows" : ""));
    }
  }
}

int64_t inference_parameters(const ModelConfig& config) {
  int64_t count = 0;
  for (const ExpectedTensor& tensor : inference_tensors(config)) {
    count += element_count(tensor.shape);
  }
  return count;
}

}  // namespace rfseg
