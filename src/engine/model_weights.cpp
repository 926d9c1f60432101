#include "engine/model_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "rfseg/error.h"

namespace rfseg {
namespace {

class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  std::vector<TensorSpec> build() {
    encoder();
    projector();
    two_stage();
    decoder();
    heads();
    if (config_.seg) segmentation();
    return std::move(specs_);
  }

 private:
  void add(std::string name, Shape shape, bool more_rows_ok = false) {
    specs_.push_back({std::move(name), std::move(shape), more_rows_ok});
  }
  void linear(const std::string& key, int64_t out, int64_t in) {
    add(key + ".weight", {out, in});
    add(key + ".bias", {out});
  }
  void norm(const std::string& key, int64_t width) {
    add(key + ".weight", {width});
    add(key + ".bias", {width});
  }
  void conv_norm(const std::string& key, int64_t out, int64_t in, int64_t side) {
    add(key + ".conv.weight", {out, in, side, side});
    norm(key + ".bn", out);
  }
  void box_mlp(const std::string& key) {
    linear(key + ".layers.0", config_.dim, config_.dim);
    linear(key + ".layers.1", config_.dim, config_.dim);
    linear(key + ".layers.2", 4, config_.dim);
  }

  void encoder() {
    const int64_t width = config_.enc_dim;
    const std::string e = kEncoderPrefix + "embeddings.";
    add(e + "cls_token", {1, 1, width});
    add(e + "position_embeddings", {1, kAnyLength, width});
    add(e + "patch_embeddings.projection.weight", {width, 3, config_.patch, config_.patch});
    add(e + "patch_embeddings.projection.bias", {width});
    for (int block = 0; block < config_.enc_layers; ++block) {
      const std::string b = fmt::format("{}encoder.layer.{}.", kEncoderPrefix, block);
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
    norm(kEncoderPrefix + "layernorm", width);
  }

  void projector() {
    const int64_t enc = config_.enc_dim, dim = config_.dim, half = config_.dim / 2;
    const int64_t taps = static_cast<int64_t>(config_.taps.size());
    for (std::size_t i = 0; i < config_.levels.size(); ++i) {
      const Level level = config_.levels[i];
      for (int64_t j = 0; j < taps; ++j) {
        const std::string s = fmt::format("{}stages_sampling.{}.{}.0", kProjectorPrefix, i, j);
        if (level == Level::kP3) {
          add(s + ".weight", {enc, enc / 2, 2, 2});
          add(s + ".bias", {enc / 2});
        }
        if (level == Level::kP5) conv_norm(s, enc, enc, 3);
      }
      const std::string b = fmt::format("{}stages.{}.0.", kProjectorPrefix, i);
      conv_norm(b + "cv1", dim, taps * (level == Level::kP3 ? enc / 2 : enc), 1);
      for (int m = 0; m < 3; ++m) {
        conv_norm(fmt::format("{}m.{}.cv1", b, m), half, half, 3);
        conv_norm(fmt::format("{}m.{}.cv2", b, m), half, half, 3);
      }
      conv_norm(b + "cv2", dim, 5 * half, 1);
      norm(fmt::format("{}stages.{}.1", kProjectorPrefix, i), dim);
    }
  }

  void two_stage() {
    const std::string t = kTransformerPrefix;
    linear(t + "enc_output.0", config_.dim, config_.dim);
    norm(t + "enc_output_norm.0", config_.dim);
    linear(t + "enc_out_class_embed.0", config_.logits, config_.dim);
    box_mlp(t + "enc_out_bbox_embed.0");
    add("refpoint_embed.weight", {config_.queries, 4}, true);
    add("query_feat.weight", {config_.queries, config_.dim}, true);
  }

  void decoder() {
    const int64_t dim = config_.dim;
    const int64_t samples =
        int64_t{config_.ca_heads} * static_cast<int64_t>(config_.levels.size()) * config_.points;
    const std::string d = kTransformerPrefix + "decoder.";
    linear(d + "ref_point_head.layers.0", dim, 2 * dim);
    linear(d + "ref_point_head.layers.1", dim, dim);
    for (int layer = 0; layer < config_.dec_layers; ++layer) {
      const std::string b = fmt::format("{}layers.{}.", d, layer);
      add(b + "self_attn.in_proj_weight", {3 * dim, dim});
      add(b + "self_attn.in_proj_bias", {3 * dim});
      linear(b + "self_attn.out_proj", dim, dim);
      norm(b + "norm1", dim);
      linear(b + "cross_attn.sampling_offsets", 2 * samples, dim);
      linear(b + "cross_attn.attention_weights", samples, dim);
      linear(b + "cross_attn.value_proj", dim, dim);
      linear(b + "cross_attn.output_proj", dim, dim);
      norm(b + "norm2", dim);
      linear(b + "linear1", config_.ffn_dim, dim);
      linear(b + "linear2", dim, config_.ffn_dim);
      norm(b + "norm3", dim);
    }
    norm(d + "norm", dim);
  }

  void heads() {
    linear("class_embed", config_.logits, config_.dim);
    box_mlp("bbox_embed");
  }

  void segmentation() {
    const int64_t dim = config_.dim;
    const std::string& s = kSegmentationPrefix;
    for (int block = 0; block < config_.dec_layers; ++block) {
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
    add(s + "bias", {1});
  }

  const ModelConfig& config_;
  std::vector<TensorSpec> specs_;
};

[[noreturn]] void bad_config(const std::string& what) {
  throw Error(ErrorCode::kModel, "model configuration: " + what);
}

void check_divides(const char* name, int divisor, const char* of, int value) {
  if (value % divisor != 0) {
    bad_config(fmt::format("{} {} does not divide {} {}", name, divisor, of, value));
  }
}

std::string expected_shape(const TensorSpec& spec) {
  std::string text = "[";
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += spec.shape[i] == kAnyLength ? "n*n+1" : std::to_string(spec.shape[i]);
  }
  return text + "]" + (spec.more_rows_ok ? " or more rows" : "");
}

bool fits(const TensorSpec& spec, const Shape& found) {
  if (found.size() != spec.shape.size()) return false;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (spec.shape[i] == kAnyLength) continue;
    const bool enough = spec.more_rows_ok && i == 0 && found[i] >= spec.shape[i];
    if (found[i] != spec.shape[i] && !enough) return false;
  }
  return true;
}

}  // namespace

