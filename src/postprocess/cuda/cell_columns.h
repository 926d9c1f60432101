#pragma once

// A pixel column's toggles from the signs of the cells beside it. Why this gives the bytes of the
// pixel-wise way is told at the head of kernels.inc, whose conditions are checked here, too: cells
// that are 0 or within 2^-30..2^100 in magnitude, two taps an axis, no tiny weight.

#include "postprocess/cuda/axis_tables.h"
#include "postprocess/cuda/mask_source.h"

namespace rfseg::cuda {

constexpr int kTileCells = 6144;
constexpr int kColumnSlots = 24;  ///< toggles a column keeps from counting to writing

/// The cells that some neighbouring pixel columns read.
struct CellTile {
  alignas(16) float cells[kTileCells];  ///< [rows, span]
  uint32_t bits[1024];                  ///< [span, words] one bit a positive cell
  int32_t start[kMaxRows + 1];          ///< first pixel row of each row of cells
  int first_cell, span, words;
  int32_t first_positive;  ///< column of cells, from first_cell on; INT32_MAX without one
  uint32_t positive_end;   ///< past the last
  bool usable;
};

/// First and last cell that a pixel column may read, for the tile's extent.
RFSEG_DEVICE int tile_cell(const MaskSource& source, int pixel) {
  if (source.x.sampling == Sampling::kPlain) return plain_taps(source.x, pixel).i0;
  if (source.x.sampling == Sampling::kIdentity) return pixel - source.x.origin;
  return antialias_taps(source.x, pixel).lo;
}

/// Whether the tile holds a cell and its right neighbour.
RFSEG_DEVICE bool in_tile(const MaskSource& source, const CellTile& tile, int cell) {
  const int next = cell < source.x.cells - 1 ? cell + 1 : cell;
  return cell >= tile.first_cell && next < tile.first_cell + tile.span;
}

/// The first pixel row of each row of cells, of a plain axis. All threads.
RFSEG_DEVICE void fill_starts(const AxisMap& map, int32_t* start) {
  if (map.cells > kMaxRows) return;
  const float inverse = 1.0f / map.scale;
  for (int c = thread_index(); c <= map.cells; c += kMaskThreads) {
    // Near the first pixel that reads row c; which it is, is found out from there.
    float near = (static_cast<float>(c) - map.offset) * inverse - 0.5f;
    near += static_cast<float>(map.origin);
    const float low = static_cast<float>(map.begin), high = static_cast<float>(map.end);
    near = near > low ? near : low;
    near = near < high ? near : high;
    int p = c == map.cells ? map.end : static_cast<int>(near);
    while (p > map.begin && plain_taps(map, p - 1).i0 >= c) --p;
    while (p < map.end && plain_taps(map, p).i0 < c) ++p;
    start[c] = p;
  }
}

/// Whether a tile has room for all columns of cells.
RFSEG_DEVICE bool whole_mask_fits(const MaskSource& source) {
  const int64_t columns = source.x.cells, rows = source.y.cells;
  return columns * rows <= kTileCells && columns * ((rows + 31) / 32) <= 1024;
}

/// Loads the cells of the pixel columns [from, n + from) and returns n: up to kMaskThreads, up to
/// `to`, and no more than the tile has room for. With `whole`, all cells are loaded, which must
/// fit. With `usable` false they are not loaded. All threads; ends with a barrier.
RFSEG_DEVICE int load_tile(const MaskSource& source, int from, int to, bool whole, CellTile& tile) {
  const int rows = source.y.cells, thread = thread_index();
  const int lane = thread % kWarp, warp = thread / kWarp;
  int n = to - from < kMaskThreads ? to - from : kMaskThreads;
  const int words = (rows + 31) / 32;
  bool usable = source.y_two_taps && rows <= kMaxRows;
  int first = 0, span = 0;
  if (n <= 0) {  // only the column past the last
    n = 1;
    usable = false;
  }
  while (usable) {
    if (whole) {
      span = source.x.cells;
      break;
    }
    first = tile_cell(source, from);
    // Taps of weight 0 may stand before the two that count, so one more cell.
    span = tile_cell(source, from + n - 1) + 3 - first;
    span = span < source.x.cells - first ? span : source.x.cells - first;
    if (span * rows <= kTileCells && span * words <= 1024) break;
    if (n < 2) {
      usable = false;
      n = to - from < kMaskThreads ? to - from : kMaskThreads;
    } else {
      n /= 2;
    }
  }
  bool odd = false;
  if (thread == 0) {
    tile.first_positive = INT32_MAX;
    tile.positive_end = 0;
  }
  if (usable) {
    constexpr int kLoads = 4;  // in flight a thread
    const float inverse = 1.0f / static_cast<float>(span);
    const int total = rows * span;
    const bool starts = source.start != nullptr;  // else they are in the tile already
    // Stored once the cells are asked for.
    const int start = starts && thread <= rows ? source.start[thread] : 0;
    for (int from_cell = thread; from_cell < total; from_cell += kLoads * kMaskThreads) {
      float values[kLoads];
      RFSEG_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        const int i = from_cell + k * kMaskThreads;
        // i / span: the half keeps the product away from integers by more than its error
        const int row = static_cast<int>((static_cast<float>(i) + 0.5f) * inverse);
        const int column = first + (i - row * span);
        values[k] = i >= total ? 0.0f
                    : starts   ? source.cell(row, column)
                               : source.inside(row, column);
      }
      RFSEG_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        const int i = from_cell + k * kMaskThreads;
        const uint32_t magnitude = float_bits(values[k]) & 0x7fffffffu;
        odd = odd || (magnitude != 0 && (magnitude < (97u << 23) || magnitude > (227u << 23)));
        if (i < total) tile.cells[i] = values[k];
      }
    }
    if (starts && thread <= rows) tile.start[thread] = start;
    for (int i = thread + kMaskThreads; starts && i <= rows; i += kMaskThreads) {
      tile.start[i] = source.start[i];
    }
    usable = !block_any(odd);
  }
  if (usable) {
    for (int column = warp; column < span; column += kMaskThreads / kWarp) {
      uint32_t any = 0;
      for (int word = 0; word < words; ++word) {
        const int row = word * 32 + lane;
        const uint32_t bits = warp_ballot(row < rows && tile.cells[row * span + column] > 0.0f);
        if (lane == 0) tile.bits[column * words + word] = bits;
        any |= bits;
      }
      if (any != 0 && lane == 0) {
        atomic_min(&tile.first_positive, column);
        atomic_max(&tile.positive_end, static_cast<uint32_t>(column) + 1);
      }
    }
  }
  if (thread == 0) {
    tile.first_cell = first;
    tile.span = span;
    tile.words = words;
    tile.usable = usable;
  }
  block_sync();
  return n;
}

