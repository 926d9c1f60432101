#pragma once

// What one block knows of a mask: the positions in its share of the pixel columns at which the mask
// changes, a thread a column.

#include "core/cuda/simt.h"
#include "postprocess/cuda/alone.h"
#include "postprocess/cuda/cell_columns.h"
#include "postprocess/cuda/pixel_columns.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

constexpr int kMaskWarps = kMaskThreads / kWarp;
constexpr uint32_t kListToggles = 1024;  ///< toggles of a block that stay in shared memory
constexpr uint32_t kGatheredToggles = kMaskWarps * kColumnCache - 3;  ///< that one block may encode
constexpr int kMaxGroups = 7;                                         ///< bytes of one count

/// What the blocks of a cluster tell each other.
struct Exchange {
  uint32_t count;    ///< toggles of this block
  uint32_t tail[3];  ///< its last ones, latest first
  uint32_t bytes;    ///< of its counts
  uint32_t failed;
  uint64_t base;  ///< where the mask's bytes begin, kNoRoom without room; by rank 0
};
constexpr uint64_t kNoRoom = ~uint64_t{0};

static_assert(kGatheredToggles * kMaxGroups + 32 <= kTileCells * sizeof(float));

struct alignas(16) MaskShared {
  alignas(16) uint8_t text[16 + kMaskThreads * kMaxGroups + 16];
  alignas(16) CellTile tile;
  uint16_t slots[kColumnSlots][kMaskThreads];
  float column[kMaskWarps][kColumnCache];
  uint32_t list[kListToggles];
  uint8_t ends_set[kMaskThreads];  ///< the column's last pixel is set, and is the picture's last
  ScanScratch scan;
  Exchange exchange;
  PictureParams picture;  ///< of the mask at work
  AloneShared alone;
};

/// The toggles of one block: the first in shared memory, the rest in the workspace.
struct ToggleList {
  uint32_t* near;
  uint32_t* far;
  uint32_t far_capacity;

  RFSEG_DEVICE void write(uint32_t i, uint32_t v) const {
    if (i < kListToggles) {
      near[i] = v;
    } else if (i - kListToggles < far_capacity) {
      far[i - kListToggles] = v;
    }
  }
  RFSEG_DEVICE uint32_t read(uint32_t i) const {
    return i < kListToggles ? near[i] : far[i - kListToggles];
  }
};

/// Where one column's toggles go: into its slots, or straight into the list.
struct ColumnSink {
  uint16_t* slots;  ///< of this thread, kMaskThreads apart
  ToggleList list;
  uint32_t list_at;
  uint32_t base;  ///< position of the column's pixel 0
  bool direct;

  RFSEG_DEVICE void operator()(uint32_t k, int pixel) const {
    if (direct) {
      list.write(list_at + k, base + static_cast<uint32_t>(pixel));
    } else if (k < kColumnSlots) {
      slots[k * kMaskThreads] = static_cast<uint16_t>(pixel);
    }
  }
};

