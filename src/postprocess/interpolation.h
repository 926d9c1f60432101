#pragma once

#include <cstdint>

#include "core/cuda/host_device.h"

// Bilinear resampling of mask logits along one axis, rounded in float32 exactly as torch's CUDA
// kernels round (aten/src/ATen/native/cuda/UpSampleBilinear2d.cu, pytorch 2.11). A fused
// multiply-add is written where the compiled kernels have one; everything else rounds after each
// operation. docs/conventions.md states the formulas.

namespace rfseg {

/// Which formula an axis follows.
enum class Sampling : uint8_t {
  kPlain,      ///< two taps, F.interpolate(bilinear, align_corners=False)
  kAntialias,  ///< triangle filter as wide as the scale, antialias=True
  kIdentity    ///< picture and source have one size: no arithmetic
};

/// One axis of the way from picture pixels to mask cells. Pixel p of the picture, for
/// begin <= p < end, has the output index o = p - origin and the source position
/// fma(scale, o + 0.5, offset), in cells whose centres are integers; other pixels are background.
struct AxisMap {
  Sampling sampling = Sampling::kPlain;
  int cells = 0;   ///< source samples
  int extent = 0;  ///< picture pixels
  int begin = 0, end = 0;
  int origin = 0;
  float scale = 1;       ///< cells a pixel
  float offset = -0.5f;  ///< -0.5 but where a letterbox or a crop moves the picture
};

/// Two taps of the plain formula; the value is fma(w0, v[i0], w1 * v[i1]).
struct PlainTaps {
  int i0, i1;
  float w0, w1;
};

RFSEG_HOST_DEVICE PlainTaps plain_taps(const AxisMap& map, int pixel) {
  const float h = static_cast<float>(pixel - map.origin) + 0.5f;
  float r = fused(map.scale, h, map.offset);
  r = r > 0.0f ? r : 0.0f;
  PlainTaps taps;
  taps.i0 = static_cast<int>(r);
  taps.i0 = taps.i0 < map.cells ? taps.i0 : map.cells - 1;
  taps.i1 = taps.i0 + (taps.i0 < map.cells - 1 ? 1 : 0);
  taps.w1 = r - static_cast<float>(taps.i0);
  taps.w0 = 1.0f - taps.w1;
  return taps;
}

RFSEG_HOST_DEVICE float plain_blend(float w0, float v0, float w1, float v1) {
  return fused(w0, v0, w1 * v1);
}

/// The taps lo .. hi-1 of the antialiased formula. The value is t = v[lo] * w(lo), then
/// t = fma(v[j], w(j), t) in order, with w(j) = weight(j - lo) / (their sequential sum).
struct AntialiasTaps {
  int lo, hi;
  float start;    ///< lo - centre
  float inverse;  ///< 1 / max(scale, 1)

  RFSEG_HOST_DEVICE float weight(int j) const {
    const float distance = (static_cast<float>(j) + start + 0.5f) * inverse;
    const float w = 1.0f - (distance < 0.0f ? -distance : distance);
    return w > 0.0f ? w : 0.0f;
  }
};

RFSEG_HOST_DEVICE AntialiasTaps antialias_taps(const AxisMap& map, int pixel) {
  const float h = static_cast<float>(pixel - map.origin) + 0.5f;
  const float support = map.scale > 1.0f ? map.scale : 1.0f;
  AntialiasTaps taps;
  // The truncation is torch's. NOLINTNEXTLINE(bugprone-incorrect-roundings)
  taps.lo = static_cast<int>(fused(map.scale, h, -support) + 0.5f);
  taps.lo = taps.lo > 0 ? taps.lo : 0;
  // NOLINTNEXTLINE(bugprone-incorrect-roundings)
  taps.hi = static_cast<int>(fused(map.scale, h, support) + 0.5f);
  taps.hi = taps.hi < map.cells ? taps.hi : map.cells;
  taps.start = fused(-map.scale, h, static_cast<float>(taps.lo));
  taps.inverse =
      map.scale >= 1.0f ? static_cast<float>(1.0 / static_cast<double>(map.scale)) : 1.0f;
  return taps;
}

}  // namespace rfseg
