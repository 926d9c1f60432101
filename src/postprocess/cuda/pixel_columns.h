#pragma once

// A pixel column's toggles from all its pixels, by one warp: for down-scaling, antialiased axes
// with more than two taps, and cells that are not numbers or that are tiny or huge.

#include "postprocess/cuda/mask_source.h"

namespace rfseg::cuda {

constexpr int kColumnCache = 256;  ///< blended rows of one column that are kept

/// One axis at one pixel: taps in any formula.
struct AnyTaps {
  PlainTaps plain;
  AntialiasTaps wide;
  float sum;
  int only;
};

RFSEG_DEVICE AnyTaps any_taps(const AxisMap& map, int pixel) {
  AnyTaps taps{};
  if (map.sampling == Sampling::kPlain) {
    taps.plain = plain_taps(map, pixel);
  } else if (map.sampling == Sampling::kIdentity) {
    taps.only = pixel - map.origin;
  } else {
    taps.wide = antialias_taps(map, pixel);
    const int count = taps.wide.hi - taps.wide.lo;
    for (int j = 0; j < count; ++j) taps.sum += taps.wide.weight(j);
  }
  return taps;
}

/// The axis's value over samples value(i).
template <class F>
RFSEG_DEVICE float resample(Sampling sampling, const AnyTaps& taps, F&& value) {
  if (sampling == Sampling::kPlain) {
    return plain_blend(taps.plain.w0, value(taps.plain.i0), taps.plain.w1, value(taps.plain.i1));
  }
  if (sampling == Sampling::kIdentity) return value(taps.only);
  const int count = taps.wide.hi - taps.wide.lo;
  float t = value(taps.wide.lo) * (taps.wide.weight(0) / taps.sum);
  for (int j = 1; j < count; ++j) {
    t = fused(value(taps.wide.lo + j), taps.wide.weight(j) / taps.sum, t);
  }
  return t;
}

/// Whether one pixel is foreground. A NaN is not.
RFSEG_DEVICE bool pixel_is_set(const MaskSource& source, int x, int y) {
  const AnyTaps x_taps = any_taps(source.x, x);
  return resample(source.y.sampling, any_taps(source.y, y), [&](int row) {
           return resample(source.x.sampling, x_taps,
                           [&](int column) { return source.cell(row, column); });
         }) > 0.0f;
}

/// All lanes of one warp; `cache` is the warp's. The lanes' facts are the same. With
/// `direct`, the toggles go to the sink.
template <class Sink>
RFSEG_DEVICE ColumnFacts pixel_column(const MaskSource& source, int x, uint32_t height,
                                      float* cache, const Sink& sink, bool direct) {
  const int lane = thread_index() % kWarp;
  const AxisMap& y = source.y;
  const AnyTaps x_taps = any_taps(source.x, x);
  const auto blended = [&](int row) {
    return resample(source.x.sampling, x_taps,
                    [&](int column) { return source.cell(row, column); });
  };
  const bool cached = y.cells <= kColumnCache;
  if (cached) {
    for (int row = lane; row < y.cells; row += kWarp) cache[row] = blended(row);
    warp_sync();
  }
  ColumnFacts facts;
  const uint32_t lower = (1u << lane) - 1u;
  uint32_t previous = 0;                // the pixel before
  const auto toggle = [&](int pixel) {  // outside of the loop, by every lane alike
    if (pixel == 0) {
      facts.first = true;
    } else if (pixel == static_cast<int>(height)) {
      facts.last = true;
    } else {
      if (direct && lane == 0) sink(facts.inner, pixel);
      ++facts.inner;
    }
  };
  for (int from = y.begin; from < y.end; from += kWarp) {
    const int pixel = from + lane;
    bool set = false;
    if (pixel < y.end) {
      const AnyTaps y_taps = any_taps(y, pixel);
      set = resample(y.sampling, y_taps,
                     [&](int row) { return cached ? cache[row] : blended(row); }) > 0.0f;
    }
    const uint32_t bits = warp_ballot(set);
    const int n = y.end - from < kWarp ? y.end - from : kWarp;
    const uint32_t valid = n == kWarp ? 0xffffffffu : (1u << n) - 1u;
    uint32_t changes = (bits ^ (bits << 1 | previous)) & valid;
    if (from == 0 && (changes & 1u) != 0) {
      facts.first = true;
      changes &= ~1u;
    }
    if (direct && (changes >> lane & 1u) != 0) {
      sink(facts.inner + static_cast<uint32_t>(count_bits(changes & lower)), pixel);
    }
    facts.inner += static_cast<uint32_t>(count_bits(changes));
    previous = bits >> (n - 1) & 1u;
  }
  if (previous != 0) toggle(y.end);
  warp_sync();  // the cache is free again
  return facts;
}

}  // namespace rfseg::cuda