/// Writes all toggles of this block's share of columns, and returns how many there are. With
/// `skip_empty`, for plain axes only, columns without a positive cell are left out at once; it
/// takes more registers than three blocks on a multiprocessor leave.
template <bool skip_empty>
RFSEG_DEVICE uint32_t list_toggles(const MaskSource& source, int picture_height, int picture_width,
                                   MaskShared& s, const ToggleList& list, int rank, int size,
                                   BlockScan<kMaskThreads>& scan) {
  const AxisMap &x = source.x, &y = source.y;
  const uint32_t height = static_cast<uint32_t>(picture_height);
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  // A column past the last holds the end of a run that leaves the last one at its lower end.
  const int columns = (x.end > x.begin ? x.end - x.begin : 0) + (x.end < picture_width ? 1 : 0);
  const int share = (columns + size - 1) / size;
  const int from = rank * share;
  const int to = from + share < columns ? from + share : columns;
  const bool reaches_bottom = y.end == picture_height && y.end > y.begin;
  uint32_t count = 0;
  if (from >= to) return 0;
  bool before = false;  // the pixel before the next column is set
  // The column before this block's first one tells that of the first; it belongs to another block.
  bool lead = from > 0 && reaches_bottom;
  // Where one block has many columns, it takes all cells at once and leaves out the empty columns.
  const bool whole = skip_empty && share > 2 * kMaskThreads && whole_mask_fits(source);
  bool loaded = false;
  for (int at = from - (lead ? 1 : 0); at < to;) {
    const int tile_end = x.begin + to < x.end ? x.begin + to : x.end;
    int n = tile_end - (x.begin + at) < kMaskThreads ? tile_end - (x.begin + at) : kMaskThreads;
    n = n > 0 ? n : 1;
    if (!loaded) n = load_tile(source, x.begin + at, tile_end, whole, s.tile);
    loaded = whole;
    if (skip_empty && s.tile.usable && !lead && !before) {
      const int positive = s.tile.first_positive, end = static_cast<int>(s.tile.positive_end);
      if (end == 0 && whole) break;
      bool empty = end == 0;
      if (!empty && whole && x.begin + at < x.end) {
        const int here = plain_taps(x, x.begin + at).i0;
        if (here >= end) break;  // neither its left cell nor anything beyond
        const int pixel = x.begin + at + n < x.end ? x.begin + at + n : x.end;
        empty = plain_taps(x, pixel - 1).i1 < positive;
      }
      if (empty) {
        at += n;
        if (!whole) block_sync();  // the tile is free again
        continue;
      }
    }
    const int pixel_x = x.begin + at + thread;
    const bool mine = thread < n && pixel_x < x.end;
    const bool counted = thread < n && !(lead && thread == 0);
    XTaps taps;
    if (mine) taps = x_taps(source, pixel_x);
    const bool by_cells =
        mine && s.tile.usable && taps.usable && in_tile(source, s.tile, taps.cell);
    uint32_t by_pixels = warp_ballot(mine && !by_cells);

    ColumnSink sink;
    sink.slots = &s.slots[0][thread];
    sink.list = list;
    sink.list_at = 0;
    sink.base = static_cast<uint32_t>(pixel_x) * height;
    sink.direct = false;
    ColumnFacts facts;
    for (int pass = 0; pass < 2; ++pass) {
      // Pass 0 counts and keeps what has room in the slots; pass 1 makes the rest again.
      sink.direct = pass == 1;
      if (by_cells && (pass == 0 || (counted && facts.inner > kColumnSlots))) {
        facts = cell_column(source, s.tile, taps, height, sink);
      }
      for (uint32_t left = by_pixels; left != 0; left &= left - 1) {
        const int owner = lowest_bit(left);
        ColumnSink shared_sink = sink;
        shared_sink.list_at = warp_read(sink.list_at, owner);
        shared_sink.base = warp_read(sink.base, owner);
        const ColumnFacts found = pixel_column(source, x.begin + at + warp * kWarp + owner, height,
                                               s.column[warp], shared_sink, pass == 1);
        if (lane == owner) facts = found;
      }
      if (pass == 1) break;
      by_pixels = warp_ballot(mine && !by_cells && counted);
      s.ends_set[thread] = facts.last ? 1 : 0;
      block_sync();
      const bool previous = thread == 0 ? before : s.ends_set[thread - 1] != 0;
      const bool starts = counted && facts.first != previous;
      uint32_t total;
      uint32_t position = count + scan(counted ? facts.inner + (starts ? 1u : 0u) : 0u, &total);
      if (starts) list.write(position++, sink.base);
      sink.list_at = position;
      if (by_cells && counted && facts.inner <= kColumnSlots) {
        for (uint32_t k = 0; k < facts.inner; ++k) {
          list.write(position + k, sink.base + s.slots[k][thread]);
        }
      }
      count += total;
      before = s.ends_set[n - 1] != 0;
    }
    lead = false;
    at += n;
    block_sync();  // the tile and the ends are free again
  }
  return count;
}

}  // namespace rfseg::cuda
