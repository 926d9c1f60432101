// The inner loops, written once over Vec. Included by kernels_*.cpp, each compiled for another
// instruction set; everything but the table at the end lies in an unnamed namespace. No standard
// library header with inline functions is included: the linker could pick the copy compiled for
// AVX-512 for the whole program.
#pragma once

#include <cstdint>

#include "engine/cpu/kernels.h"
#include "engine/cpu/vec.h"

namespace rfseg::cpu {
namespace {

constexpr int kWidth = Vec::kWidth;
constexpr int kPanelVecs = kPanel / kWidth;

#if defined(__AVX512F__)
constexpr int kRows = 6, kPanels = 4;  // 24 sums, 4 weights, 1 input of 32 registers
constexpr int kAttentionRows = 8, kAttentionVecs = 3;
#elif defined(__AVX2__)
constexpr int kRows = 6, kPanels = 1;  // 12 sums, 2 weights, 1 input of 16
constexpr int kAttentionRows = 4, kAttentionVecs = 3;
#else
constexpr int kRows = 2, kPanels = 1;  // 8 sums, 4 weights, 1 input of 16
constexpr int kAttentionRows = 4, kAttentionVecs = 2;
#endif
constexpr int kQueries = kAttentionVecs * kWidth;
constexpr int kKeyBlock = 352;

/// x * (1 + erf(x / sqrt 2)) / 2. erf is a minimax polynomial of degree 15 in x^2, within 2.2e-7,
/// exact to rounding beyond |x| = 5.4.
inline Vec gelu(Vec x) {
  const Vec c = max(min(x, set1(5.4f)), set1(-5.4f));
  const Vec t = fma(c * c, set1(2.0f / (5.4f * 5.4f)), set1(-1.0f));
  Vec p = set1(-0.000334166077664122f);
  p = fma(p, t, set1(0.000918987556360662f));
  p = fma(p, t, set1(-0.0008704207139089704f));
  p = fma(p, t, set1(0.00131683936342597f));
  p = fma(p, t, set1(-0.004052095115184784f));
  p = fma(p, t, set1(0.00786731019616127f));
  p = fma(p, t, set1(-0.012224432080984116f));
  p = fma(p, t, set1(0.018959082663059235f));
  p = fma(p, t, set1(-0.028388798236846924f));
  p = fma(p, t, set1(0.03939948230981827f));
  p = fma(p, t, set1(-0.05140243470668793f));
  p = fma(p, t, set1(0.06421682238578796f));
  p = fma(p, t, set1(-0.07842139899730682f));
  p = fma(p, t, set1(0.09700009226799011f));
  p = fma(p, t, set1(-0.1306559145450592f));
  p = fma(p, t, set1(0.26185622811317444f));
  const Vec half = x * set1(0.5f);
  return fma(half, p * c, half);
}

inline Vec silu(Vec x) { return x / (set1(1.0f) + exp(set1(0.0f) - x)); }

template <Epilogue kEpilogue>
inline Vec finish(Vec y, Vec residual, Vec scale) {
  switch (kEpilogue) {
    case Epilogue::kBias:
      return y;
    case Epilogue::kRelu:
      return max(y, set1(0.0f));
    case Epilogue::kGelu:
      return gelu(y);
    case Epilogue::kAdd:
      return residual + y;
    case Epilogue::kScaleAdd:
      return fma(scale, y, residual);
    case Epilogue::kGeluAdd:
      return residual + gelu(y);
  }
  return y;
}

/// Stores the sums of a tile, [kRows][kVecs], whose columns all exist. Rows are unrolled where the
/// epilogue is short, so that the sums stay in registers.
template <Epilogue kEpilogue, int kVecs, class Sums>
inline void store_tile(const GemmRows& g, int column, const Sums& sums) {
  constexpr bool kResidual = kEpilogue == Epilogue::kAdd || kEpilogue == Epilogue::kScaleAdd ||
                             kEpilogue == Epilogue::kGeluAdd;
  constexpr bool kLong = kEpilogue == Epilogue::kGelu || kEpilogue == Epilogue::kGeluAdd;
  // Copies: the compiler must assume that a store to `out` changes `g`.
  const float* const bias = g.bias + column;
  const float* const scales = kEpilogue == Epilogue::kScaleAdd ? g.scale + column : nullptr;
  const int rows = g.rows;
  const auto row = [&](int i, const Vec* from) {
    float* const out = g.out[i] + column;
    const float* const residuals = kResidual ? g.residual[i] + column : nullptr;
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      const int at = j * kWidth;
      const Vec residual = kResidual ? load(residuals + at) : set1(0.0f);
      const Vec scale = kEpilogue == Epilogue::kScaleAdd ? load(scales + at) : set1(0.0f);
      store(out + at, finish<kEpilogue>(from[j] + load(bias + at), residual, scale));
    }
  };
  if constexpr (kLong) {
    Vec done[kRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) done[i][j] = sums[i][j];
    }
#pragma GCC unroll 1
    for (int i = 0; i < rows; ++i) row(i, done[i]);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      if (i < rows) row(i, sums[i]);
    }
  }
}

