#include "engine/cuda/network/pass.h"

#include <fmt/format.h>

#include <algorithm>

// Projector: models/backbone/projector.py of roboflow/rf-detr 1.4.1.

namespace rfseg::cuda {

void Pass::conv_norm(const ConvNorm& w, const GemmArguments& source, Activation activation,
                     void* out, int64_t ldo, float* out_float) {
  GemmNormArguments g = product_norm(source, kEncoderEps, w.norm);
  g.activation = activation;
  g.out = out;
  g.ldo = ldo;
  g.out_float = out_float;
  g.ldo_float = w.conv.n;
  gemm_norm(main_.next(), math_, g);
}
GemmArguments Pass::conv3x3(const void* map, int64_t lda, const MapSize& in, const MapSize& out,
                            int stride, int channels, const Matrix& b) const {
  GemmArguments g = product(map, lda, batch_ * static_cast<int>(out.cells()), b);
  g.source = RowSource::kConv3x3;
  g.map_rows = in.rows;
  g.map_cols = in.cols;
  g.out_rows = out.rows;
  g.out_cols = out.cols;
  g.stride = stride;
  g.channels = channels;
  return g;
}

int Pass::project(int level, int first) {
  const LevelWeights& w = w_.levels[level];
  const MapSize size = proposals_.levels[level];
  const int c = c_.dim, half = c / 2, cells = static_cast<int>(size.cells());
  const int m = batch_ * cells;
  const int64_t ld = 5 * half;
  const void* in = level_input(level);
  conv_norm(w.cv1, product(in, w.cv1.conv.k, m, w.cv1.conv), Activation::kSilu, b_.parts, ld);
  for (int i = 0; i < 3; ++i) {
    const ConvNorm &one = w.middle[2 * i], &two = w.middle[2 * i + 1];
    conv_norm(one, conv3x3(at(b_.parts, int64_t{1 + i} * half), ld, size, size, 1, half, one.conv),
              Activation::kSilu, b_.middle, half);
    conv_norm(two, conv3x3(b_.middle, half, size, size, 1, half, two.conv), Activation::kSilu,
              at(b_.parts, int64_t{2 + i} * half), ld);
  }
  const bool alone = c_.levels.size() == 1;  // its rows are those of `memory`
  {
    GemmNormArguments g =
        product_norm(product(b_.parts, ld, m, w.cv2.conv), kEncoderEps, w.cv2.norm);
    g.activation = Activation::kSilu;
    g.out_float = b_.projected;
    g.ldo_float = c;
    if (alone) {
      g.out = b_.memory;
      g.ldo = c;
      g.then_gamma = w.norm.gamma;
      g.then_beta = w.norm.beta;
    }
    gemm_norm(main_.next(), math_, g);
  }
  NormArguments n;
  n.x = b_.projected;
  n.ldx = c;
  n.m = m;
  n.n = c;
  n.gamma = w.norm.gamma;
  n.beta = w.norm.beta;
  n.eps = kEncoderEps;
  n.out = b_.memory;
  n.ldo = c;
  n.out_group = cells;
  n.out_skip = total_ - cells;
  n.out_first = first;
  if (!alone) norm_rows(main_.next(), math_, n);
  if (probe_) {
    if (!alone) {
      n.out = b_.parts;
      n.out_group = n.out_first = 0;
      norm_rows(main_.next(), math_, n);
    }
    trace(fmt::format("memory{}", level), {size.rows, size.cols, c}, alone ? b_.memory : b_.parts,
          PointType::kElement);
  }
  return cells;
}

const void* Pass::level_input(int level) {
  if (c_.levels[level] == Level::kP4) return b_.taps;
  const LevelWeights& w = w_.levels[level];
  const MapSize grid{c_.grid_rows(), c_.grid_cols()}, size = proposals_.levels[level];
  const int d = c_.enc_dim, taps = static_cast<int>(c_.taps.size());
  const int64_t ld = int64_t{taps} * d;
  for (int tap = 0; tap < taps; ++tap) {
    if (c_.levels[level] == Level::kP3) {
      GemmArguments g = product(at(b_.taps, int64_t{tap} * d), ld,
                                batch_ * static_cast<int>(grid.cells()), w.upsample[tap]);
      g.out = b_.spread;
      g.ldo = 2 * d;
      gemm(main_.next(), math_, g);
      SpreadArguments s;
      s.x = b_.spread;
      s.out = at(b_.level_in, int64_t{tap} * (d / 2));
      s.ldo = ld / 2;
      s.batch = batch_;
      s.rows = grid.rows;
      s.cols = grid.cols;
      s.channels = d / 2;
      spread_2x2(main_.next(), math_, s);
    } else {
      const ConvNorm& conv = w.downsample[tap];
      conv_norm(conv, conv3x3(at(b_.taps, int64_t{tap} * d), ld, grid, size, 2, d, conv.conv),
                Activation::kRelu, at(b_.level_in, int64_t{tap} * d), ld);
    }
  }
  return b_.level_in;
}

}  // namespace rfseg::cuda
