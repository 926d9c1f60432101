#pragma once

// The second kernel: a cluster of blocks turns the cells of one query into the compressed COCO
// bytes of its mask. Each block takes an equal share of the pixel columns, a thread a column. The
// mask is handled as the positions at which it changes ("toggles"), in column-major order.

#include "postprocess/cuda/cell_columns.h"
#include "postprocess/cuda/pixel_columns.h"
#include "postprocess/cuda/records.h"
#include "postprocess/cuda/simt.h"

namespace rfseg::cuda {

constexpr int kMaskWarps = kMaskThreads / kWarp;
constexpr int kMaxCluster = 8;
constexpr uint32_t kListToggles = 1024;  ///< toggles of a block that stay in shared memory
constexpr int kMaxGroups = 7;            ///< bytes of one count

/// What the blocks of a cluster tell each other.
struct Exchange {
  uint32_t count;    ///< toggles of this block
  uint32_t tail[3];  ///< its last ones, latest first
  uint32_t bytes;    ///< of its counts
  uint32_t failed;
  uint64_t base;  ///< where the mask's bytes begin, kNoRoom without room; by rank 0
};
constexpr uint64_t kNoRoom = ~uint64_t{0};

struct alignas(16) MaskShared {
  alignas(16) uint8_t text[16 + kMaskThreads * kMaxGroups + 16];
  CellTile tile;
  uint16_t slots[kColumnSlots][kMaskThreads];
  float column[kMaskWarps][kColumnCache];
  uint32_t list[kListToggles];
  uint8_t ends_set[kMaskThreads];  ///< the column's last pixel is set, and is the picture's last
  ScanScratch scan;
  Exchange exchange;
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

/// Writes all toggles of this block's share of columns, then returns how many there are.
RFSEG_DEVICE uint32_t list_toggles(const MaskSource& source, const PictureParams& picture,
                                   MaskShared& s, const ToggleList& list, int rank, int size,
                                   BlockScan<kMaskThreads>& scan) {
  const AxisMap &x = source.x, &y = source.y;
  const uint32_t height = static_cast<uint32_t>(picture.height);
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  // A column past the last holds the end of a run that leaves the last one at its lower end.
  const int columns = (x.end > x.begin ? x.end - x.begin : 0) + (x.end < picture.width ? 1 : 0);
  const int share = (columns + size - 1) / size;
  const int from = rank * share;
  const int to = from + share < columns ? from + share : columns;
  const bool reaches_bottom = y.end == picture.height && y.end > y.begin;
  uint32_t count = 0;
  if (from >= to) return 0;
  // Whether the pixel before this block's first column is set.
  bool before = false;
  if (from > 0 && reaches_bottom) {
    before = warp == 0 && pixel_is_set(source, x.begin + from - 1, y.end - 1);
    before = block_any(before);
  }
  for (int at = from; at < to;) {
    const int tile_end = x.begin + to < x.end ? x.begin + to : x.end;
    const int n = load_tile(source, x.begin + at, tile_end, s.tile);
    const int pixel_x = x.begin + at + thread;
    const bool mine = thread < n && pixel_x < x.end;
    XTaps taps;
    if (mine) taps = x_taps(source, pixel_x);
    const bool by_cells = mine && s.tile.usable && taps.usable && in_tile(source, s.tile, taps.cell);
    const uint32_t by_pixels = warp_ballot(mine && !by_cells);

    ColumnSink sink;
    sink.slots = &s.slots[0][thread];
    sink.list = list;
    sink.list_at = 0;
    sink.base = static_cast<uint32_t>(pixel_x) * height;
    sink.direct = false;
    ColumnFacts facts;
    uint32_t position = 0;
    for (int pass = 0; pass < 2; ++pass) {
      // Pass 0 counts and keeps what has room in the slots; pass 1 makes the rest again.
      sink.direct = pass == 1;
      const bool cells_turn = by_cells && (pass == 0 || facts.inner > kColumnSlots);
      if (cells_turn) facts = cell_column(source, s.tile, taps, height, sink);
      for (uint32_t left = by_pixels; left != 0; left &= left - 1) {
        const int owner = lowest_bit(left);
        ColumnSink shared_sink = sink;
        shared_sink.list_at = warp_read(sink.list_at, owner);
        shared_sink.base = warp_read(sink.base, owner);
        shared_sink.direct = pass == 1;
        const ColumnFacts found = pixel_column(source, x.begin + at + warp * kWarp + owner, height,
                                               s.column[warp], shared_sink, pass == 1);
        if (lane == owner) facts = found;
      }
      if (pass == 1) break;
      s.ends_set[thread] = facts.last ? 1 : 0;
      block_sync();
      const bool previous = thread == 0 ? before : s.ends_set[thread - 1] != 0;
      const bool starts = thread < n && facts.first != previous;
      uint32_t total;
      position = count + scan(thread < n ? facts.inner + (starts ? 1u : 0u) : 0u, &total);
      if (starts) list.write(position++, sink.base);
      sink.list_at = position;
      if (by_cells && facts.inner <= kColumnSlots) {
        for (uint32_t k = 0; k < facts.inner; ++k) {
          list.write(position + k, sink.base + s.slots[k][thread]);
        }
      }
      count += total;
      before = s.ends_set[n - 1] != 0;
    }
    at += n;
    block_sync();  // the tile and the ends are free again
  }
  return count;
}

/// Bytes of one count, in groups of 5 bits with a sign.
RFSEG_DEVICE int group_count(int32_t v) {
  const uint32_t magnitude = static_cast<uint32_t>(v < 0 ? ~v : v);
  return (33 - leading_zeros(magnitude) + 4) / 5;
}

/// The counts of this block as differences, by local index.
struct Counts {
  ToggleList list;
  uint32_t global;   ///< index of the block's first count
  uint32_t tail[3];  ///< toggles before it, latest first

