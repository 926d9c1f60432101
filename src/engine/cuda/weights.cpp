#include "engine/cuda/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>

#include "core/half.h"
#include "core/log.h"
#include "engine/cpu/thread_team.h"
#include "engine/cuda/small/query_layer.h"
#include "engine/cuda/small/small_kernels.h"
#include "engine/mask_projection.h"
#include "engine/model_weights.h"
#include "engine/position.h"
#include "engine/weight_cache.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

/// Lists what is to be read and where it goes, then reads it with all threads into an image of the
/// device memory, and uploads that.
class Loader {
 public:
  Loader(Weights& weights, const ModelConfig& config, const WeightSource& source,
         const Proposals& proposals, Math math)
      : w_(weights),
        config_(config),
        source_(source),
        proposals_(proposals),
        half_(math == Math::kFp16) {}

  void run(int threads, const std::string& cache) {
    encoder();
    w_.levels.resize(config_.levels.size());
    for (std::size_t i = 0; i < w_.levels.size(); ++i) level(static_cast<int>(i));
    two_stage();
    decoder();
    if (config_.seg) segmentation();

    w_.memory.reserve(size_);
    for (const auto& set : slots_) set(w_.memory.data());
    image_.resize(size_);
    fill(threads, cache);
    upload(w_.memory.data(), image_.data(), size_, "uploading the weights");
  }

 private:
  /// Everything that decides the image's bytes.
  std::string key(const std::string& fingerprint) const {
    // To be raised when the same weights are laid out or folded in another way.
    constexpr int kLayout = 3;
    const ModelConfig& c = config_;
    std::string levels;
    for (const Level level : c.levels) levels += std::to_string(static_cast<int>(level));
    for (const int tap : c.taps) levels += fmt::format(" {}", tap);
    return fmt::format(
        "layout {}, {}, {}, {} bytes in {} pieces; {}x{} patch {} grid {} windows {} encoder {} {} "
        "{} decoder {} {} {} {} {} {} {} levels {} masks {} classes {}",
        kLayout, half_ ? "fp16" : "fp32", fingerprint, size_, slots_.size(), c.height, c.width,
        c.patch, c.pos_grid, c.windows, c.enc_dim, c.enc_heads, c.enc_layers, c.dec_layers,
        c.queries, c.dim, c.sa_heads, c.ca_heads, c.points, c.ffn_dim, levels, c.seg, c.logits);
  }

  /// The image, from the cache where there is one.
  void fill(int threads, const std::string& cache) {
    const std::string fingerprint = cache.empty() ? std::string() : source_.fingerprint();
    const std::string name = fingerprint.empty() ? fingerprint : key(fingerprint);
    const std::string path = name.empty() ? name : weight_cache_path(cache, name);
    if (!path.empty()) {
      std::string why;
      if (read_weight_cache(path, name, image_, &why)) {
        log_debug(fmt::format("{}: weights as packed before", path));
        return;
      }
      if (!why.empty()) log_info(fmt::format("{}: {}; it is made anew", path, why));
      std::fill(image_.begin(), image_.end(), std::byte{0});
    }
    cpu::ThreadTeam team(threads);
    team.run(static_cast<int>(jobs_.size()), [&](int job, int) { jobs_[job](); });
    if (path.empty()) return;
    try {
      write_weight_cache(path, name, image_);
    } catch (const Error& error) {
      log_warning(fmt::format("{}; the next start packs the weights again", error.what()));
    }
  }

  template <class T>
  std::size_t place(const T*& slot, std::size_t bytes) {
    const std::size_t offset = size_;
    size_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    slots_.push_back([&slot, offset](const std::byte* base) {
      slot = reinterpret_cast<const T*>(base + offset);
    });
    return offset;
  }

  float* floats_at(std::size_t offset) { return reinterpret_cast<float*>(&image_[offset]); }

  /// Writes elements from index `at` on of the matrix at `offset`.
  void put(std::size_t offset, int64_t at, const float* from, int64_t count,
           const std::string& name) {
    if (!half_) {
      std::copy_n(from, count, floats_at(offset) + at);
      return;
    }
    uint16_t* to = reinterpret_cast<uint16_t*>(&image_[offset]) + at;
    for (int64_t i = 0; i < count; ++i) {
      if (std::abs(from[i]) >= 65520.0f) {
        throw Error(ErrorCode::kModel,
                    fmt::format("{}: tensor {} holds {:g}, beyond the range of fp16; "
                                "--precision fp32 takes it",
                                source_.origin(), name, from[i]));
      }
      to[i] = float_to_half(from[i]);
    }
  }

