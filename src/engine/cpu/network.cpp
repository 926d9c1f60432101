#include "engine/cpu/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include "engine/mask_projection.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

namespace rfseg::cpu {
namespace {

/// Lists what is to be read, then reads it with all threads: each job reads one tensor, packs it
/// and frees it, so that beside the packed copy only one tensor a thread is held.
class Loader {
 public:
  Loader(Network& network, const WeightSource& source)
      : net_(network), config_(network.config), source_(source) {}

  void run(ThreadTeam& team) {
    encoder();
    for (std::size_t i = 0; i < config_.levels.size(); ++i) level(static_cast<int>(i));
    two_stage();
    decoder();
    if (config_.seg) segmentation();
    team.run(static_cast<int>(jobs_.size()), [&](int job, int) { jobs_[job](); });
  }

 private:
  using Job = std::function<void()>;

  void vector(float*& to, const std::string& name, const Shape& shape) {
    to = net_.memory.take(element_count(shape));
    jobs_.push_back([this, p = to, name, shape] {
      const Tensor t = source_.read(name, shape);
      std::memcpy(p, t.data.data(), sizeof(float) * t.data.size());
    });
  }

  void bias(const PackedMatrix& m, const std::string& name, int first, int n) {
    jobs_.push_back([this, p = m.bias + first, name, n] {
      const Tensor t = source_.read(name, {n});
      std::memcpy(p, t.data.data(), sizeof(float) * t.data.size());
    });
  }

  void norm(Norm& to, const std::string& key, int n) {
    vector(to.weight, key + ".weight", {n});
    vector(to.bias, key + ".bias", {n});
  }

  /// Rows [first_row, first_row + n) of tensor `name` (its rows are `total`), as rows [to_row,
  /// ...).
  void rows(PackedMatrix& to, int to_row, const std::string& name, const Shape& shape,
            int first_row, int n) {
    jobs_.push_back([this, &to, to_row, name, shape, first_row, n] {
      const Tensor t = source_.read(name, shape);
      pack_rows(t.data.data() + int64_t{first_row} * to.k, n, to, to_row);
    });
  }

  void linear(PackedMatrix& to, const std::string& key, int n, int k) {
    to = make_matrix(net_.memory, n, k);
    rows(to, 0, key + ".weight", {n, k}, 0, n);
    bias(to, key + ".bias", 0, n);
  }

  /// Several linear layers of the same input, one below the other; `n` rows each.
  void linears(PackedMatrix& to, const std::vector<std::string>& keys, const std::vector<int>& n,
               int k) {
    int total = 0;
    for (int rows : n) total += rows;
    to = make_matrix(net_.memory, total, k);
    // Layers may share a panel: one job packs them all.
    jobs_.push_back([this, &to, keys, n, k] {
      int at = 0;
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const Tensor w = source_.read(keys[i] + ".weight", {n[i], k});
        pack_rows(w.data.data(), n[i], to, at);
        const Tensor b = source_.read(keys[i] + ".bias", {n[i]});
        std::copy(b.data.begin(), b.data.end(), to.bias + at);
        at += n[i];
      }
    });
  }

  void conv_norm(ConvNorm& to, const std::string& key, int out, int in, int side) {
    const int cells = side * side;
    to.conv = make_matrix(net_.memory, out, in * cells);
    jobs_.push_back([this, &m = to.conv, key, out, in, side, cells] {
      const Tensor w = source_.read(key + ".conv.weight", {out, in, side, side});
      if (cells == 1) return pack_rows(w.data.data(), out, m, 0);
      AlignedVector<float> some(4 * static_cast<std::size_t>(m.k));
      for (int o = 0; o < out; o += 4) {
        const int count = std::min(4, out - o);
        for (int r = 0; r < count; ++r) {
          const float* from = w.data.data() + int64_t{o + r} * m.k;
          for (int c = 0; c < in; ++c) {
            for (int t = 0; t < cells; ++t) some[r * m.k + t * in + c] = from[c * cells + t];
          }
        }
        pack_rows(some.data(), count, m, o);
      }
    });
    norm(to.norm, key + ".bn", out);
  }

