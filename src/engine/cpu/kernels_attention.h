// Attention of the inner loops; see kernels_impl.h.
#pragma once

#include <cstdint>

#include "engine/cpu/kernels.h"
#include "engine/cpu/vec.h"

namespace rfseg::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kAttentionRows = 8, kAttentionVecs = 3;
#elif defined(__AVX2__)
constexpr int kAttentionRows = 4, kAttentionVecs = 3;
#else
constexpr int kAttentionRows = 4, kAttentionVecs = 2;
#endif
constexpr int kQueries = kAttentionVecs * Vec::kWidth;
constexpr int kKeyBlock = 352;

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
  constexpr int kStride = kVecs * Vec::kWidth;
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
      for (int j = 0; j < kVecs; ++j) w[j] = load(q + j * Vec::kWidth);
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
        store(scores + (key + i) * kStride + j * Vec::kWidth, s[i][j]);
        top[j] = max(top[j], s[i][j]);
      }
    }
  }
}

/// out [dim][vectors] = keep * out + values^T * weights over one block of keys.
template <int kVecs>
inline void add_values(const AttentionBlock& g, int first, int keys, const float* weights,
                       const Vec* keep, float* out) {
  constexpr int kStride = kVecs * Vec::kWidth;
  for (int d = 0; d < g.dim; d += kAttentionRows) {
    Vec o[kAttentionRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kAttentionRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) o[i][j] = set1(0.0f);
    }
    const float* v = g.v + first * g.ld + d;
    const float* p = weights;
    for (int key = 0; key < keys; ++key, v += g.ld, p += kStride) {
      Vec w[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) w[j] = load(p + j * Vec::kWidth);
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
      for (int j = 0; j < kVecs; ++j) {
        float* const at = out + (d + i) * kStride + j * Vec::kWidth;
        store(at, fma(load(at), keep[j], o[i][j]));
      }
    }
  }
}

template <int kVecs>
void attention_block(const AttentionBlock& g) {
  constexpr int kStride = kVecs * Vec::kWidth;
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
    Vec newtop[kVecs], keep[kVecs], part[kVecs];
    for (int j = 0; j < kVecs; ++j) newtop[j] = top[j];
    score_keys<kVecs>(g, qt, first, keys, scores, newtop);
    for (int j = 0; j < kVecs; ++j) {
      keep[j] = exp2(top[j] - newtop[j]);
      top[j] = newtop[j];
      part[j] = set1(0.0f);
    }
    for (int key = 0; key < keys; ++key) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        float* at = scores + key * kStride + j * Vec::kWidth;
        const Vec p = exp2(load(at) - top[j]);
        part[j] = part[j] + p;
        store(at, p);
      }
    }
    for (int j = 0; j < kVecs; ++j) total[j] = fma(total[j], keep[j], part[j]);
    add_values<kVecs>(g, first, keys, scores, keep, out);
  }
  for (int j = 0; j < kVecs; ++j) {
    const Vec inverse = set1(1.0f) / total[j];
    for (int d = 0; d < g.dim; ++d) {
      float* at = out + d * kStride + j * Vec::kWidth;
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
  if (g.queries > 2 * Vec::kWidth && kAttentionVecs > 2) {
    attention_block<kAttentionVecs>(g);
  } else if (g.queries > Vec::kWidth) {
    attention_block<2>(g);
  } else {
    attention_block<1>(g);
  }
}

}  // namespace
}  // namespace rfseg::cpu