/// Toggles in ascending order in, those that are left when equal ones cancel out.
template <class Sink>
struct ToggleFilter {
  const Sink& sink;
  int height;
  ColumnFacts facts;
  int pending = -1;  ///< the last one, not yet out

  RFSEG_DEVICE void push(int pixel) {
    if (pixel == pending) {
      pending = -1;  // whatever comes is not before this one
    } else {
      flush();
      pending = pixel;
    }
  }
  RFSEG_DEVICE void flush() {
    if (pending < 0) return;
    if (pending == 0) {
      facts.first = true;
    } else if (pending == height) {
      facts.last = true;
    } else {
      sink(facts.inner++, pending);
    }
  }
};

/// First pixel of the segment [y0, y1) at which the column has the sign of b, or y1.
template <bool plain>
RFSEG_DEVICE int find_crossing(const MaskSource& source, int row, int y0, int y1, float a,
                               float b) {
  const AxisMap& y = source.y;
  const bool up = b > 0.0f;
  const auto agrees = [&](int pixel) {
    float w0, w1;
    if (plain) {
      const float h = static_cast<float>(pixel - y.origin) + 0.5f;
      float r = fused(y.scale, h, y.offset);
      r = r > 0.0f ? r : 0.0f;
      w1 = r - static_cast<float>(row);
      w0 = 1.0f - w1;
    } else {
      w0 = source.y_weights[2 * (pixel - y.begin)];
      w1 = source.y_weights[2 * (pixel - y.begin) + 1];
    }
    return (blend_two<plain>(w0, a, w1, b) > 0.0f) == up;
  };
  const float where = static_cast<float>(row) - y.offset + approximate_quotient(a, a - b);
  float estimate = where * source.y_inverse - 0.5f + static_cast<float>(y.origin);
  const float low = static_cast<float>(y0), high = static_cast<float>(y1);
  estimate = estimate > low ? estimate : low;
  estimate = estimate < high ? estimate : high;
  int pixel = static_cast<int>(estimate);
  pixel += estimate > static_cast<float>(pixel) ? 1 : 0;
  while (pixel > y0 && agrees(pixel - 1)) --pixel;
  while (pixel < y1 && !agrees(pixel)) ++pixel;
  return pixel;
}