template <int kVecs, class Sums>
inline void store_any_tile(const GemmRows& g, int column, const Sums& sums) {
  switch (g.epilogue) {
    case Epilogue::kBias:
      return store_tile<Epilogue::kBias, kVecs>(g, column, sums);
    case Epilogue::kRelu:
      return store_tile<Epilogue::kRelu, kVecs>(g, column, sums);
    case Epilogue::kGelu:
      return store_tile<Epilogue::kGelu, kVecs>(g, column, sums);
    case Epilogue::kAdd:
      return store_tile<Epilogue::kAdd, kVecs>(g, column, sums);
    case Epilogue::kScaleAdd:
      return store_tile<Epilogue::kScaleAdd, kVecs>(g, column, sums);
    case Epilogue::kGeluAdd:
      return store_tile<Epilogue::kGeluAdd, kVecs>(g, column, sums);
  }
}

/// The same for a tile that sticks out of the matrix: through whole padded rows on the stack.
template <int kVecs, class Sums>
void store_partial_tile(const GemmRows& g, int column, const Sums& sums) {
  constexpr int kColumns = kVecs * kWidth;
  alignas(64) float done[kRows][kColumns], residual[kRows][kColumns], scale[kColumns];
  const int count = g.columns - column;
  const float* residual_rows[kRows];
  float* done_rows[kRows];
  for (int i = 0; i < g.rows; ++i) {
    for (int c = 0; c < kColumns; ++c) {
      residual[i][c] = g.residual && c < count ? g.residual[i][column + c] : 0.0f;
    }
    residual_rows[i] = residual[i];
    done_rows[i] = done[i];
  }
  for (int c = 0; c < kColumns; ++c) scale[c] = g.scale && c < count ? g.scale[column + c] : 0.0f;
  GemmRows part = g;
  part.bias = g.bias + column;
  part.scale = scale;
  part.residual = residual_rows;
  part.out = done_rows;
  store_any_tile<kVecs>(part, 0, sums);
  for (int i = 0; i < g.rows; ++i) {
    for (int c = 0; c < count; ++c) g.out[i][column + c] = done[i][c];
  }
}

/// One register tile: kRows rows by kTilePanels panels.
template <int kTilePanels>
inline void gemm_tile(const GemmRows& g, int column) {
  constexpr int kVecs = kTilePanels * kPanelVecs;
  const int64_t panel_stride = static_cast<int64_t>(g.taps) * g.depth * kPanel;
  const float* b = g.b + column / kPanel * panel_stride;
  Vec sums[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) sums[i][j] = set1(0.0f);
  }
  const float* ahead = g.ahead + column / (kPanels * kPanel) * panel_stride;
  for (int t = 0; t < g.taps; ++t) {
    const float* a[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) a[i] = g.a[t * kRows + i];
    for (int k = 0; k < g.depth; ++k) {
      Vec w[kVecs];
#pragma GCC unroll 4
      for (int p = 0; p < kTilePanels; ++p) {
#pragma GCC unroll 4
        for (int j = 0; j < kPanelVecs; ++j) {
          w[p * kPanelVecs + j] = load(b + p * panel_stride + j * kWidth);
        }
        prefetch(b + p * panel_stride + 8 * kPanel);
      }
      b += kPanel;
      prefetch_far(ahead);
      ahead += kPanel;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Vec x = set1(a[i][k]);
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) sums[i][j] = fma(x, w[j], sums[i][j]);
      }
    }
  }
  if (g.columns - column >= kTilePanels * kPanel) {
    store_any_tile<kVecs>(g, column, sums);
  } else {
    Vec done[kRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) done[i][j] = sums[i][j];
    }
    store_partial_tile<kVecs>(g, column, done);
  }
}

