#include "engine/hash_weights.h"

#include <fmt/format.h>

#include <cmath>

#include "rfseg/error.h"

namespace rfseg::testing {
namespace {

constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
constexpr int kFieldsMean = 2 * 65535;           // of the sum of four 16-bit fields
constexpr double kFieldsDeviation = 37837.2266;  // 65536 / sqrt(12) * sqrt(4)

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

struct Distribution {
  double mean;
  double deviation;
};

Distribution distribution(const std::string& name, const Shape& shape) {
  const bool matrix = shape.size() > 1;
  if (has(name, "norm") || has(name, ".bn.") || has(name, "projector.stages.0.1.") ||
      has(name, "projector.stages.1.1.")) {
    return {name.ends_with("weight") ? 1.0 : 0.0, 0.1};
  }
  if (has(name, "lambda1")) return {0.3, 0.1};
  if (name == "refpoint_embed.weight") return {0, 0.2};
  if (has(name, "bbox_embed")) return {0, matrix ? 0.05 : 0.1};
  if (has(name, "class_embed")) return matrix ? Distribution{0, 0.12} : Distribution{-6, 0.3};
  if (has(name, "sampling_offsets")) return {0, matrix ? 0.05 : 1.0};
  if (matrix && !has(name, "position") && !has(name, "token") && !has(name, "query_feat")) {
    int64_t fan_in = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) fan_in *= shape[i];
    return {0, 1 / std::sqrt(static_cast<double>(fan_in))};
  }
  return {0, 0.1};
}

}  // namespace

uint64_t hash_name(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return mix(hash ^ (seed * kStep));
}

uint64_t hash_at(uint64_t start, uint64_t i) { return mix(start + (i + 1) * kStep); }

void hash_fill(float* out, int64_t n, uint64_t start, double mean, double deviation) {
  const float offset = static_cast<float>(mean);
  const float scale = static_cast<float>(deviation / kFieldsDeviation);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t bits = hash_at(start, static_cast<uint64_t>(i));
    const int sum = static_cast<int>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                     ((bits >> 32) & 0xffff) + (bits >> 48));
    out[i] = offset + scale * static_cast<float>(sum - kFieldsMean);
  }
}

Tensor hash_input(const ModelConfig& config, int batch, uint64_t seed) {
  Tensor input({batch, 3, config.height, config.width});
  const int64_t size = input.size() / batch;
  for (int b = 0; b < batch; ++b) {
    hash_fill(input.data.data() + b * size, size,
              hash_name("input", seed + static_cast<uint64_t>(b)), 0, 1);
  }
  return input;
}

HashWeights::HashWeights(const ModelConfig& config, const HashOptions& options)
    : options_(options) {
  if (options_.stored_pos_grid == 0) options_.stored_pos_grid = config.pos_grid;
  list_decoder(config);
  list_two_stage(config);
  list_heads(config);
  list_encoder(config);
  list_projector(config);
}

const TensorInfo* HashWeights::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

Tensor HashWeights::read(const std::string& name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    throw Error(ErrorCode::kModel, fmt::format("{}: tensor '{}' is missing", origin_, name));
  }
  if (poisoned_.count(name) != 0) {
    throw Error(ErrorCode::kModel,
                fmt::format("{}: tensor '{}' holds a NaN or infinity", origin_, name));
  }
  const bool selects = name.rfind("transformer.enc_out_class_embed.0.", 0) == 0;
  const Distribution d = distribution(name, info->shape);
  Tensor tensor(info->shape);
  hash_fill(tensor.data.data(), tensor.size(),
            hash_name(name, selects ? options_.selection_seed : options_.seed), d.mean,
            d.deviation);
  return tensor;
}

void HashWeights::remove(const std::string& name) { index_.erase(name); }

void HashWeights::reshape(const std::string& name, const Shape& shape) {
  tensors_.at(index_.at(name)).shape = shape;
}

void HashWeights::set_dtype(const std::string& name, DType dtype) {
  tensors_.at(index_.at(name)).dtype = dtype;
}

void HashWeights::add(const std::string& name, const Shape& shape) {
  index_[name] = tensors_.size();
  tensors_.push_back({name, DType::kF32, shape});
}

void HashWeights::linear(const std::string& key, int64_t out, int64_t in) {
  add(key + ".weight", {out, in});
  add(key + ".bias", {out});
}

void HashWeights::norm(const std::string& key, int64_t width) {
  add(key + ".weight", {width});
  add(key + ".bias", {width});
}

void HashWeights::conv_norm(const std::string& key, int64_t out, int64_t in, int64_t side) {
  add(key + ".conv.weight", {out, in, side, side});
  norm(key + ".bn", out);
}