  RFSEG_DEVICE uint32_t toggle(int64_t i) const {
    return i >= 0 ? list.read(static_cast<uint32_t>(i)) : tail[-1 - i];
  }
  /// Run lengths are written as the difference to the one two before, from the fourth on.
  RFSEG_DEVICE int32_t value(uint32_t i) const {
    const uint32_t index = global + i;
    const int64_t at = i;
    const uint32_t run = toggle(at) - (index > 0 ? toggle(at - 1) : 0u);
    if (index <= 2) return static_cast<int32_t>(run);
    return static_cast<int32_t>(run - (toggle(at - 2) - toggle(at - 3)));
  }
};

/// Writes `total` bytes of s.text, which hold those from the 16-byte boundary before `at` on.
RFSEG_DEVICE void copy_text(const uint8_t* text, uint8_t* bytes, uint64_t at, uint32_t total) {
  const uint32_t begin = static_cast<uint32_t>(at & 15), end = begin + total;
  uint8_t* out = bytes + (at - begin);
  for (uint32_t j = 16 * static_cast<uint32_t>(thread_index()); j < end; j += 16 * kMaskThreads) {
    if (j >= begin && j + 16 <= end) {
      struct alignas(16) Words {
        uint32_t w[4];
      };
      *reinterpret_cast<Words*>(out + j) = *reinterpret_cast<const Words*>(text + j);
    } else {
      for (uint32_t k = j > begin ? j : begin; k < end && k < j + 16; ++k) out[k] = text[k];
    }
  }
}

RFSEG_DEVICE void encode_mask(const KernelArguments& a, MaskShared& s, int picture_index,
                              int slot) {
  const int rank = cluster_rank(), size = cluster_size(), thread = thread_index();
  const PictureParams picture = a.pictures[picture_index];
  const int query = a.mask_query[int64_t{picture_index} * a.mask_pitch + slot];
  const MaskSource source = mask_source(a, picture, picture_index, query);
  const ToggleList list{s.list, a.spill + uint64_t{a.spill_pitch} * static_cast<uint32_t>(block_x()),
                        a.spill_pitch};
  BlockScan<kMaskThreads> scan(s.scan);
  uint32_t count = list_toggles(source, picture, s, list, rank, size, scan);
  if (rank == size - 1) {  // the end of the picture closes the last run
    if (thread == 0) {
      list.write(count, static_cast<uint32_t>(picture.height) * static_cast<uint32_t>(picture.width));
    }
    ++count;
  }
  const uint32_t room = kListToggles + a.spill_pitch;
  const bool fits = count <= room;
  block_sync();
  if (thread == 0) {
    s.exchange.count = count;
    s.exchange.failed = fits ? 0u : 1u;
    for (uint32_t k = 0; k < 3; ++k) s.exchange.tail[k] = fits && k < count ? list.read(count - 1 - k) : 0u;
    if (!fits) atomic_max(&a.usage->toggles, count - kListToggles);
  }
  cluster_sync();

  // Where this block's counts stand among all, and the toggles before them.
  Counts counts;
  counts.list = list;
  counts.global = 0;
  uint32_t all = 0, known = 0;
  bool failed = false;
  counts.tail[0] = counts.tail[1] = counts.tail[2] = 0;
  for (int r = size - 1; r >= 0; --r) {
    const Exchange* other = cluster_peer(&s.exchange, r);
    const uint32_t theirs = other->count;
    failed = failed || other->failed != 0;
    all += theirs;
    if (r >= rank) continue;
    counts.global += theirs;
    for (uint32_t k = 0; k < 3 && k < theirs && known < 3; ++k) {
      const uint32_t toggle = other->tail[k];
      if (known == 0) counts.tail[0] = toggle;
      if (known == 1) counts.tail[1] = toggle;
      if (known == 2) counts.tail[2] = toggle;
      ++known;
    }
  }
  uint32_t bytes = 0;
  for (uint32_t from = 0; from < count && !failed; from += kMaskThreads) {
    const uint32_t i = from + static_cast<uint32_t>(thread);
    uint32_t total;
    scan(i < count ? static_cast<uint32_t>(group_count(counts.value(i))) : 0u, &total);
    bytes += total;
  }
  if (thread == 0) {
    s.exchange.bytes = bytes;
    if (rank == 0) {
      // Room for the longest counts that a picture of this size can have; what is not needed stays
      // unused.
      const uint32_t pixels =
          static_cast<uint32_t>(picture.height) * static_cast<uint32_t>(picture.width);
      const uint64_t longest = static_cast<uint64_t>(group_count(static_cast<int32_t>(pixels)));
      const uint64_t need = (all * longest + 15) / 16 * 16;
      const uint64_t base = atomic_add(&a.usage->bytes, need);
      s.exchange.base = failed || base + need > a.byte_capacity ? kNoRoom : base;
    }
  }
  cluster_sync();

  uint64_t at = cluster_peer(&s.exchange, 0)->base;
  if (at == kNoRoom) {
    if (rank == 0 && thread == 0) a.header->overflow = 1;
  } else {
    uint32_t length = 0, below = 0;
    for (int r = 0; r < size; ++r) {
      const uint32_t theirs = cluster_peer(&s.exchange, r)->bytes;
      length += theirs;
      if (r < rank) below += theirs;
    }
    if (rank == 0 && thread == 0) {
      a.mask_records[int64_t{picture_index} * a.mask_pitch + slot] = {static_cast<uint32_t>(at),
                                                                      length};
    }
    at += below;
    for (uint32_t from = 0; from < count; from += kMaskThreads) {
      const uint32_t i = from + static_cast<uint32_t>(thread);
      int32_t value = i < count ? counts.value(i) : 0;
      const int groups = i < count ? group_count(value) : 0;
      uint32_t total;
      const uint32_t offset = scan(static_cast<uint32_t>(groups), &total);
      uint8_t* text = s.text + (at & 15) + offset;
      for (int g = 0; g < groups; ++g) {
        text[g] = static_cast<uint8_t>(48 + (value & 31) + (g + 1 < groups ? 32 : 0));
        value >>= 5;
      }
      block_sync();
      copy_text(s.text, a.bytes, at, total);
      at += total;
      block_sync();
    }
  }
  cluster_sync();  // nobody reads this block's shared memory any more
}

/// Grid of whole clusters of kMaskThreads; any number of them does all masks of the batch.
RFSEG_DEVICE void mask_kernel(const KernelArguments& a, MaskShared& s) {
  await_previous_kernel();
  const int lane = thread_index() % kWarp;
  const int clusters = grid_x() / cluster_size();
  for (int item = block_x() / cluster_size();; item += clusters) {
    // Mask number `item` of the batch.
    int picture = -1, slot = 0, base = 0;
    for (int from = 0; from < a.batch && picture < 0; from += kWarp) {
      const int mine = from + lane < a.batch ? a.mask_count[from + lane] : 0;
      int sum = mine;
      for (int d = 1; d < kWarp; d *= 2) {
        const int other = warp_read_below(sum, d);
        if (lane >= d) sum += other;
      }
      const uint32_t beyond = warp_ballot(item < base + sum);
      if (beyond != 0) {
        const int owner = lowest_bit(beyond);
        picture = from + owner;
        slot = item - base - warp_read(sum - mine, owner);
      }
      base += warp_read(sum, kWarp - 1);
    }
    if (picture < 0) return;
    encode_mask(a, s, picture, slot);
  }
}

}  // namespace rfseg::cuda