void gemm(const GemmRows& g) {
  int column = 0;
  for (; column + (kPanels - 1) * kPanel < g.columns; column += kPanels * kPanel) {
    gemm_tile<kPanels>(g, column);
  }
  if constexpr (kPanels > 1) {
    const int left = (g.columns - column + kPanel - 1) / kPanel;
    if (left == 3) gemm_tile<3>(g, column);
    if (left == 2) gemm_tile<2>(g, column);
    if (left == 1) gemm_tile<1>(g, column);
  }
}

/// to[column * ld + row] = scale * rows[row][column] of a 4 x 4 block.
inline void transpose4(const float* a, const float* b, const float* c, const float* d, float scale,
                       float* to, int64_t ld) {
#if defined(__AVX2__)
  const __m128 s = _mm_set1_ps(scale);
  __m128 r0 = _mm_mul_ps(_mm_loadu_ps(a), s), r1 = _mm_mul_ps(_mm_loadu_ps(b), s);
  __m128 r2 = _mm_mul_ps(_mm_loadu_ps(c), s), r3 = _mm_mul_ps(_mm_loadu_ps(d), s);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_storeu_ps(to, r0);
  _mm_storeu_ps(to + ld, r1);
  _mm_storeu_ps(to + 2 * ld, r2);
  _mm_storeu_ps(to + 3 * ld, r3);
#else
  for (int i = 0; i < 4; ++i) {
    to[i * ld] = a[i] * scale;
    to[i * ld + 1] = b[i] * scale;
    to[i * ld + 2] = c[i] * scale;
    to[i * ld + 3] = d[i] * scale;
  }
#endif
}

int64_t attention_scratch(int dim) {
  return static_cast<int64_t>(2 * dim + kKeyBlock + kAttentionRows + 4) * kQueries;
}

/// Scores of one block of keys, [keys][kVecs vectors], and their running maximum.
template <int kVecs>
inline void score_keys(const AttentionBlock& g, const float* qt, int first, int keys, float* scores,
                       Vec* top) {
  constexpr int kStride = kVecs * kWidth;
  for (int key = 0; key < keys; key += kAttentionRows) {
    const float* k[kAttentionRows];
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
      const int row = key + i < keys ? key + i : keys - 1;  // a repeated row leaves the maximum
      k[i] = g.k + static_cast<int64_t>(first + row) * g.ld;
    }
    Vec s[kAttentionRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) s[i][j] = set1(0.0f);
    }
    const float* q = qt;
    for (int d = 0; d < g.dim; ++d, q += kStride) {
      Vec w[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) w[j] = load(q + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kAttentionRows; ++i) {
        const Vec x = set1(k[i][d]);
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) s[i][j] = fma(x, w[j], s[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        store(scores + (key + i) * kStride + j * kWidth, s[i][j]);
        top[j] = max(top[j], s[i][j]);
      }
    }
  }
}

/// out [dim][vectors] = keep * out + values^T * weights over one block of keys.
template <int kVecs>
inline void add_values(const AttentionBlock& g, int first, int keys, const float* weights,
                       const Vec* keep, float* out) {
  constexpr int kStride = kVecs * kWidth;
  for (int d = 0; d < g.dim; d += kAttentionRows) {
    Vec o[kAttentionRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        o[i][j] = load(out + (d + i) * kStride + j * kWidth) * keep[j];
      }
    }
    const float* v = g.v + first * g.ld + d;
    const float* p = weights;
    for (int key = 0; key < keys; ++key, v += g.ld, p += kStride) {
      Vec w[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) w[j] = load(p + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kAttentionRows; ++i) {
        const Vec x = set1(v[i]);
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) o[i][j] = fma(x, w[j], o[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) store(out + (d + i) * kStride + j * kWidth, o[i][j]);
    }
  }
}