template <bool plain, class Sink>
RFSEG_DEVICE ColumnFacts cell_column_as(const MaskSource& source, const CellTile& tile,
                                        const XTaps& taps, uint32_t height, const Sink& sink) {
  ToggleFilter<Sink> filter{sink, static_cast<int>(height), {}};
  const int last = source.y.cells - 1, words = tile.words, span = tile.span;
  const int c0 = taps.cell - tile.first_cell;
  const int c1 = c0 + (taps.cell < source.x.cells - 1 ? 1 : 0);
  const uint32_t* bits0 = tile.bits + c0 * words;
  const uint32_t* bits1 = tile.bits + c1 * words;
  const float* cells0 = tile.cells + c0;
  const float* cells1 = tile.cells + c1;
  const auto value = [&](int row) {
    return blend_two<plain>(taps.w0, cells0[row * span], taps.w1, cells1[row * span]);
  };
  int known = -1;  // a row whose value is at hand
  float known_value = 0;
  if (((bits0[0] | bits1[0]) & 1u) != 0 && value(0) > 0.0f) filter.push(source.y.begin);
  for (int w = 0; w < words; ++w) {
    const uint32_t s0 = bits0[w], s1 = bits1[w];
    uint32_t below0 = s0 >> 1, below1 = s1 >> 1;
    uint32_t valid = 0xffffffffu;
    if (w + 1 < words) {
      below0 |= bits0[w + 1] << 31;
      below1 |= bits1[w + 1] << 31;
    } else {  // the last row has none below
      valid = (1u << (last & 31)) - 1u;
    }
    uint32_t mixed = (s0 | s1 | below0 | below1) & ~(s0 & s1 & below0 & below1) & valid;
    for (; mixed != 0; mixed &= mixed - 1) {
      const int row = w * 32 + lowest_bit(mixed);
      const float a = row == known ? known_value : value(row), b = value(row + 1);
      known = row + 1;
      known_value = b;
      if ((a > 0.0f) == (b > 0.0f)) continue;
      filter.push(find_crossing<plain>(source, row, tile.start[row], tile.start[row + 1], a, b));
    }
  }
  const uint32_t bottom = 1u << (last & 31);
  if (((bits0[words - 1] | bits1[words - 1]) & bottom) != 0 && value(last) > 0.0f) {
    filter.push(source.y.end);
  }
  filter.flush();
  return filter.facts;
}

template <class Sink>
RFSEG_DEVICE ColumnFacts cell_column(const MaskSource& source, const CellTile& tile,
                                     const XTaps& taps, uint32_t height, const Sink& sink) {
  return source.x.sampling == Sampling::kPlain
             ? cell_column_as<true>(source, tile, taps, height, sink)
             : cell_column_as<false>(source, tile, taps, height, sink);
}

}  // namespace rfseg::cuda