  void encoder() {
    EncoderWeights& e = net_.encoder;
    const int d = config_.enc_dim, side = config_.patch;
    jobs_.push_back([this, &e] { e.position = load_position_table(config_, source_); });
    const std::string patch = kEncoderPrefix + "embeddings.patch_embeddings.projection";
    e.patch = make_matrix(net_.memory, d, 3 * side * side);
    rows(e.patch, 0, patch + ".weight", {d, 3, side, side}, 0, d);
    bias(e.patch, patch + ".bias", 0, d);
    e.blocks.resize(config_.enc_layers);
    for (int i = 0; i < config_.enc_layers; ++i) {
      EncoderBlock& block = e.blocks[i];
      const std::string b = fmt::format("{}encoder.layer.{}.", kEncoderPrefix, i);
      norm(block.norm1, b + "norm1", d);
      block.qkv = make_matrix(net_.memory, 3 * d, d);
      int at = 0;
      for (const char* part : {"query", "key", "value"}) {
        const std::string key = b + "attention.attention." + part;
        rows(block.qkv, at, key + ".weight", {d, d}, 0, d);
        bias(block.qkv, key + ".bias", at, d);
        at += d;
      }
      linear(block.proj, b + "attention.output.dense", d, d);
      vector(block.scale1, b + "layer_scale1.lambda1", {d});
      norm(block.norm2, b + "norm2", d);
      linear(block.fc1, b + "mlp.fc1", 4 * d, d);
      linear(block.fc2, b + "mlp.fc2", d, 4 * d);
      vector(block.scale2, b + "layer_scale2.lambda1", {d});
    }
    norm(e.norm, kEncoderPrefix + "layernorm", d);
  }

  void level(int i) {
    const int d = config_.enc_dim, c = config_.dim, half = c / 2;
    const int taps = static_cast<int>(config_.taps.size());
    net_.levels.resize(config_.levels.size());
    LevelWeights& w = net_.levels[i];
    int in = taps * d;
    if (config_.levels[i] == Level::kP3) {
      in = taps * (d / 2);
      w.upsample.resize(4 * taps);
      for (int j = 0; j < taps; ++j) upsample(&w.upsample[4 * j], stage(i, j), d, d / 2);
    }
    if (config_.levels[i] == Level::kP5) {
      w.downsample.resize(taps);
      for (int j = 0; j < taps; ++j) conv_norm(w.downsample[j], stage(i, j), d, d, 3);
    }
    const std::string b = fmt::format("{}stages.{}.0.", kProjectorPrefix, i);
    conv_norm(w.cv1, b + "cv1", c, in, 1);
    for (int m = 0; m < 6; ++m) {
      conv_norm(w.middle[m], fmt::format("{}m.{}.cv{}", b, m / 2, m % 2 + 1), half, half, 3);
    }
    conv_norm(w.cv2, b + "cv2", c, 5 * half, 1);
    norm(w.norm, fmt::format("{}stages.{}.1", kProjectorPrefix, i), c);
  }

  static std::string stage(int level, int tap) {
    return fmt::format("{}stages_sampling.{}.{}.0", kProjectorPrefix, level, tap);
  }

  /// Transposed 2x2 convolution of stride 2 [in, out, 2, 2]: four matrices, one an output pixel.
  void upsample(PackedMatrix* to, const std::string& key, int in, int out) {
    for (int cell = 0; cell < 4; ++cell) {
      to[cell] = make_matrix(net_.memory, out, in);
      bias(to[cell], key + ".bias", 0, out);
    }
    jobs_.push_back([this, to, key, in, out] {
      const Tensor w = source_.read(key + ".weight", {in, out, 2, 2});
      AlignedVector<float> row(in);
      for (int cell = 0; cell < 4; ++cell) {
        for (int o = 0; o < out; ++o) {
          for (int i = 0; i < in; ++i) row[i] = w.data[(int64_t{i} * out + o) * 4 + cell];
          pack_rows(row.data(), 1, to[cell], o);
        }
      }
    });
  }

  void box_mlp(BoxMlp& to, const std::string& key) {
    const int c = config_.dim;
    linear(to.layers[0], key + ".layers.0", c, c);
    linear(to.layers[1], key + ".layers.1", c, c);
    linear(to.layers[2], key + ".layers.2", 4, c);
  }

  void two_stage() {
    DecoderWeights& w = net_.decoder;
    const int c = config_.dim;
    linear(w.enc_output, kTransformerPrefix + "enc_output.0", c, c);
    norm(w.enc_norm, kTransformerPrefix + "enc_output_norm.0", c);
    linear(w.enc_class, kTransformerPrefix + "enc_out_class_embed.0", config_.logits, c);
    box_mlp(w.enc_box, kTransformerPrefix + "enc_out_bbox_embed.0");
    vector(w.reference_points, "refpoint_embed.weight", {config_.queries, 4});
    vector(w.content, "query_feat.weight", {config_.queries, c});
  }

