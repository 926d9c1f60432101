#pragma once

#include "engine/cuda/portable/finish.h"

// The second kernel of gemm_norm().

namespace rfseg::cuda::portable {

/// The rest of gemm_norm(), of the partial sums in product.out (float, ldo): a warp a row, four
/// columns of each 128 a lane; kNormParts * 128 columns at most.
constexpr int kNormThreads = 128;
template <bool kVector>
RFSEG_DEVICE Quad load_four(const float* p) {
  if constexpr (kVector) return load_quad(p);
  return {{float_bits(p[0]), float_bits(p[1]), float_bits(p[2]), float_bits(p[3])}};
}
/// kVector: ProductArguments::vector.
template <Math kMath, int kNormParts, bool kVector>
RFSEG_DEVICE void norm_body(const ProductArguments& arguments, void*) {
  const GemmArguments& g = arguments.product;
  const int lane = thread_index() % kWarp;
  const int row = block_x() * (kNormThreads / kWarp) + thread_index() / kWarp;
  release_next_kernel();
  const auto each_part = [&](auto&& f) {
    RFSEG_UNROLL
    for (int i = 0; i < kNormParts; ++i) {
      const int col = (i * kWarp + lane) * 4;
      if (i * kWarp * 4 >= g.n) break;
      if (col < g.n) f(i, col);
    }
  };
  constexpr uint32_t kOne = 0x3f800000u;
  Quad gamma[kNormParts], beta[kNormParts], bias[kNormParts], scales[kNormParts];
  each_part([&](int i, int col) {
    gamma[i] = {{kOne, kOne, kOne, kOne}};
    beta[i] = {};
    bias[i] = {};
    scales[i] = {{kOne, kOne, kOne, kOne}};
    if (arguments.gamma != nullptr) gamma[i] = load_four<kVector>(arguments.gamma + col);
    if (arguments.beta != nullptr) beta[i] = load_four<kVector>(arguments.beta + col);
    if (g.bias != nullptr) bias[i] = load_four<kVector>(g.bias + col);
    if (g.scale != nullptr) scales[i] = load_four<kVector>(g.scale + col);
  });
  await_previous_kernel();
  if (row >= g.m) return;
  float v[kNormParts][4];
  Quad residual[kNormParts], plus[kNormParts];
  each_part([&](int i, int col) {
    const Quad q =
        load_four<kVector>(static_cast<const float*>(g.out) + element_at(row, g.ldo, col));
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) v[i][e] = float_of_bits(q.word[e]);
    residual[i] = {};
    if (g.residual != nullptr) {
      const int64_t at = element_at(row, g.ldr, col);
      if (g.residual_float || kMath != Math::kFp16) {
        residual[i] = load_four<kVector>(static_cast<const float*>(g.residual) + at);
      } else {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) {
          residual[i].word[e] =
              float_bits(low_half(static_cast<const uint16_t*>(g.residual)[at + e]));
        }
      }
    }
    if (arguments.norm_plus != nullptr) {
      plus[i] = load_four<kVector>(arguments.plus + element_at(row, g.n, col));
    }
  });
  // Loads of several parts are under way at once: with floats, whose rows are the long ones, and
  // where registers allow.
  constexpr int kAtOnce = kMath != Math::kFp16 && kNormParts <= 4 ? 3 : 1;
  for (int first = 1; first < arguments.parts; first += kAtOnce) {
    Quad more[kAtOnce][kNormParts];
    RFSEG_UNROLL
    for (int p = 0; p < kAtOnce; ++p) {
      if (first + p >= arguments.parts) break;
      each_part([&](int i, int col) {
        more[p][i] = load_four<kVector>(static_cast<const float*>(g.out) +
                                        (first + p) * g.out_step + element_at(row, g.ldo, col));
      });
    }
    RFSEG_UNROLL
    for (int p = 0; p < kAtOnce; ++p) {
      if (first + p >= arguments.parts) break;
      each_part([&](int i, int) {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) v[i][e] += float_of_bits(more[p][i].word[e]);
      });
    }
  }
  float sum = 0;
  each_part([&](int i, int) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) {
      v[i][e] = fused(v[i][e] + float_of_bits(bias[i].word[e]), float_of_bits(scales[i].word[e]),
                      float_of_bits(residual[i].word[e]));
      sum += v[i][e];
    }
  });
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) sum += warp_read(sum, lane ^ d);
  const float mean = sum / static_cast<float>(g.n);
  float squares = 0;
  each_part([&](int i, int) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) squares = fused(v[i][e] - mean, v[i][e] - mean, squares);
  });
  RFSEG_UNROLL
  for (int d = 1; d < kWarp; d *= 2) squares += warp_read(squares, lane ^ d);
  const float scale = 1.0f / exact_sqrt(squares / static_cast<float>(g.n) + arguments.norm_eps);
  const auto store_four = [&](const float(&v)[4], void* out, bool is_float, int64_t at) {
    if constexpr (!kVector) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (is_float || kMath != Math::kFp16) {
          static_cast<float*>(out)[at + e] = v[e];
        } else {
          static_cast<uint16_t*>(out)[at + e] = half_of(v[e]);
        }
      }
    } else if (is_float || kMath != Math::kFp16) {
      store_quad(static_cast<float*>(out) + at,
                 {{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])}});
    } else {
      store_pair(static_cast<uint16_t*>(out) + at, pack_halves(v[0], v[1]),
                 pack_halves(v[2], v[3]));
    }
  };
  each_part([&](int i, int col) {
    if (arguments.norm_sum != nullptr) {
      store_four(v[i], arguments.norm_sum, true, element_at(row, arguments.ld_norm_sum, col));
    }
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) {
      v[i][e] = activate(fused((v[i][e] - mean) * scale, float_of_bits(gamma[i].word[e]),
                               float_of_bits(beta[i].word[e])),
                         arguments.norm_activation);
    }
    if (arguments.norm_float != nullptr) {
      store_four(v[i], arguments.norm_float, true, element_at(row, arguments.ld_norm_float, col));
    }
    if (arguments.norm_out != nullptr) {
      store_four(v[i], arguments.norm_out, false, element_at(row, arguments.ld_norm_out, col));
    }
    if (arguments.norm_plus != nullptr) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] += float_of_bits(plus[i].word[e]);
      store_four(v[i], arguments.norm_plus, false, element_at(row, g.n, col));
    }
  });
}

}  // namespace rfseg::cuda::portable
