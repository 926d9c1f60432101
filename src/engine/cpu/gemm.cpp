#include "engine/cpu/gemm.h"

#include <cstring>

namespace rfseg::cpu {
namespace {

// Bytes of panels that go through all rows of a run before the next ones: they should stay in the
// second-level cache beside the rows.
constexpr int64_t kPanelBytes = 384 * 1024;

int panels_of(int n) { return (n + kPanel - 1) / kPanel; }

}  // namespace

PackedMatrix make_matrix(WeightMemory& memory, int n, int k) {
  PackedMatrix m{n, k, nullptr, nullptr};
  const int64_t panel = int64_t{k} * kPanel;
  m.panels = memory.take(panels_of(n) * panel);
  m.bias = memory.take(int64_t{panels_of(n)} * kPanel);
  std::memset(m.bias, 0, sizeof(float) * panels_of(n) * kPanel);
  if (n % kPanel != 0) {
    std::memset(m.panels + (panels_of(n) - 1) * panel, 0, sizeof(float) * panel);
  }
  return m;
}

void pack_rows(const float* from, int rows, PackedMatrix& to, int first) {
  const int k = to.k;
  for (int r = 0; r < rows;) {
    const int row = first + r, lane = row % kPanel;
    float* panel = to.panels + int64_t{row / kPanel} * k * kPanel + lane;
    const float* source = from + int64_t{r} * k;
    if (lane % 4 == 0 && rows - r >= 4) {
      // Four rows at a time: the stores of one column lie side by side.
      const float *a = source, *b = a + k, *c = b + k, *d = c + k;
      for (int i = 0; i < k; ++i) {
        float* out = panel + int64_t{i} * kPanel;
        out[0] = a[i];
        out[1] = b[i];
        out[2] = c[i];
        out[3] = d[i];
      }
      r += 4;
    } else {
      for (int i = 0; i < k; ++i) panel[int64_t{i} * kPanel] = source[i];
      ++r;
    }
  }
}

void pack_columns(const float* rows, int64_t ld, int pixels, int channels, float* panels) {
  const int64_t size = int64_t{channels + 1} * kPanel;
  for (int p = 0; p < pixels; p += 4) {
    const int count = std::min(4, pixels - p);
    const float* row[4];
    for (int i = 0; i < 4; ++i) row[i] = rows + (p + std::min(i, count - 1)) * ld;
    float* out = panels + p / kPanel * size + p % kPanel;
    for (int c = 0; c < channels; ++c, out += kPanel) {
      for (int i = 0; i < 4; ++i) out[i] = row[i][c];
    }
    for (int i = 0; i < 4; ++i) out[i] = 1.0f;
  }
}

void multiply_prepared(const Kernels& kernels, const Worker& worker, const PackedMatrix& w,
                       int rows, int taps, Epilogue epilogue, const float* scale,
                       bool has_residual) {
  const int tile = kernels.gemm_rows;
  const int64_t column_bytes = int64_t{w.k} * static_cast<int64_t>(sizeof(float));
  const int tiles =
      static_cast<int>(std::max<int64_t>(1, kPanelBytes / (column_bytes * kernels.gemm_columns)));
  const int step = tiles * kernels.gemm_columns;
  constexpr int kMaxTile = 8;
  float* out[kMaxTile];
  const float* residual[kMaxTile];
  for (int column = 0; column < w.n; column += step) {
    for (int row = 0; row < rows; row += tile) {
      GemmRows g;
      g.a = worker.inputs.data() + int64_t{row} * taps;
      g.taps = taps;
      g.depth = w.k / taps;
      g.b = w.panels + int64_t{column} * w.k;
      g.columns = std::min(step, w.n - column);
      // The panels behind these, a part with each tile: the matrices that follow each other in the
      // network follow each other in memory.
      g.ahead = g.b + int64_t{g.columns} * w.k + int64_t{row / tile} * tiles * w.k * kPanel;
      g.bias = w.bias + column;
      g.scale = scale ? scale + column : nullptr;
      g.rows = std::min(tile, rows - row);
      for (int i = 0; i < g.rows; ++i) {
        out[i] = worker.outputs[row + i] + column;
        if (has_residual) residual[i] = worker.residuals[row + i] + column;
      }
      g.out = out;
      g.residual = has_residual ? residual : nullptr;
      g.epilogue = epilogue;
      kernels.gemm(g);
    }
  }
}

void multiply(const Kernels& kernels, Worker& worker, const PackedMatrix& w, int rows, ConstRows in,
              Rows out, Epilogue epilogue, ConstRows residual, const float* scale) {
  multiply_rows(
      kernels, worker, w, rows, 1, epilogue, scale, [&](int row, int) { return in(row); }, out,
      residual);
}

void attend(const Execution& ex, float* qkv, int sequences, int tokens, int heads, int dim) {
  const int block = ex.kernels.attention_queries;
  const int blocks = (tokens + block - 1) / block;
  const int64_t width = int64_t{heads} * dim, ld = 3 * width;
  const auto scratch = static_cast<std::size_t>(ex.kernels.attention_scratch(dim));
  ex.team.run(sequences * heads * blocks, [&](int task, int worker) {
    AlignedVector<float>& memory = ex.workers[worker].attention;
    if (memory.size() < scratch) memory.resize(scratch);
    // Blocks of one head follow each other: its keys and values stay in the cache.
    const int first = task % blocks * block, head = task / blocks % heads;
    float* base = qkv + int64_t{task / blocks / heads} * tokens * ld + int64_t{head} * dim;
    AttentionBlock a;
    a.q = base + first * ld;
    a.k = base + width;
    a.v = base + 2 * width;
    a.ld = ld;
    a.queries = std::min(block, tokens - first);
    a.keys = tokens;
    a.dim = dim;
    a.out = base + first * ld;
    a.ld_out = ld;
    a.scratch = memory.data();
    ex.kernels.attention(a);
  });
}

}  // namespace rfseg::cpu