void HashWeights::list_decoder(const ModelConfig& config) {
  const int64_t dim = config.dim;
  const int64_t samples =
      int64_t{config.ca_heads} * static_cast<int64_t>(config.levels.size()) * config.points;
  for (int layer = 0; layer < config.dec_layers; ++layer) {
    const std::string b = fmt::format("transformer.decoder.layers.{}.", layer);
    add(b + "self_attn.in_proj_weight", {3 * dim, dim});
    add(b + "self_attn.in_proj_bias", {3 * dim});
    linear(b + "self_attn.out_proj", dim, dim);
    norm(b + "norm1", dim);
    linear(b + "cross_attn.sampling_offsets", 2 * samples, dim);
    linear(b + "cross_attn.attention_weights", samples, dim);
    linear(b + "cross_attn.value_proj", dim, dim);
    linear(b + "cross_attn.output_proj", dim, dim);
    linear(b + "linear1", config.ffn_dim, dim);
    linear(b + "linear2", dim, config.ffn_dim);
    norm(b + "norm2", dim);
    norm(b + "norm3", dim);
  }
  norm("transformer.decoder.norm", dim);
  linear("transformer.decoder.ref_point_head.layers.0", dim, 2 * dim);
  linear("transformer.decoder.ref_point_head.layers.1", dim, dim);
}

void HashWeights::list_two_stage(const ModelConfig& config) {
  const int64_t dim = config.dim;
  for (int g = 0; g < options_.groups; ++g) {
    linear(fmt::format("transformer.enc_output.{}", g), dim, dim);
    norm(fmt::format("transformer.enc_output_norm.{}", g), dim);
    for (int i = 0; i < 3; ++i) {
      linear(fmt::format("transformer.enc_out_bbox_embed.{}.layers.{}", g, i), i < 2 ? dim : 4,
             dim);
    }
    linear(fmt::format("transformer.enc_out_class_embed.{}", g), config.logits, dim);
  }
}

void HashWeights::list_heads(const ModelConfig& config) {
  const int64_t dim = config.dim;
  linear("class_embed", config.logits, dim);
  for (int i = 0; i < 3; ++i) linear(fmt::format("bbox_embed.layers.{}", i), i < 2 ? dim : 4, dim);
  if (config.seg) {
    const std::string s = "segmentation_head.";
    add(s + "bias", {1});
    for (int block = 0; block < config.dec_layers; ++block) {
      const std::string b = fmt::format("{}blocks.{}.", s, block);
      add(b + "dwconv.weight", {dim, 1, 3, 3});
      add(b + "dwconv.bias", {dim});
      norm(b + "norm", dim);
      linear(b + "pwconv1", dim, dim);
    }
    add(s + "spatial_features_proj.weight", {dim, dim, 1, 1});
    add(s + "spatial_features_proj.bias", {dim});
    norm(s + "query_features_block.norm_in", dim);
    linear(s + "query_features_block.layers.0", 4 * dim, dim);
    linear(s + "query_features_block.layers.2", dim, 4 * dim);
    linear(s + "query_features_proj", dim, dim);
  }
  const int64_t rows = int64_t{config.queries} * options_.groups;
  add("refpoint_embed.weight", {rows, 4});
  add("query_feat.weight", {rows, dim});
}

void HashWeights::list_encoder(const ModelConfig& config) {
  const int64_t width = config.enc_dim, side = options_.stored_pos_grid;
  const std::string e = "backbone.0.encoder.encoder.";
  add(e + "embeddings.cls_token", {1, 1, width});
  add(e + "embeddings.mask_token", {1, width});
  add(e + "embeddings.position_embeddings", {1, side * side + 1, width});
  add(e + "embeddings.patch_embeddings.projection.weight", {width, 3, config.patch, config.patch});
  add(e + "embeddings.patch_embeddings.projection.bias", {width});
  for (int block = 0; block < config.enc_layers; ++block) {
    const std::string b = fmt::format("{}encoder.layer.{}.", e, block);
    norm(b + "norm1", width);
    for (const char* part : {"query", "key", "value"}) {
      linear(b + "attention.attention." + part, width, width);
    }
    linear(b + "attention.output.dense", width, width);
    add(b + "layer_scale1.lambda1", {width});
    norm(b + "norm2", width);
    linear(b + "mlp.fc1", 4 * width, width);
    linear(b + "mlp.fc2", width, 4 * width);
    add(b + "layer_scale2.lambda1", {width});
  }
  norm(e + "layernorm", width);
}

void HashWeights::list_projector(const ModelConfig& config) {
  const int64_t enc = config.enc_dim, dim = config.dim, half = dim / 2;
  const int64_t taps = static_cast<int64_t>(config.taps.size());
  const std::string p = "backbone.0.projector.";
  for (std::size_t i = 0; i < config.levels.size(); ++i) {
    for (int64_t j = 0; j < taps; ++j) {
      const std::string s = fmt::format("{}stages_sampling.{}.{}.0", p, i, j);
      if (config.levels[i] == Level::kP3) {
        add(s + ".weight", {enc, enc / 2, 2, 2});
        add(s + ".bias", {enc / 2});
      }
      if (config.levels[i] == Level::kP5) conv_norm(s, enc, enc, 3);
    }
  }
  for (std::size_t i = 0; i < config.levels.size(); ++i) {
    const std::string b = fmt::format("{}stages.{}.0.", p, i);
    conv_norm(b + "cv1", dim, taps * (config.levels[i] == Level::kP3 ? enc / 2 : enc), 1);
    conv_norm(b + "cv2", dim, 5 * half, 1);
    for (int m = 0; m < 3; ++m) {
      conv_norm(fmt::format("{}m.{}.cv1", b, m), half, half, 3);
      conv_norm(fmt::format("{}m.{}.cv2", b, m), half, half, 3);
    }
    norm(fmt::format("{}stages.{}.1", p, i), dim);
  }
}

}  // namespace rfseg::testing
