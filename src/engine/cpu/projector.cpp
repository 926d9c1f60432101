#include <algorithm>

#include "engine/cpu/stages.h"

namespace rfseg::cpu {
namespace {

constexpr float kEps = 1e-6f;

/// One level's map of all pictures: where the stages of the projector work.
struct LevelPass {
  const Pass& p;
  int level;
  int rows, cols;
  int64_t cells() const { return int64_t{rows} * cols; }
  int all() const { return static_cast<int>(p.batch * cells()); }
};

/// 3x3 convolution, LayerNorm, activation. `in` and `out` are channels-last maps of all pictures
/// with `ld_in` and `ld_out` floats between cells; `in_rows` x `in_cols` is the input's size.
void conv3x3(const LevelPass& l, const ConvNorm& w, const float* in, int64_t ld_in, int in_rows,
             int in_cols, int stride, float* out, int64_t ld_out, Activation activation) {
  const Kernels& k = l.p.ex.kernels;
  const int64_t in_cells = int64_t{in_rows} * in_cols;
  for_rows(l.p.ex, l.all(), [&](int first, int count, Worker& worker) {
    const auto input = [&](int row, int tap) -> const float* {
      const int64_t at = first + row, cell = at % l.cells();
      const int y = static_cast<int>(cell / l.cols) * stride + tap / 3 - 1;
      const int x = static_cast<int>(cell % l.cols) * stride + tap % 3 - 1;
      if (y < 0 || y >= in_rows || x < 0 || x >= in_cols) return l.p.geometry.zeros.data();
      return in + (at / l.cells() * in_cells + int64_t{y} * in_cols + x) * ld_in;
    };
    float* to = out + first * ld_out;
    multiply_rows(k, worker, w.conv, count, 9, Epilogue::kBias, nullptr, input, Rows{to, ld_out},
                  ConstRows{nullptr, 0});
    k.layer_norm(to, ld_out, to, ld_out, count, w.conv.n, w.norm.weight, w.norm.bias, kEps,
                 activation);
  });
}

/// P3: each tap through its transposed 2x2 convolution, side by side in level_input.
void upsample_taps(const LevelPass& l, const LevelWeights& w) {
  const ModelConfig& c = l.p.net.config;
  const int64_t d = c.enc_dim, half = d / 2;
  const int taps = static_cast<int>(c.taps.size());
  const int in_cols = c.grid_cols();
  const int64_t in_cells = int64_t{c.grid_rows()} * in_cols;
  float* to = l.p.buffers.level_input[l.level];
  for_rows(
      l.p.ex, static_cast<int>(l.p.batch * in_cells), [&](int first, int count, Worker& worker) {
        for (int m = 0; m < 4 * taps; ++m) {
          const float* from = l.p.buffers.taps[m / 4] + first * d;
          const auto output = [&](int row) {
            const int64_t at = first + row, cell = at % in_cells;
            const int64_t y = cell / in_cols * 2 + m % 4 / 2, x = cell % in_cols * 2 + m % 2;
            return to + ((at / in_cells * l.rows + y) * l.cols + x) * taps * half + m / 4 * half;
          };
          multiply_rows(
              l.p.ex.kernels, worker, w.upsample[m], count, 1, Epilogue::kBias, nullptr,
              [&](int row, int) { return from + row * d; }, output, ConstRows{nullptr, 0});
        }
      });
}

/// The last convolution of a level, and all that depends on one cell alone: values of every decoder
/// layer and the score of the cell's best class.
void finish_level(const LevelPass& l, const LevelWeights& w) {
  const Pass& p = l.p;
  const ModelConfig& c = p.net.config;
  const DecoderWeights& decoder = p.net.decoder;
  const Kernels& k = p.ex.kernels;
  const int64_t dim = c.dim, in_ld = 5 * (dim / 2), value_ld = dim * c.dec_layers;
  const int64_t total = p.net.proposals.count, start = p.geometry.first_cell[l.level];
  const int64_t class_ld = (c.logits + kPanel - 1) / kPanel * kPanel;
  for_rows(p.ex, l.all(), [&](int first, int count, Worker& worker) {
    // Row of a cell among the cells of all levels and pictures.
    const auto cell = [&](int row) {
      const int64_t at = first + row;
      return at / l.cells() * total + start + at % l.cells();
    };
    const auto map = [&](int row) { return p.buffers.maps + cell(row) * dim; };
    const auto none = ConstRows{nullptr, 0};
    const float* parts = p.buffers.parts + first * in_ld;
    multiply_rows(
        k, worker, w.cv2.conv, count, 1, Epilogue::kBias, nullptr,
        [&](int row, int) { return parts + row * in_ld; }, map, none);
    for (int r = 0; r < count; ++r) {
      k.layer_norm(map(r), dim, map(r), dim, 1, c.dim, w.cv2.norm.weight, w.cv2.norm.bias, kEps,
                   Activation::kSilu);
      k.layer_norm(map(r), dim, map(r), dim, 1, c.dim, w.norm.weight, w.norm.bias, kEps,
                   Activation::kNone);
    }
    multiply_rows(
        k, worker, decoder.values, count, 1, Epilogue::kBias, nullptr,
        [&](int row, int) { return map(row); },
        [&](int row) { return p.buffers.values + cell(row) * value_ld; }, none);

    const auto [encoded, classes] = carve(worker, {count * dim, count * class_ld});
    const auto masked = [&](int row, int) -> const float* {
      return p.net.proposals.valid[cell(row) % total] ? map(row) : p.geometry.zeros.data();
    };
    multiply_rows(k, worker, decoder.enc_output, count, 1, Epilogue::kBias, nullptr, masked,
                  Rows{encoded, dim}, none);
    k.layer_norm(encoded, dim, encoded, dim, count, c.dim, decoder.enc_norm.weight,
                 decoder.enc_norm.bias, 1e-5f, Activation::kNone);
    multiply(k, worker, decoder.enc_class, count, {encoded, dim}, {classes, class_ld});
    for (int r = 0; r < count; ++r) {
      const float* row = classes + r * class_ld;
      p.buffers.scores[cell(r)] = *std::max_element(row, row + c.logits);
    }
  });
}

}  // namespace

void project(const Pass& p) {
  const ModelConfig& c = p.net.config;
  const int64_t half = c.dim / 2, ld = 5 * half, d = c.enc_dim;
  const int taps = static_cast<int>(c.taps.size());
  for (int i = 0; i < static_cast<int>(c.levels.size()); ++i) {
    const LevelWeights& w = p.net.levels[i];
    const LevelPass l{p, i, p.geometry.rows[i], p.geometry.cols[i]};
    const int64_t input_ld = w.cv1.conv.k;
    if (c.levels[i] == Level::kP3) upsample_taps(l, w);
    if (c.levels[i] == Level::kP5) {
      for (int j = 0; j < taps; ++j) {
        conv3x3(l, w.downsample[j], p.buffers.taps[j], d, c.grid_rows(), c.grid_cols(), 2,
                p.buffers.level_input[i] + j * d, input_ld, Activation::kRelu);
      }
    }
    float* parts = p.buffers.parts;
    for_rows(p.ex, l.all(), [&](int first, int count, Worker& worker) {
      // P4 takes the taps where they are; the others were gathered side by side.
      const bool direct = c.levels[i] == Level::kP4;
      const auto input = [&](int row, int tap) -> const float* {
        return direct ? p.buffers.taps[tap] + (first + row) * d
                      : p.buffers.level_input[i] + (first + row) * input_ld;
      };
      float* to = parts + first * ld;
      multiply_rows(p.ex.kernels, worker, w.cv1.conv, count, direct ? taps : 1, Epilogue::kBias,
                    nullptr, input, Rows{to, ld}, ConstRows{nullptr, 0});
      p.ex.kernels.layer_norm(to, ld, to, ld, count, c.dim, w.cv1.norm.weight, w.cv1.norm.bias,
                              kEps, Activation::kSilu);
    });
    for (int m = 0; m < 3; ++m) {
      conv3x3(l, w.middle[2 * m], parts + (m + 1) * half, ld, l.rows, l.cols, 1, p.buffers.middle,
              half, Activation::kSilu);
      conv3x3(l, w.middle[2 * m + 1], p.buffers.middle, half, l.rows, l.cols, 1,
              parts + (m + 2) * half, ld, Activation::kSilu);
    }
    finish_level(l, w);
  }
}

}  // namespace rfseg::cpu
