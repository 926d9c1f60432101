#include <fmt/format.h>

#include <algorithm>

#include "engine/model_weights.h"
#include "engine/reference/gemm.h"
#include "engine/reference/network.h"
#include "engine/reference/ops.h"

// DINOv2 with windowed attention: dinov2_with_windowed_attn.py of roboflow/rf-detr 1.4.1.

namespace rfseg::reference {
namespace {

constexpr float kNormEps = 1e-6f;

/// Patches of the picture [cells, 3 * patch * patch], columns in the order (channel, y, x).
Tensor cut_patches(const ModelConfig& config, const float* image) {
  const int64_t rows = config.grid_rows(), cols = config.grid_cols(), patch = config.patch;
  Tensor patches({rows * cols, 3 * patch * patch});
  float* out = patches.data.data();
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < cols; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t ky = 0; ky < patch; ++ky) {
          const float* in = image + (c * config.height + y * patch + ky) * config.width + x * patch;
          out = std::copy_n(in, patch, out);
        }
      }
    }
  }
  return patches;
}

/// Calls visit(token, cell) for every patch: its token index in [windows^2 * T], where every window
/// starts with a CLS token, and its cell index in the grid.
template <class Visit>
void for_each_patch(const ModelConfig& config, Visit visit) {
  const int64_t windows = config.windows;
  const int64_t rows = config.grid_rows() / windows, cols = config.grid_cols() / windows;
  int64_t token = 0;
  for (int64_t wy = 0; wy < windows; ++wy) {
    for (int64_t wx = 0; wx < windows; ++wx) {
      ++token;  // CLS
      for (int64_t y = 0; y < rows; ++y) {
        for (int64_t x = 0; x < cols; ++x) {
          visit(token++, (wy * rows + y) * config.grid_cols() + wx * cols + x);
        }
      }
    }
  }
}

Tensor embed(Context& context, const float* image) {
  const ModelConfig& config = context.config;
  const int64_t width = config.enc_dim, windows = config.windows;
  const std::string key = kEncoderPrefix + "embeddings.patch_embeddings.projection";
  Tensor weight = context.weight(key + ".weight");
  weight.shape = {width, weight.size() / width};
  Tensor cells =
      linear(cut_patches(config, image), weight, context.weight(key + ".bias"), context.threads);
  add(cells, context.weights.position().patches);

  const int64_t tokens = (config.grid_rows() / windows) * (config.grid_cols() / windows) + 1;
  Tensor x({windows * windows, tokens, width});
  for (int64_t w = 0; w < windows * windows; ++w) {
    std::copy_n(context.weights.position().cls.data.data(), width,
                x.data.data() + w * tokens * width);
  }
  for_each_patch(config, [&](int64_t token, int64_t cell) {
    std::copy_n(cells.data.data() + cell * width, width, x.data.data() + token * width);
  });
  return x;
}

/// x += scale * y, `scale` per channel.
void add_scaled(Tensor& x, const Tensor& scale, const Tensor& y) {
  const int64_t width = scale.size();
  for (int64_t i = 0; i < x.size(); i += width) {
    for (int64_t c = 0; c < width; ++c) x.data[i + c] += scale.data[c] * y.data[i + c];
  }
}

void run_block(Context& context, int block, Tensor& x) {
  const ModelConfig& config = context.config;
  const std::string b = fmt::format("{}encoder.layer.{}.", kEncoderPrefix, block);
  const int64_t width = config.enc_dim;

  Tensor y = context.norm(x, b + "norm1", kNormEps);
  const Tensor q = context.linear(y, b + "attention.attention.query");
  const Tensor k = context.linear(y, b + "attention.attention.key");
  const Tensor v = context.linear(y, b + "attention.attention.value");
  // In full attention the windows of the picture form one sequence, all their CLS tokens included.
  const int64_t sequences = attends_in_full(config, block) ? 1 : x.dim(0);
  const int64_t tokens = x.dim(0) * x.dim(1) / sequences;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t start = s * tokens * width;
    attention(q.data.data() + start, k.data.data() + start, v.data.data() + start, tokens, tokens,
              width, config.enc_heads, y.data.data() + start, context.threads);
  }
  add_scaled(x, context.weight(b + "layer_scale1.lambda1"),
             context.linear(y, b + "attention.output.dense"));

  Tensor hidden = context.linear(context.norm(x, b + "norm2", kNormEps), b + "mlp.fc1");
  gelu(hidden);
  add_scaled(x, context.weight(b + "layer_scale2.lambda1"), context.linear(hidden, b + "mlp.fc2"));
}

}  // namespace

std::vector<Tensor> encode(Context& context, const float* image) {
  const ModelConfig& config = context.config;
  const int64_t width = config.enc_dim;
  Tensor x = embed(context, image);
  context.trace.keep("embed", x);
  std::vector<Tensor> taps;
  for (int block = 0; block < config.enc_layers; ++block) {
    run_block(context, block, x);
    context.trace.keep(fmt::format("block{}", block), x);
    // A tap is the state after that many blocks.
    if (!attends_in_full(config, block + 1)) continue;
    const Tensor normed = context.norm(x, kEncoderPrefix + "layernorm", kNormEps);
    Tensor tap({config.grid_rows(), config.grid_cols(), width});
    for_each_patch(config, [&](int64_t token, int64_t cell) {
      std::copy_n(normed.data.data() + token * width, width, tap.data.data() + cell * width);
    });
    context.trace.keep(fmt::format("tap{}", taps.size()), tap);
    taps.push_back(std::move(tap));
  }
  return taps;
}

}  // namespace rfseg::reference