  // Offsets of a matrix's parts in the image.
  struct Place {
    std::size_t data, bias;
    int k;  ///< rounded up
  };
  Place matrix(Matrix& to, int n, int k, bool bias = true) {
    to.n = n;
    to.k = (k + 7) / 8 * 8;
    Place p;
    p.k = to.k;
    p.data = place(to.data, static_cast<std::size_t>(n) * to.k * (half_ ? 2 : 4));
    p.bias = bias ? place(to.bias, sizeof(float) * static_cast<std::size_t>(n)) : 0;
    return p;
  }

  void put_rows(const Place& p, int first, int rows, int k, const float* from,
                const std::string& name) {
    for (int r = 0; r < rows; ++r) {
      put(p.data, int64_t{first + r} * p.k, from + int64_t{r} * k, k, name);
    }
  }
  void put_bias(const Place& p, int first, const Tensor& bias) {
    std::copy(bias.data.begin(), bias.data.end(), floats_at(p.bias) + first);
  }

  void vector(const float*& to, const std::string& name, const Shape& shape) {
    const std::size_t at =
        place(to, sizeof(float) * static_cast<std::size_t>(element_count(shape)));
    jobs_.push_back([this, at, name, shape] {
      const Tensor t = source_.read(name, shape);
      std::copy(t.data.begin(), t.data.end(), floats_at(at));
    });
  }

  void norm(Norm& to, const std::string& key, int n) {
    vector(to.gamma, key + ".weight", {n});
    vector(to.beta, key + ".bias", {n});
  }

