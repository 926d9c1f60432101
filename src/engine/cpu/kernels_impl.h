// The inner loops, written once over Vec. Included by kernels_*.cpp, each compiled for another
// instruction set; everything but the table at the end lies in an unnamed namespace. No standard
// library header with inline functions is included: the linker could pick the copy compiled for
// AVX-512 for the whole program.
#pragma once

#include <cstdint>

#include "engine/cpu/kernels.h"
#include "engine/cpu/kernels_attention.h"
#include "engine/cpu/kernels_gemm.h"
#include "engine/cpu/vec.h"

namespace rfseg::cpu {
namespace {

constexpr int kWidth = Vec::kWidth;

inline Vec silu(Vec x) { return x / (set1(1.0f) + exp(set1(0.0f) - x)); }

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
