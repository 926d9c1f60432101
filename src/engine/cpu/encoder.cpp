#include <algorithm>
#include <cstring>

#include "engine/cpu/stages.h"
#include "engine/model_weights.h"

namespace rfseg::cpu {
namespace {

constexpr float kEps = 1e-6f;

/// Attention's inputs of block `block` for a run of tokens.
void project_qkv(const Pass& p, Worker& worker, int block, int first, int count, float* scratch) {
  const EncoderBlock& w = p.net.encoder.blocks[block];
  const int64_t d = p.net.config.enc_dim;
  const Kernels& k = p.ex.kernels;
  k.layer_norm(p.buffers.tokens + first * d, d, scratch, d, count, static_cast<int>(d),
               w.norm1.weight, w.norm1.bias, kEps, Activation::kNone);
  multiply(k, worker, w.qkv, count, {scratch, d}, {p.buffers.qkv + first * 3 * d, 3 * d});
}

/// Patches (and class tokens) of all pictures, and the first block's q, k, v.
void embed(const Pass& p, const float* images) {
  const ModelConfig& c = p.net.config;
  const EncoderWeights& w = p.net.encoder;
  const Geometry& geometry = p.geometry;
  const int64_t d = c.enc_dim, plane = int64_t{c.height} * c.width;
  const int side = c.patch, grid_cols = c.grid_cols();
  for_rows(p.ex, p.batch * geometry.tokens, [&](int first, int count, Worker& worker) {
    const auto cell = [&](int row) {
      return geometry.cell_of_token[(first + row) % geometry.tokens];
    };
    // A patch's row of pixels is contiguous in the picture: one tap of `side` floats per channel
    // and row. Class tokens run on zeros and are set afterwards.
    const auto pixels = [&](int row, int tap) -> const float* {
      const int at = cell(row);
      if (at < 0) return geometry.zeros.data();
      const float* image = images + (first + row) / geometry.tokens * 3 * plane;
      return image + tap / side * plane + (int64_t{at / grid_cols} * side + tap % side) * c.width +
             at % grid_cols * side;
    };
    const auto position = [&](int row) {
      return w.position.patches.data.data() + std::max(cell(row), 0) * d;
    };
    float* tokens = p.buffers.tokens + first * d;
    multiply_rows(p.ex.kernels, worker, w.patch, count, 3 * side, Epilogue::kAdd, nullptr, pixels,
                  Rows{tokens, d}, position);
    for (int r = 0; r < count; ++r) {
      if (cell(r) < 0) std::memcpy(tokens + r * d, w.position.cls.data.data(), sizeof(float) * d);
    }
    const auto [normed] = carve(worker, {count * d});
    project_qkv(p, worker, 0, first, count, normed);
  });
}

/// Everything of a block after its attention, and what follows before the next one.
void finish_block(const Pass& p, int block) {
  const ModelConfig& c = p.net.config;
  const EncoderBlock& w = p.net.encoder.blocks[block];
  const Geometry& geometry = p.geometry;
  const Kernels& k = p.ex.kernels;
  const int64_t d = c.enc_dim;
  const int width = c.enc_dim;
  const auto tap = std::find(c.taps.begin(), c.taps.end(), block + 1);
  float* tap_out = tap == c.taps.end() ? nullptr : p.buffers.taps[tap - c.taps.begin()];
  const int64_t cells = int64_t{c.grid_rows()} * c.grid_cols();
  for_rows(p.ex, p.batch * geometry.tokens, [&](int first, int count, Worker& worker) {
    float* x = p.buffers.tokens + first * d;
    // An odd number of cache lines between rows: rows must not meet in the same sets of the cache.
    const int64_t hidden_ld = 4 * d + 16;
    const auto [normed, hidden] = carve(worker, {count * d, count * hidden_ld});
    multiply(k, worker, w.proj, count, {p.buffers.qkv + first * 3 * d, 3 * d}, {x, d},
             Epilogue::kScaleAdd, {x, d}, w.scale1);
    k.layer_norm(x, d, normed, d, count, width, w.norm2.weight, w.norm2.bias, kEps,
                 Activation::kNone);
    multiply(k, worker, w.fc1, count, {normed, d}, {hidden, hidden_ld}, Epilogue::kGelu);
    multiply(k, worker, w.fc2, count, {hidden, hidden_ld}, {x, d}, Epilogue::kScaleAdd, {x, d},
             w.scale2);
    if (tap_out) {
      for (int r = 0; r < count; ++r) {
        const int cell = geometry.cell_of_token[(first + r) % geometry.tokens];
        if (cell < 0) continue;
        float* out = tap_out + ((first + r) / geometry.tokens * cells + cell) * d;
        k.layer_norm(x + r * d, d, out, d, 1, width, p.net.encoder.norm.weight,
                     p.net.encoder.norm.bias, kEps, Activation::kNone);
      }
    }
    if (block + 1 < c.enc_layers) project_qkv(p, worker, block + 1, first, count, normed);
  });
}

}  // namespace

void encode(const Pass& p, const float* images) {
  const ModelConfig& c = p.net.config;
  const int windows = c.windows * c.windows;
  embed(p, images);
  for (int block = 0; block < c.enc_layers; ++block) {
    const bool full = attends_in_full(c, block);
    attend(p.ex, p.buffers.qkv, full ? p.batch : p.batch * windows,
           full ? p.geometry.tokens : p.geometry.window_tokens, c.enc_heads,
           c.enc_dim / c.enc_heads);
    finish_block(p, block);
  }
}

}  // namespace rfseg::cpu
