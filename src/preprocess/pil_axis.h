#pragma once

#include <cstdint>
#include <vector>

namespace rfseg {

/// One axis of Pillow's 8-bit antialiased bilinear resize: output i is the weighted sum of inputs
/// first[i] .. first[i]+count[i]-1. Weights are fixed point with kPilBits fractional bits.
/// Source: python-pillow/Pillow 11.0.0, src/libImaging/Resample.c, precompute_coeffs and
/// normalize_coeffs_8bpc.
struct PilAxis {
  int in = 0, out = 0;
  int taps = 0;  ///< row length of `weights`, >= every count
  std::vector<int> first, count;
  std::vector<int32_t> weights;  ///< [out, taps], zero past count
};

constexpr int kPilBits = 22;

PilAxis make_pil_axis(int in, int out);

}  // namespace rfseg
