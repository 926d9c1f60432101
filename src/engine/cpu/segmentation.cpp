#include <algorithm>

#include "engine/cpu/stages.h"

namespace rfseg::cpu {
namespace {

constexpr float kEps = 1e-6f;

/// The map of level 0 at mask resolution.
void upsample(const Pass& p, const float* map, float* out) {
  const ModelConfig& c = p.net.config;
  const Geometry& g = p.geometry;
  const int64_t dim = c.dim;
  const int rows = g.rows[0], cols = g.cols[0], width = c.mask_cols();
  p.ex.team.run(c.mask_rows(), [&](int y, int) {
    const float* upper = map + g.mask_low_y[y] * cols * dim;
    const float* lower = map + std::min(g.mask_low_y[y] + 1, rows - 1) * cols * dim;
    for (int x = 0; x < width; ++x) {
      const int64_t left = g.mask_low_x[x] * dim;
      const int64_t right = std::min(g.mask_low_x[x] + 1, cols - 1) * dim;
      p.ex.kernels.interpolate(upper + left, upper + right, lower + left, lower + right,
                               g.mask_part_x[x], g.mask_part_y[y], c.dim,
                               out + (int64_t{y} * width + x) * dim);
    }
  });
}

/// Depthwise convolution of a run of pixels to `out` [count, C]; four more rows are written over.
void depthwise(const Pass& p, const SegmentationBlock& w, const float* in, int first, int count,
               float* out) {
  const ModelConfig& c = p.net.config;
  const int64_t dim = c.dim;
  const int rows = c.mask_rows(), cols = c.mask_cols();
  for (int done = 0; done < count;) {
    const int y = (first + done) / cols, x = (first + done) % cols;
    const int run = std::min({4, count - done, cols - x});
    const float* pixels[18];
    for (int r = 0; r < 3; ++r) {
      for (int i = 0; i < 6; ++i) {
        const int yy = y + r - 1, xx = x + i - 1;
        const bool inside = yy >= 0 && yy < rows && xx >= 0 && xx < cols;
        pixels[r * 6 + i] = inside ? in + (int64_t{yy} * cols + xx) * dim : p.geometry.zeros.data();
      }
    }
    // Pixels past the end of the row or the run are overwritten by the next ones.
    float* to[4];
    for (int i = 0; i < 4; ++i) to[i] = out + (done + i) * dim;
    p.ex.kernels.depthwise4(pixels, w.depthwise, w.depthwise_bias, c.dim, to);
    done += run;
  }
}

/// One block of a run of pixels: `out(row)` = `in` + gelu(pointwise(norm(depthwise(in)))).
template <class Output>
void run_block(const Pass& p, Worker& worker, const SegmentationBlock& w, const float* in,
               int first, int count, float* scratch, Output&& out) {
  const int64_t dim = p.net.config.dim;
  const Kernels& k = p.ex.kernels;
  depthwise(p, w, in, first, count, scratch);
  k.layer_norm(scratch, dim, scratch, dim, count, p.net.config.dim, w.norm.weight, w.norm.bias,
               kEps, Activation::kNone);
  multiply_rows(
      k, worker, w.pointwise, count, 1, Epilogue::kGeluAdd, nullptr,
      [&](int row, int) { return scratch + row * dim; }, out, ConstRows{in + first * dim, dim});
}

}  // namespace

void segment(const Pass& p, const Heads& heads) {
  const ModelConfig& c = p.net.config;
  const std::vector<SegmentationBlock>& blocks = p.net.segmentation.blocks;
  const int64_t dim = c.dim;
  const int pixels = c.mask_rows() * c.mask_cols();
  for (int b = 0; b < p.batch; ++b) {
    float* from = p.buffers.spatial[0];
    float* to = p.buffers.spatial[1];
    upsample(p, p.buffers.maps + b * p.net.proposals.count * dim, from);
    for (std::size_t i = 0; i + 1 < blocks.size(); ++i) {
      for_rows(p.ex, pixels, [&](int first, int count, Worker& worker) {
        const auto [scratch] = carve(worker, {(count + 3) * dim});
        run_block(p, worker, blocks[i], from, first, count, scratch, Rows{to + first * dim, dim});
      });
      std::swap(from, to);
    }
    // The last block's pixels go straight into the product with the queries, as its columns.
    const float* queries = p.buffers.query_masks + int64_t{b} * c.queries * (dim + 1);
    float* masks = heads.masks + int64_t{b} * c.queries * pixels;
    constexpr int kPixels = 4 * kPanel;
    for_row_runs(p.ex, pixels, kPixels, 1, [&](int first, int count, Worker& worker) {
      const auto [scratch, features, panels, bias] =
          carve(worker, {(count + 3) * dim, count * dim, kPixels * (dim + 1), kPixels});
      run_block(p, worker, blocks.back(), from, first, count, scratch, Rows{features, dim});
      pack_columns(features, dim, count, c.dim, panels);
      std::fill_n(bias, kPixels, 0.0f);
      const PackedMatrix columns{count, c.dim + 1, panels, bias};
      multiply(p.ex.kernels, worker, columns, c.queries, {queries, dim + 1},
               {masks + first, pixels});
    });
  }
}

}  // namespace rfseg::cpu