template <int kVecs>
void attention_block(const AttentionBlock& g) {
  constexpr int kStride = kVecs * kWidth;
  float* qt = g.scratch;                  // [dim][kStride], scaled
  float* out = qt + g.dim * kStride;      // [dim][kStride]
  float* scores = out + g.dim * kStride;  // [keys of a block][kStride]
  // exp(x) = 2^(x * log2 e): the factor goes into the queries with 1 / sqrt(dim).
  const float scale = 1.44269504088896f / __builtin_sqrtf(static_cast<float>(g.dim));
  for (int i = 0; i < kStride; i += 4) {
    const float* q[4];
    for (int r = 0; r < 4; ++r) q[r] = g.q + (i + r < g.queries ? i + r : g.queries - 1) * g.ld;
    for (int d = 0; d < g.dim; d += 4) {
      transpose4(q[0] + d, q[1] + d, q[2] + d, q[3] + d, scale, qt + d * kStride + i, kStride);
    }
  }
  for (int i = 0; i < g.dim * kStride; ++i) out[i] = 0.0f;
  Vec top[kVecs], total[kVecs];
  for (int j = 0; j < kVecs; ++j) {
    top[j] = set1(-1e30f);
    total[j] = set1(0.0f);
  }
  const int blocks = (g.keys + kKeyBlock - 1) / kKeyBlock;
  for (int b = 0; b < blocks; ++b) {
    const int first = static_cast<int>(static_cast<int64_t>(g.keys) * b / blocks);
    const int keys = static_cast<int>(static_cast<int64_t>(g.keys) * (b + 1) / blocks) - first;
    Vec newtop[kVecs], keep[kVecs];
    for (int j = 0; j < kVecs; ++j) newtop[j] = top[j];
    score_keys<kVecs>(g, qt, first, keys, scores, newtop);
    for (int j = 0; j < kVecs; ++j) {
      keep[j] = exp2(top[j] - newtop[j]);
      top[j] = newtop[j];
      total[j] = total[j] * keep[j];
    }
    for (int key = 0; key < keys; ++key) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        float* at = scores + key * kStride + j * kWidth;
        const Vec p = exp2(load(at) - top[j]);
        total[j] = total[j] + p;
        store(at, p);
      }
    }
    add_values<kVecs>(g, first, keys, scores, keep, out);
  }
  for (int j = 0; j < kVecs; ++j) {
    const Vec inverse = set1(1.0f) / total[j];
    for (int d = 0; d < g.dim; ++d) {
      float* at = out + d * kStride + j * kWidth;
      store(at, load(at) * inverse);
    }
  }
  int i = 0;
  for (; i + 4 <= g.queries; i += 4) {
    for (int d = 0; d < g.dim; d += 4) {
      const float* o = out + d * kStride + i;
      transpose4(o, o + kStride, o + 2 * kStride, o + 3 * kStride, 1.0f, g.out + i * g.ld_out + d,
                 g.ld_out);
    }
  }
  for (; i < g.queries; ++i) {
    for (int d = 0; d < g.dim; ++d) g.out[i * g.ld_out + d] = out[d * kStride + i];
  }
}

void attention(const AttentionBlock& g) {
  if (g.queries > 2 * kWidth && kAttentionVecs > 2) {
    attention_block<kAttentionVecs>(g);
  } else if (g.queries > kWidth) {
    attention_block<2>(g);
  } else {
    attention_block<1>(g);
  }
}

void layer_norm(const float* x, int64_t ld_x, float* y, int64_t ld_y, int rows, int n,
                const float* weight, const float* bias, float eps, Activation activation) {
  const float inverse = 1.0f / static_cast<float>(n);
  for (int r = 0; r < rows; ++r, x += ld_x, y += ld_y) {
    Vec s0 = set1(0.0f), s1 = set1(0.0f);
    int i = 0;
    for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
      s0 = s0 + load(x + i);
      s1 = s1 + load(x + i + kWidth);
    }
    for (; i < n; i += kWidth) s0 = s0 + load(x + i);
    const float mean = sum(s0 + s1) * inverse;
    const Vec m = set1(mean);
    s0 = s1 = set1(0.0f);
    for (i = 0; i + 2 * kWidth <= n; i += 2 * kWidth) {
      const Vec d0 = load(x + i) - m, d1 = load(x + i + kWidth) - m;
      s0 = fma(d0, d0, s0);
      s1 = fma(d1, d1, s1);
    }
    for (; i < n; i += kWidth) {
      const Vec d0 = load(x + i) - m;
      s0 = fma(d0, d0, s0);
    }
    const Vec rstd = set1(1.0f / __builtin_sqrtf(sum(s0 + s1) * inverse + eps));
    for (i = 0; i < n; i += kWidth) {
      Vec v = fma((load(x + i) - m) * rstd, load(weight + i), load(bias + i));
      if (activation == Activation::kSilu) v = silu(v);
      if (activation == Activation::kRelu) v = max(v, set1(0.0f));
      store(y + i, v);
    }
  }
}