  /// Linear layers of the same input, one below the other, `n` rows each.
  void linears(Matrix& to, const std::vector<std::string>& keys, const std::vector<int>& n, int k) {
    int total = 0;
    for (int rows : n) total += rows;
    const Place p = matrix(to, total, k);
    int at = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      jobs_.push_back([this, p, at, key = keys[i], rows = n[i], k] {
        put_rows(p, at, rows, k, source_.read(key + ".weight", {rows, k}).data.data(),
                 key + ".weight");
        put_bias(p, at, source_.read(key + ".bias", {rows}));
      });
      at += n[i];
    }
  }
  void linear(Matrix& to, const std::string& key, int n, int k) { linears(to, {key}, {n}, k); }

  /// As linears, of LayerNorm(x) * gamma + beta: the affine goes into weights and bias, in fp32.
  void normed_linears(Matrix& to, const std::vector<std::string>& keys, int rows, int k,
                      const std::string& norm_key) {
    const Place p = matrix(to, rows * static_cast<int>(keys.size()), k);
    const std::size_t sums = place(to.row_sums, sizeof(float) * static_cast<std::size_t>(to.n));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const int at = rows * static_cast<int>(i);
      jobs_.push_back([this, p, sums, at, key = keys[i], rows, k, norm_key] {
        Tensor weight = source_.read(key + ".weight", {rows, k});
        Tensor bias = source_.read(key + ".bias", {rows});
        const Tensor gamma = source_.read(norm_key + ".weight", {k});
        const Tensor beta = source_.read(norm_key + ".bias", {k});
        for (int r = 0; r < rows; ++r) {
          float* row = weight.data.data() + int64_t{r} * k;
          double shift = bias.data[r], sum = 0;
          for (int c = 0; c < k; ++c) {
            shift += static_cast<double>(row[c]) * beta.data[c];
            row[c] *= gamma.data[c];
            sum += half_ ? half_to_float(float_to_half(row[c])) : row[c];
          }
          bias.data[r] = static_cast<float>(shift);
          floats_at(sums)[at + r] = static_cast<float>(sum);
        }
        put_rows(p, at, rows, k, weight.data.data(), key + ".weight");
        put_bias(p, at, bias);
      });
    }
  }

  void conv_norm(ConvNorm& to, const std::string& key, int out, int in, int side) {
    const int cells = side * side;
    const Place p = matrix(to.conv, out, in * cells, false);
    jobs_.push_back([this, p, key, out, in, side, cells] {
      const std::string name = key + ".conv.weight";
      const Tensor t = source_.read(name, {out, in, side, side});
      std::vector<float> row(static_cast<std::size_t>(in) * cells);
      for (int o = 0; o < out; ++o) {
        const float* from = t.data.data() + int64_t{o} * in * cells;
        for (int c = 0; c < in; ++c) {
          for (int cell = 0; cell < cells; ++cell) row[cell * in + c] = from[c * cells + cell];
        }
        put(p.data, int64_t{o} * p.k, row.data(), int64_t{in} * cells, name);
      }
    });
    norm(to.norm, key + ".bn", out);
  }

  void encoder() {
    EncoderWeights& e = w_.encoder;
    const int d = config_.enc_dim, side = config_.patch;
    const std::string patch = kEncoderPrefix + "embeddings.patch_embeddings.projection";
    // Where gemm_norm() may begin the stream, whose rows are CLS tokens, too, the bias is part of
    // what is added to the others.
    const bool folded = d == kStreamWidth;
    const Place p = matrix(e.patch, d, stream_columns(side), !folded);
    jobs_.push_back([this, p, patch, d, side, folded] {
      const Tensor t = source_.read(patch + ".weight", {d, 3, side, side});
      put_rows(p, 0, d, 3 * side * side, t.data.data(), patch + ".weight");
      if (!folded) put_bias(p, 0, source_.read(patch + ".bias", {d}));
    });
    const TokenLayout layout{config_.windows, config_.grid_rows() / config_.windows,
                             config_.grid_cols() / config_.windows};
    const std::size_t start =
        place(e.start, sizeof(float) * static_cast<std::size_t>(layout.tokens()) * d);
    jobs_.push_back([this, start, layout, d, patch, folded] {
      const PositionTable table = load_position_table(config_, source_);
      std::vector<float> bias(static_cast<std::size_t>(d), 0.0f);
      if (folded) {
        const Tensor t = source_.read(patch + ".bias", {d});
        bias.assign(t.data.begin(), t.data.end());
      }
      float* to = floats_at(start);
      for (int w = 0; w < layout.windows * layout.windows; ++w) {
        std::copy_n(table.cls.data.data(), d, to + int64_t{w} * layout.window_tokens() * d);
      }
      for (int cell = 0; cell < layout.cells(); ++cell) {
        const float* position = table.patches.data.data() + int64_t{cell} * d;
        std::transform(position, position + d, bias.begin(),
                       to + int64_t{layout.token_of(cell)} * d, std::plus<float>());
      }
    });
    e.blocks.resize(config_.enc_layers);
    for (int i = 0; i < config_.enc_layers; ++i) {
      EncoderBlock& block = e.blocks[i];
      const std::string b = fmt::format("{}encoder.layer.{}.", kEncoderPrefix, i);
      const std::string qkv = b + "attention.attention.";
      normed_linears(block.qkv, {qkv + "query", qkv + "key", qkv + "value"}, d, d, b + "norm1");
      linear(block.proj, b + "attention.output.dense", d, d);
      vector(block.scale1, b + "layer_scale1.lambda1", {d});
      normed_linears(block.fc1, {b + "mlp.fc1"}, 4 * d, d, b + "norm2");
      linear(block.fc2, b + "mlp.fc2", d, 4 * d);
      vector(block.scale2, b + "layer_scale2.lambda1", {d});
    }
    norm(e.norm, kEncoderPrefix + "layernorm", d);
  }

  void level(int i) {
    const int d = config_.enc_dim, c = config_.dim, half = c / 2;
    const int taps = static_cast<int>(config_.taps.size());
    LevelWeights& w = w_.levels[i];
    const auto stage = [i](int tap) {
      return fmt::format("{}stages_sampling.{}.{}.0", kProjectorPrefix, i, tap);
    };
    int in = taps * d;
    if (config_.levels[i] == Level::kP3) {
      in = taps * (d / 2);
      w.upsample.resize(taps);
      for (int j = 0; j < taps; ++j) upsample(w.upsample[j], stage(j), d, d / 2);
    }
    if (config_.levels[i] == Level::kP5) {
      w.downsample.resize(taps);
      for (int j = 0; j < taps; ++j) conv_norm(w.downsample[j], stage(j), d, d, 3);
    }
    const std::string b = fmt::format("{}stages.{}.0.", kProjectorPrefix, i);
    conv_norm(w.cv1, b + "cv1", c, in, 1);
    for (int m = 0; m < 6; ++m) {
      conv_norm(w.middle[m], fmt::format("{}m.{}.cv{}", b, m / 2, m % 2 + 1), half, half, 3);
    }
    conv_norm(w.cv2, b + "cv2", c, 5 * half, 1);
    norm(w.norm, fmt::format("{}stages.{}.1", kProjectorPrefix, i), c);
  }

  /// Transposed 2x2 convolution of stride 2, [in, out, 2, 2].
  void upsample(Matrix& to, const std::string& key, int in, int out) {
    const Place p = matrix(to, 4 * out, in);
    jobs_.push_back([this, p, key, in, out] {
      const Tensor t = source_.read(key + ".weight", {in, out, 2, 2});
      const Tensor bias = source_.read(key + ".bias", {out});
      std::vector<float> row(in);
      for (int cell = 0; cell < 4; ++cell) {
        for (int o = 0; o < out; ++o) {
          for (int i = 0; i < in; ++i) row[i] = t.data[(int64_t{i} * out + o) * 4 + cell];
          put(p.data, int64_t{cell * out + o} * p.k, row.data(), in, key + ".weight");
        }
        put_bias(p, cell * out, bias);
      }
    });
  }

  void mlp(Mlp3& to, const std::string& key) {
    const int c = config_.dim;
    linear(to.layers[0], key + ".layers.0", c, c);
    linear(to.layers[1], key + ".layers.1", c, c);
    linear(to.layers[2], key + ".layers.2", 4, c);
  }

  void two_stage() {
    DecoderWeights& w = w_.decoder;
    const int c = config_.dim;
    const std::size_t boxes =
        place(w.proposals, sizeof(float) * static_cast<std::size_t>(proposals_.boxes.size()));
    jobs_.push_back([this, boxes] {
      std::copy(proposals_.boxes.data.begin(), proposals_.boxes.data.end(), floats_at(boxes));
    });
    if (!proposals_.all_valid) {
      const std::size_t valid = place(w.valid, proposals_.valid.size());
      jobs_.push_back([this, valid] {
        std::memcpy(&image_[valid], proposals_.valid.data(), proposals_.valid.size());
      });
    }
    linear(w.enc_output, kTransformerPrefix + "enc_output.0", c, c);
    norm(w.enc_norm, kTransformerPrefix + "enc_output_norm.0", c);
    linear(w.enc_class, kTransformerPrefix + "enc_out_class_embed.0", config_.logits, c);
    mlp(w.enc_box, kTransformerPrefix + "enc_out_bbox_embed.0");
    vector(w.reference_points, "refpoint_embed.weight", {config_.queries, 4});
    vector(w.content, "query_feat.weight", {config_.queries, c});
  }

  void decoder() {
    DecoderWeights& w = w_.decoder;
    const int c = config_.dim, layers = config_.dec_layers;
    const int samples = config_.ca_heads * static_cast<int>(config_.levels.size()) * config_.points;
    const std::string d = kTransformerPrefix + "decoder.";
    linear(w.position[0], d + "ref_point_head.layers.0", c, 2 * c);
    linear(w.position[1], d + "ref_point_head.layers.1", c, c);
    w.layers.resize(layers);
    std::vector<std::string> values;
    for (int i = 0; i < layers; ++i) {
      DecoderLayer& l = w.layers[i];
      const std::string b = fmt::format("{}layers.{}.", d, i);
      const Place p = matrix(l.in_proj, 3 * c, c);
      jobs_.push_back([this, p, b, c] {
        const std::string name = b + "self_attn.in_proj_weight";
        put_rows(p, 0, 3 * c, c, source_.read(name, {3 * c, c}).data.data(), name);
        put_bias(p, 0, source_.read(b + "self_attn.in_proj_bias", {3 * c}));
      });
      linear(l.out_proj, b + "self_attn.out_proj", c, c);
      norm(l.norm1, b + "norm1", c);
      linears(l.sampling, {b + "cross_attn.sampling_offsets", b + "cross_attn.attention_weights"},
              {2 * samples, samples}, c);
      values.push_back(b + "cross_attn.value_proj");
      linear(l.output_proj, b + "cross_attn.output_proj", c, c);
      norm(l.norm2, b + "norm2", c);
      linear(l.linear1, b + "linear1", config_.ffn_dim, c);
      linear(l.linear2, b + "linear2", c, config_.ffn_dim);
      norm(l.norm3, b + "norm3", c);
    }
    linears(w.values, values, std::vector<int>(static_cast<std::size_t>(layers), c), c);
    norm(w.norm, d + "norm", c);
    linear(w.classes, "class_embed", config_.logits, c);
    mlp(w.box, "bbox_embed");
  }

  void segmentation() {
    SegmentationWeights& w = w_.segmentation;
    const int c = config_.dim;
    const std::string& s = kSegmentationPrefix;
    w.blocks.resize(config_.dec_layers);
    for (int i = 0; i < config_.dec_layers; ++i) {
      SegmentationBlock& block = w.blocks[i];
      const std::string b = fmt::format("{}blocks.{}.", s, i);
      const std::size_t at =
          place(block.depthwise, sizeof(float) * static_cast<std::size_t>(9 * c));
      jobs_.push_back([this, at, b, c] {
        const Tensor t = source_.read(b + "dwconv.weight", {c, 1, 3, 3});
        for (int ch = 0; ch < c; ++ch) {
          for (int k = 0; k < 9; ++k) floats_at(at)[k * c + ch] = t.data[ch * 9 + k];
        }
      });
      vector(block.depthwise_bias, b + "dwconv.bias", {c});
      normed_linears(block.pointwise, {b + "pwconv1"}, c, c, b + "norm");
    }
    norm(w.query_norm, s + "query_features_block.norm_in", c);
    linear(w.query1, s + "query_features_block.layers.0", 4 * c, c);
    linear(w.query2, s + "query_features_block.layers.2", c, 4 * c);
    const Place mask = matrix(w.query_mask, c, c), constant = matrix(w.query_constant, 1, c);
    jobs_.push_back([this, mask, constant, c] {
      const MaskProjection folded = fold_mask_projections(source_, c);
      const std::string name = kSegmentationPrefix + "query_features_proj.weight";
      const float* weight = folded.weight.data.data();
      const float* bias = folded.bias.data.data();
      put_rows(mask, 0, c, c, weight, name);
      put_rows(constant, 0, 1, c, weight + int64_t{c} * c, name);
      std::copy_n(bias, c, floats_at(mask.bias));
      *floats_at(constant.bias) = bias[c];
    });
    if (half_ && c == kMaskTailSlices * kMaskTailOwn) query_tail();
  }

  void query_tail() {
    const int c = config_.dim, hidden = 4 * c, k = kMaskTailHidden + kMaskTailOwn;
    const Place p = matrix(w_.segmentation.query_tail, kMaskTailSlices * kMaskTailRows, k);
    jobs_.push_back([this, p, c, hidden, k] {
      const MaskProjection folded = fold_mask_projections(source_, c);
      const std::string name = kSegmentationPrefix + "query_features_block.layers.2";
      const Tensor weight = source_.read(name + ".weight", {c, hidden});
      const Tensor bias = source_.read(name + ".bias", {c});
      std::vector<double> sums(static_cast<std::size_t>(hidden));
      std::vector<float> row(sums.size());
      for (int n = 0; n <= c; ++n) {
        const float* factors = folded.weight.data.data() + int64_t{n} * c;
        double shift = folded.bias.data[n];
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int j = 0; j < c; ++j) {
          const double factor = factors[j];
          const float* from = weight.data.data() + int64_t{j} * hidden;
          for (int i = 0; i < hidden; ++i) sums[i] += factor * from[i];
          shift += factor * bias.data[j];
        }
        std::copy(sums.begin(), sums.end(), row.begin());
        floats_at(p.bias)[n] = static_cast<float>(shift);
        for (int slice = 0; slice < kMaskTailSlices; ++slice) {
          const int64_t at = (int64_t{slice} * kMaskTailRows + n) * k;
          put(p.data, at, row.data() + slice * kMaskTailHidden, kMaskTailHidden, name);
          put(p.data, at + kMaskTailHidden, factors + slice * kMaskTailOwn, kMaskTailOwn, name);
        }
      }
    });
  }

  Weights& w_;
  const ModelConfig& config_;
  const WeightSource& source_;
  const Proposals& proposals_;
  bool half_;
  std::size_t size_ = 0;
  std::vector<std::function<void(const std::byte*)>> slots_;
  std::vector<std::function<void()>> jobs_;
  std::vector<std::byte> image_;
};

}  // namespace

Weights::Weights(const ModelConfig& config, const WeightSource& source, const Proposals& proposals,
                 Math math, int threads, const std::string& cache) {
  Loader(*this, config, source, proposals, math).run(threads, cache);
}

}  // namespace rfseg::cuda