std::vector<TensorSpec> required_tensors(const ModelConfig& config) {
  return SpecList(config).build();
}

void check_config(const ModelConfig& config) {
  const std::pair<const char*, int> positive[] = {{"height", config.height},
                                                  {"width", config.width},
                                                  {"patch", config.patch},
                                                  {"windows", config.windows},
                                                  {"pos_grid", config.pos_grid},
                                                  {"enc_dim", config.enc_dim},
                                                  {"enc_heads", config.enc_heads},
                                                  {"enc_layers", config.enc_layers},
                                                  {"dec_layers", config.dec_layers},
                                                  {"queries", config.queries},
                                                  {"dim", config.dim},
                                                  {"sa_heads", config.sa_heads},
                                                  {"ca_heads", config.ca_heads},
                                                  {"points", config.points},
                                                  {"ffn_dim", config.ffn_dim},
                                                  {"logits", config.logits}};
  for (const auto& [name, value] : positive) {
    if (value <= 0 || value > 1 << 20) {
      bad_config(fmt::format("{} is {}; it must be 1 to {}", name, value, 1 << 20));
    }
  }
  const int64_t step = int64_t{config.patch} * config.windows;
  if (config.height % step != 0 || config.width % step != 0) {
    bad_config(
        fmt::format("the input is {}x{}; both sides must be divisible by {} "
                    "(patch {} * windows {})",
                    config.height, config.width, step, config.patch, config.windows));
  }
  check_divides("enc_heads", config.enc_heads, "enc_dim", config.enc_dim);
  check_divides("sa_heads", config.sa_heads, "dim", config.dim);
  check_divides("ca_heads", config.ca_heads, "dim", config.dim);
  // The query position splits `dim` into pairs of sine and cosine for each of four coordinates.
  if (config.dim % 4 != 0) bad_config(fmt::format("dim {} is not divisible by 4", config.dim));
  if (config.taps.empty() || config.levels.empty()) bad_config("taps or levels are empty");
  for (std::size_t i = 0; i < config.taps.size(); ++i) {
    if (config.taps[i] <= (i == 0 ? 0 : config.taps[i - 1])) {
      bad_config("taps must be positive and ascend");
    }
  }
  if (config.taps.back() != config.enc_layers) {
    bad_config(fmt::format("the last tap is {}, but enc_layers is {}", config.taps.back(),
                           config.enc_layers));
  }
}

void check_weights(const ModelConfig& config, const WeightSource& weights) {
  for (const TensorSpec& spec : required_tensors(config)) {
    const TensorInfo* info = weights.find(spec.name);
    if (info == nullptr) {
      throw Error(ErrorCode::kModel,
                  fmt::format("{}: tensor '{}' is missing (expected shape {})", weights.origin(),
                              spec.name, expected_shape(spec)));
    }
    if (!fits(spec, info->shape)) {
      throw Error(ErrorCode::kModel,
                  fmt::format("{}: tensor '{}' has shape {}, expected {}", weights.origin(),
                              spec.name, to_string(info->shape), expected_shape(spec)));
    }
  }
}

MapSize level_size(const ModelConfig& config, Level level) {
  const int rows = config.grid_rows(), cols = config.grid_cols();
  switch (level) {
    case Level::kP3:
      return {2 * rows, 2 * cols};
    case Level::kP5:
      return {(rows + 1) / 2, (cols + 1) / 2};
    case Level::kP4:
      break;
  }
  return {rows, cols};
}

bool attends_in_full(const ModelConfig& config, int block) {
  return std::find(config.taps.begin(), config.taps.end(), block) != config.taps.end();
}

}  // namespace rfseg