void depthwise4(const float* const* x, const float* weight, const float* bias, int n,
                float* const* out) {
  for (int c = 0; c < n; c += kWidth) {
    Vec s[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) s[p] = load(bias + c);
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) {
      Vec in[6];
#pragma GCC unroll 6
      for (int p = 0; p < 6; ++p) in[p] = load(x[r * 6 + p] + c);
#pragma GCC unroll 3
      for (int t = 0; t < 3; ++t) {
        const Vec w = load(weight + (r * 3 + t) * n + c);
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) s[p] = fma(in[p + t], w, s[p]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) store(out[p] + c, s[p]);
  }
}

void interpolate(const float* a, const float* b, const float* c, const float* d, float fx, float fy,
                 int n, float* out) {
  const Vec wx = set1(fx), ux = set1(1.0f - fx), wy = set1(fy), uy = set1(1.0f - fy);
  for (int i = 0; i < n; i += kWidth) {
    const Vec upper = fma(wx, load(b + i), ux * load(a + i));
    const Vec lower = fma(wx, load(d + i), ux * load(c + i));
    store(out + i, fma(wy, lower, uy * upper));
  }
}

void deformable(const DeformableQuery& g) {
  const int samples = g.levels * g.points;
  const float* offset = g.projected;
  const float* score = g.projected + 2 * g.heads * samples;
  const float half_step = 0.5f / static_cast<float>(g.points);
  for (int h = 0; h < g.heads; ++h, offset += 2 * samples, score += samples) {
    float top = score[0];
    for (int s = 1; s < samples; ++s) top = score[s] > top ? score[s] : top;
    float weights[64];
    float total = 0.0f;
    for (int s = 0; s < samples; ++s) {
      weights[s] = __builtin_expf(score[s] - top);
      total += weights[s];
    }
    float* out = g.out + h * g.head_dim;
    for (int c = 0; c < g.head_dim; c += kWidth) store(out + c, set1(0.0f));
    for (int s = 0; s < samples; ++s) {
      const int level = s / g.points;
      const int rows = g.rows[level], cols = g.cols[level];
      float px =
          (g.reference[0] + offset[2 * s] * g.reference[2] * half_step) * static_cast<float>(cols) -
          0.5f;
      float py = (g.reference[1] + offset[2 * s + 1] * g.reference[3] * half_step) *
                     static_cast<float>(rows) -
                 0.5f;
      // Locations are unbounded: out of the map by two cells is as good as anywhere beyond.
      px = px > -2.0f ? (px < static_cast<float>(cols + 1) ? px : static_cast<float>(cols + 1))
                      : -2.0f;
      py = py > -2.0f ? (py < static_cast<float>(rows + 1) ? py : static_cast<float>(rows + 1))
                      : -2.0f;
      const float left = __builtin_floorf(px), upper = __builtin_floorf(py);
      const int x0 = static_cast<int>(left), y0 = static_cast<int>(upper);
      const float fx = px - left, fy = py - upper, weight = weights[s] / total;
      for (int dy = 0; dy < 2; ++dy) {
        for (int dx = 0; dx < 2; ++dx) {
          const int x = x0 + dx, y = y0 + dy;
          if (x < 0 || x >= cols || y < 0 || y >= rows) continue;
          const Vec w = set1(weight * ((dx ? fx : 1.0f - fx) * (dy ? fy : 1.0f - fy)));
          const float* value = g.values +
                               (g.first_cell[level] + static_cast<int64_t>(y) * cols + x) * g.ld +
                               h * g.head_dim;
          for (int c = 0; c < g.head_dim; c += kWidth) {
            store(out + c, fma(w, load(value + c), load(out + c)));
          }
        }
      }
    }
  }
}

void add(const float* a, const float* b, int n, float* out) {
  for (int i = 0; i < n; i += kWidth) store(out + i, load(a + i) + load(b + i));
}

constexpr Kernels make_table(const char* name) {
  return {name,      kRows,      kPanels * kPanel, kQueries,    attention_scratch, gemm,
          attention, layer_norm, depthwise4,       interpolate, deformable,        add};
}

}  // namespace
}  // namespace rfseg::cpu
