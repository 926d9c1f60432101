#pragma once

// What the mask kernel needs to know about an axis beyond its formula. The plain formula has two
// taps everywhere and is evaluated where it is needed; an antialiased axis mostly has two, too, and
// its weights are computed once a call.

#include "core/cuda/simt.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

struct TwoTaps {
  int32_t cell = 0;  ///< first tap; the second is the next one, or the last
  float w0 = 0, w1 = 0;
  bool usable = false;  ///< see cell_columns.h: two taps, neither weight tiny, one of them >= 1/4
};

RFSEG_DEVICE bool usable_weight(float w) { return w == 0.0f || w >= 0x1p-60f; }

/// An antialiased or unscaled pixel's taps as two, if they are. Taps of weight 0 count for nothing
/// where all values are finite.
RFSEG_DEVICE TwoTaps antialias_two_taps(const AxisMap& map, int pixel) {
  TwoTaps two;
  if (map.sampling == Sampling::kIdentity) {
    two.cell = pixel - map.origin;
    two.w0 = 1;
    two.usable = true;
    return two;
  }
  const AntialiasTaps taps = antialias_taps(map, pixel);
  const int count = taps.hi - taps.lo;
  float sum = 0;
  for (int j = 0; j < count; ++j) sum += taps.weight(j);
  int from = -1, to = -1;  // first and last tap with a weight
  for (int j = 0; j < count; ++j) {
    const float w = taps.weight(j) / sum;
    if (w == 0.0f) continue;
    if (from < 0) {
      from = j;
      two.w0 = w;
    } else {
      two.w1 = w;
    }
    to = j;
  }
  if (from < 0) return two;  // not usable
  two.cell = taps.lo + from;
  two.usable = to - from <= 1 && usable_weight(two.w0) && usable_weight(two.w1) &&
               (two.w0 >= 0.25f || two.w1 >= 0.25f);
  return two;
}

/// Fills one axis of one picture; all threads of a block of kSelectThreads. Of the y axis also the
/// first pixel of each row of cells, and whether the axis has two taps everywhere, with w0 falling
/// and w1 rising from pixel to pixel of a cell.
RFSEG_DEVICE void fill_axis(const KernelArguments& a, int picture, bool x_axis) {
  const PictureParams& params = a.pictures[picture];
  const AxisMap map = x_axis ? params.x : params.y;
  const bool plain = map.sampling == Sampling::kPlain;
  if (x_axis && plain) return;
  const bool rows_fit = !x_axis && map.cells <= kMaxRows;
  int32_t* start = a.start + int64_t{picture} * a.start_pitch;
  const int64_t table = (int64_t{picture} * 2 + (x_axis ? 0 : 1)) * a.side_pitch;
  bool broken = false;
  for (int p = map.begin + thread_index(); p < map.end; p += kSelectThreads) {
    TwoTaps here, before;
    if (plain) {
      here.cell = plain_taps(map, p).i0;
      if (p > map.begin) before.cell = plain_taps(map, p - 1).i0;
    } else {
      here = antialias_two_taps(map, p);
      a.weights[2 * (table + p - map.begin)] = here.w0;
      a.weights[2 * (table + p - map.begin) + 1] = here.w1;
      a.cells[table + p - map.begin] = here.usable ? here.cell : -1;
      if (x_axis) continue;
      bool good = here.usable;
      if (p > map.begin) {
        before = antialias_two_taps(map, p - 1);
        good = good && (here.cell > before.cell ||
                        (here.cell == before.cell && here.w0 <= before.w0 && here.w1 >= before.w1));
      }
      broken = broken || !good;
    }
    if (!rows_fit) continue;
    for (int c = p == map.begin ? 0 : before.cell + 1; c <= here.cell; ++c) start[c] = p;
    if (p == map.end - 1) {
      for (int c = here.cell + 1; c <= map.cells; ++c) start[c] = map.end;
    }
  }
  if (x_axis) return;
  if (rows_fit && map.begin >= map.end) {
    for (int c = thread_index(); c <= map.cells; c += kSelectThreads) start[c] = map.end;
  }
  const bool any_broken = block_any(broken);
  if (thread_index() == 0) a.two_taps[picture] = rows_fit && !any_broken ? 1 : 0;
}

}  // namespace rfseg::cuda
