// Matrix products of the inner loops; see kernels_impl.h.
#pragma once

#include <cstdint>

#include "engine/cpu/kernels.h"
#include "engine/cpu/vec.h"

namespace rfseg::cpu {
namespace {

constexpr int kPanelVecs = kPanel / Vec::kWidth;
#if defined(__AVX512F__)
constexpr int kRows = 6, kPanels = 4;  // 24 sums, 4 weights, 1 input of 32 registers
#elif defined(__AVX2__)
constexpr int kRows = 6, kPanels = 1;  // 12 sums, 2 weights, 1 input of 16
#else
constexpr int kRows = 2, kPanels = 1;  // 8 sums, 4 weights, 1 input of 16
#endif
// Products that one chain of additions takes in: rounding grows with its length.
constexpr int kLongestSum = 512;

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
      const int at = j * Vec::kWidth;
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
  constexpr int kColumns = kVecs * Vec::kWidth;
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
  const bool in_parts = g.taps * g.depth > kLongestSum;
  Vec whole[kRows][kVecs];
  if (in_parts) {
    for (auto& row : whole) {
      for (Vec& sum : row) sum = set1(0.0f);
    }
  }
  int length = 0;
  for (int t = 0; t < g.taps; ++t) {
    const float* a[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) a[i] = g.a[t * kRows + i];
    for (int k = 0; k < g.depth;) {
      const int end = k + kLongestSum - length < g.depth ? k + kLongestSum - length : g.depth;
      length += end - k;
      for (; k < end; ++k) {
        Vec w[kVecs];
#pragma GCC unroll 4
        for (int p = 0; p < kTilePanels; ++p) {
#pragma GCC unroll 4
          for (int j = 0; j < kPanelVecs; ++j) {
            w[p * kPanelVecs + j] = load(b + p * panel_stride + j * Vec::kWidth);
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
      if (length == kLongestSum && in_parts) {
        length = 0;
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) {
            whole[i][j] = whole[i][j] + sums[i][j];
            sums[i][j] = set1(0.0f);
          }
        }
      }
    }
  }
  if (in_parts) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) sums[i][j] = whole[i][j] + sums[i][j];
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

}  // namespace
}  // namespace rfseg::cpu
