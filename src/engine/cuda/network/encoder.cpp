#include "engine/cuda/network/pass.h"

#include <fmt/format.h>

#include "engine/model_weights.h"

// Encoder: dinov2_with_windowed_attn.py of roboflow/rf-detr 1.4.1.

namespace rfseg::cuda {

void Pass::encode() {
  const int d = c_.enc_dim, cells = layout_.cells();
  hands_on_ =
      gemm_hands_on_norms({nullptr, false, lanes_.portable}, math_, batch_ * layout_.tokens(), d);
  embed_patches();
  const Shape shape{layout_.windows * layout_.windows, layout_.window_tokens(), d};
  trace("embed", shape, b_.x, PointType::kFloat);

  int tap = 0;
  for (int i = 0; i < c_.enc_layers; ++i) {
    // A tap is the state after that many blocks.
    const bool taps = attends_in_full(c_, i + 1);
    tap_ = taps && norms_sums(w_.encoder.blocks[i].fc2) ? at(b_.taps, int64_t{tap} * d) : nullptr;
    encoder_block(i);
    trace(fmt::format("block{}", i), shape, b_.x, PointType::kFloat);
    if (!taps) continue;
    NormArguments n;
    n.x = b_.x;
    n.ldx = d;
    n.m = batch_ * cells;
    n.n = d;
    n.gamma = w_.encoder.norm.gamma;
    n.beta = w_.encoder.norm.beta;
    n.eps = kEncoderEps;
    n.cells = layout_;
    n.ldo = static_cast<int64_t>(c_.taps.size()) * d;
    n.out = at(b_.taps, int64_t{tap} * d);
    if (tap_ == nullptr) norm_rows(main_.next(), math_, n);
    if (probe_) {
      n.out = b_.wide;  // free between blocks
      n.ldo = d;
      norm_rows(main_.next(), math_, n);
      trace(fmt::format("tap{}", tap), {c_.grid_rows(), c_.grid_cols(), d}, b_.wide,
            PointType::kElement);
    }
    ++tap;
  }
}

void Pass::embed_patches() {
  const Matrix& patch = w_.encoder.patch;
  const int d = c_.enc_dim;
  EmbedArguments e;
  e.pictures = b_.pictures;
  e.start = w_.encoder.start;
  e.patches = b_.patches;
  e.layout = layout_;
  e.batch = batch_;
  e.patch = c_.patch;
  e.width = d;
  // The first block's norm in the product, as the others'; gemm_norm() knows no residual that
  // begins anew with each picture, and CLS tokens are patches of zeros, which must not get the
  // patches' bias: for this width it is part of `start` (weights.h).
  if (norms_sums(patch) && batch_ == 1 && d == kStreamWidth) {
    e.ld = patch.k;
    embed(main_.next(), math_, e);
    GemmNormArguments n = stream_norm(product(b_.patches, patch.k, layout_.tokens(), patch));
    n.product.residual = w_.encoder.start;
    n.product.ldr = d;
    gemm_norm(main_.next(), math_, n);
    normed_ = true;
    return;
  }
  e.x = b_.x;
  e.ld = patch_columns(c_.patch);
  embed(main_.next(), math_, e);
  GemmArguments g = product(b_.patches, e.ld, batch_ * layout_.cells(), patch);
  g.k = e.ld;
  g.residual = w_.encoder.start;
  g.residual_period = layout_.tokens();
  g.ldr = d;
  g.out = b_.x;
  g.out_float = true;
  g.ldo = d;
  // Every window's cells come after its CLS token.
  g.out_group = layout_.window_tokens() - 1;
  g.out_skip = 1;
  g.out_first = 1;
  gemm(main_.next(), math_, g);
}

bool Pass::norms_sums(const Matrix& b) const {
  return gemm_norm_takes_stream({nullptr, false, lanes_.portable, lanes_.few_rows}, math_,
                                batch_ * layout_.tokens(), c_.enc_dim, b.k);
}

void Pass::normed_linear(const Matrix& b, void* out, Activation activation) {
  const int m = batch_ * layout_.tokens(), d = c_.enc_dim;
  GemmArguments g = product(b_.x, d, m, b);
  g.source = RowSource::kNormed;
  g.eps = kEncoderEps;
  if (handed_on_) {
    g.source = RowSource::kRows;
    g.a = b_.stream;
    g.norm_of = b_.shares;
    g.row_sums = b.row_sums;
  } else if (normed_) {
    g.source = RowSource::kRows;
    g.a = b_.rows;
  } else if (!gemm_prefers_normed({nullptr, false, lanes_.portable}, math_, m, b.n, d)) {
    NormArguments n;
    n.x = b_.x;
    n.ldx = d;
    n.m = m;
    n.n = d;
    n.eps = kEncoderEps;
    n.out = b_.rows;
    n.ldo = d;
    norm_rows(main_.next(), math_, n);
    g.source = RowSource::kRows;
    g.a = b_.rows;
  }
  g.activation = activation;
  g.out = out;
  g.ldo = b.n;
  g.from_end = other_end();
  gemm(main_.next(), math_, g);
}

void Pass::add_to_stream(const void* a, const Matrix& b, const float* scale, bool kept) {
  GemmArguments g = product(a, b.k, batch_ * layout_.tokens(), b);
  g.scale = scale;
  g.residual = b_.x;
  g.ldr = c_.enc_dim;
  if (norms_sums(b)) {
    GemmNormArguments n = stream_norm(g);
    if (b.k > c_.enc_dim) n.tap = tap_;  // the block's end
    n.ld_tap = static_cast<int64_t>(c_.taps.size()) * c_.enc_dim;
    n.tap_gamma = w_.encoder.norm.gamma;
    n.tap_beta = w_.encoder.norm.beta;
    n.tap_layout = layout_;
    gemm_norm(main_.next(), math_, n);
    normed_ = true;
    return;
  }
  normed_ = false;
  g.out = b_.x;
  g.out_float = true;
  g.ldo = c_.enc_dim;
  g.from_end = other_end();
  if (hands_on_) {
    g.halves = b_.stream;
    g.shares = b_.shares;
    handed_on_ = true;
    if (in_pairs_) {
      g.residual = nullptr;
      g.residual_halves = b_.stream;
      g.residual_rest = b_.rest;
    }
    in_pairs_ = !kept && !probe_;
    if (in_pairs_) {
      g.out = nullptr;
      g.rest = b_.rest;
    }
  }
  gemm(main_.next(), math_, g);
}

void Pass::encoder_block(int i) {
  const EncoderBlock& block = w_.encoder.blocks[i];
  const int d = c_.enc_dim, windows = layout_.windows * layout_.windows;
  normed_linear(block.qkv, b_.wide, Activation::kNone);
  AttentionArguments a;
  a.q = b_.wide;
  a.k = at(b_.wide, d);
  a.v = at(b_.wide, 2 * d);
  a.ldq = a.ldk = a.ldv = 3 * d;
  a.out = b_.rows;
  a.ldo = d;
  // In full attention the windows of a picture form one sequence, all their CLS tokens included.
  const bool full = attends_in_full(c_, i);
  a.sequences = full ? batch_ : batch_ * windows;
  a.length = full ? layout_.tokens() : layout_.window_tokens();
  a.heads = c_.enc_heads;
  a.head_dim = d / c_.enc_heads;
  a.scale = 0.125f;  // 1 / sqrt(64)
  a.from_end = other_end();
  attention(main_.next(), math_, a);
  add_to_stream(b_.rows, block.proj, block.scale1, false);
  normed_linear(block.fc1, b_.wide, Activation::kGelu);
  add_to_stream(b_.wide, block.fc2, block.scale2, attends_in_full(c_, i + 1));
}

}  // namespace rfseg::cuda