  void decoder() {
    DecoderWeights& w = net_.decoder;
    const int c = config_.dim, layers = config_.dec_layers;
    const int samples = config_.ca_heads * static_cast<int>(config_.levels.size()) * config_.points;
    const std::string d = kTransformerPrefix + "decoder.";
    linear(w.position[0], d + "ref_point_head.layers.0", c, 2 * c);
    linear(w.position[1], d + "ref_point_head.layers.1", c, c);
    w.values = make_matrix(net_.memory, layers * c, c);
    w.layers.resize(layers);
    for (int i = 0; i < layers; ++i) {
      DecoderLayer& l = w.layers[i];
      const std::string b = fmt::format("{}layers.{}.", d, i);
      const std::string in = b + "self_attn.in_proj_weight", in_bias = b + "self_attn.in_proj_bias";
      l.query_key = make_matrix(net_.memory, 2 * c, c);
      l.value = make_matrix(net_.memory, c, c);
      jobs_.push_back([this, &l, in, in_bias, c] {
        const Tensor t = source_.read(in, {3 * c, c});
        pack_rows(t.data.data(), 2 * c, l.query_key, 0);
        pack_rows(t.data.data() + int64_t{2} * c * c, c, l.value, 0);
        const Tensor v = source_.read(in_bias, {3 * c});
        std::copy_n(v.data.begin(), 2 * c, l.query_key.bias);
        std::copy_n(v.data.begin() + 2 * c, c, l.value.bias);
      });
      linear(l.out_proj, b + "self_attn.out_proj", c, c);
      norm(l.norm1, b + "norm1", c);
      linears(l.sampling, {b + "cross_attn.sampling_offsets", b + "cross_attn.attention_weights"},
              {2 * samples, samples}, c);
      const std::string value = b + "cross_attn.value_proj";
      rows(w.values, i * c, value + ".weight", {c, c}, 0, c);
      bias(w.values, value + ".bias", i * c, c);
      linear(l.output_proj, b + "cross_attn.output_proj", c, c);
      norm(l.norm2, b + "norm2", c);
      linear(l.linear1, b + "linear1", config_.ffn_dim, c);
      linear(l.linear2, b + "linear2", c, config_.ffn_dim);
      norm(l.norm3, b + "norm3", c);
    }
    norm(w.norm, d + "norm", c);
    linear(w.classes, "class_embed", config_.logits, c);
    box_mlp(w.box, "bbox_embed");
  }

  void segmentation() {
    SegmentationWeights& w = net_.segmentation;
    const int c = config_.dim;
    const std::string& s = kSegmentationPrefix;
    w.blocks.resize(config_.dec_layers);
    for (int i = 0; i < config_.dec_layers; ++i) {
      SegmentationBlock& block = w.blocks[i];
      const std::string b = fmt::format("{}blocks.{}.", s, i);
      block.depthwise = net_.memory.take(int64_t{9} * c);
      jobs_.push_back([this, p = block.depthwise, b, c] {
        const Tensor t = source_.read(b + "dwconv.weight", {c, 1, 3, 3});
        for (int ch = 0; ch < c; ++ch) {
          for (int k = 0; k < 9; ++k) p[k * c + ch] = t.data[ch * 9 + k];
        }
      });
      vector(block.depthwise_bias, b + "dwconv.bias", {c});
      norm(block.norm, b + "norm", c);
      linear(block.pointwise, b + "pwconv1", c, c);
    }
    norm(w.query_norm, s + "query_features_block.norm_in", c);
    linear(w.query1, s + "query_features_block.layers.0", 4 * c, c);
    linear(w.query2, s + "query_features_block.layers.2", c, 4 * c);
    w.query_mask = make_matrix(net_.memory, c + 1, c);
    jobs_.push_back([this, &m = w.query_mask, c] {
      const MaskProjection folded = fold_mask_projections(source_, c);
      pack_rows(folded.weight.data.data(), c + 1, m, 0);
      std::copy(folded.bias.data.begin(), folded.bias.data.end(), m.bias);
    });
  }

  Network& net_;
  const ModelConfig& config_;
  const WeightSource& source_;
  std::vector<Job> jobs_;
};

/// The kernels work on whole vectors of channels.
void check_widths(const ModelConfig& c) {
  const auto need = [](const char* what, int value, int step) {
    if (value <= 0 || value % step != 0) {
      throw Error(ErrorCode::kModel,
                  fmt::format("the cpu backend needs {} to be a multiple of {}, this model has {}; "
                              "the reference backend takes any",
                              what, step, value));
    }
  };
  need("the encoder's width", c.enc_dim / 2, kPanel);
  need("the encoder's head width", c.enc_dim / c.enc_heads, 8);
  need("half the decoder's width", c.dim / 2, kPanel);
  need("the decoder's head width", c.dim / c.sa_heads, 8);
  need("the decoder's cross-attention head width", c.dim / c.ca_heads, kPanel);
  if (static_cast<int>(c.levels.size()) * c.points > 64) {
    throw Error(ErrorCode::kModel,
                fmt::format("the cpu backend takes up to 64 sampling points per head, this model "
                            "has {} levels of {}",
                            c.levels.size(), c.points));
  }
}

}  // namespace

Network::Network(const ModelConfig& c, const WeightSource& weights, ThreadTeam& team) : config(c) {
  check_config(config);
  check_widths(config);
  proposals = make_proposals(config);
  Loader(*this, weights).run(team);
}

}  // namespace rfseg::cpu
