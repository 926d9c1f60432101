#pragma once

#include <cstdint>

#include "core/cuda/host_device.h"
#include "rfseg/image.h"

// YUV to RGB in integers. Every backend computes, per pixel (x, y) with chroma sample
// (x / 2, y / 2):
//
//   Y' = Y - y_zero,  U' = U - c_zero,  V' = V - c_zero
//   R  = clamp8((cy * Y' + crv * V'            + half) >> shift)
//   G  = clamp8((cy * Y' + cgu * U' + cgv * V' + half) >> shift)
//   B  = clamp8((cy * Y' + cbu * U'            + half) >> shift)
//
// in 32 bits, with an arithmetic shift and half = 1 << (shift - 1). P010 samples are used at their
// full 10 bits (the 16-bit word >> 6). The coefficients have 13 fractional bits, so that they and
// the samples are 16-bit numbers and a sum of two products is one instruction (pmaddwd):
//
//                       y_zero c_zero shift    cy    crv    cgu    cgv    cbu
//   8 bit,  601 limited     16    128    13  9539  13075  -3209  -6660  16525
//   8 bit,  601 full         0    128    13  8192  11485  -2819  -5850  14516
//   8 bit,  709 limited     16    128    13  9539  14686  -1747  -4366  17305
//   8 bit,  709 full         0    128    13  8192  12901  -1535  -3835  15201
//   10 bit, limited         64    512    15  as 8 bit, limited
//   10 bit, 601 full         0    512    15  8168  11452  -2811  -5833  14474
//   10 bit, 709 full         0    512    15  8168  12863  -1530  -3824  15156
//
// They are round(2^13 * c) of the exact matrix of ITU-R BT.601 / BT.709 with the range's scale
// (255/219 and 255/224 for limited, 1020/1023 for 10-bit full).

namespace rfseg {

struct YuvFormula {
  int32_t y_zero, c_zero, shift;
  int32_t cy, crv, cgu, cgv, cbu;
};

constexpr int32_t yuv_coefficient(double c) {
  return static_cast<int32_t>(c * 8192 + (c < 0 ? -0.5 : 0.5));
}

constexpr YuvFormula make_yuv_formula(YuvMatrix matrix, YuvRange range, bool ten_bits) {
  const double kr = matrix == YuvMatrix::kBt601 ? 0.299 : 0.2126;
  const double kb = matrix == YuvMatrix::kBt601 ? 0.114 : 0.0722;
  const double kg = 1 - kr - kb;
  const bool limited = range == YuvRange::kLimited;
  const double full = ten_bits ? 1020.0 / 1023.0 : 1.0;
  const double sy = limited ? 255.0 / 219.0 : full;
  const double sc = limited ? 255.0 / 224.0 : full;
  return {.y_zero = limited ? (ten_bits ? 64 : 16) : 0,
          .c_zero = ten_bits ? 512 : 128,
          .shift = ten_bits ? 15 : 13,
          .cy = yuv_coefficient(sy),
          .crv = yuv_coefficient(sc * 2 * (1 - kr)),
          .cgu = yuv_coefficient(-sc * 2 * (1 - kb) * kb / kg),
          .cgv = yuv_coefficient(-sc * 2 * (1 - kr) * kr / kg),
          .cbu = yuv_coefficient(sc * 2 * (1 - kb))};
}

RFSEG_HOST_DEVICE int32_t clamp_to_byte(int32_t value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

struct Rgb {
  int32_t r, g, b;  ///< 0..255
};

/// One pixel from its samples.
RFSEG_HOST_DEVICE Rgb yuv_to_rgb(int32_t y, int32_t u, int32_t v, const YuvFormula& f) {
  const int32_t luma = f.cy * (y - f.y_zero) + (1 << (f.shift - 1));
  u -= f.c_zero;
  v -= f.c_zero;
  return {clamp_to_byte((luma + f.crv * v) >> f.shift),
          clamp_to_byte((luma + f.cgu * u + f.cgv * v) >> f.shift),
          clamp_to_byte((luma + f.cbu * u) >> f.shift)};
}

}  // namespace rfseg
