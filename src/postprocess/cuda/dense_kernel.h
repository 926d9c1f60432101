#pragma once

// Masks of pixels. Blocks take tiles of all masks in turn (dense_tile.h), a warp each. What is zero
// already is not written: the bytes are nobody's but these kernels', and a bit a run of 16 pixels
// (KernelArguments::set_runs) says whether the calls before have left set pixels in it. So a call
// writes the runs that have set pixels now or had before, wherever the masks of this call lie.

#include "postprocess/cuda/alone.h"
#include "postprocess/cuda/dense_tile.h"
#include "postprocess/cuda/hand_over.h"

namespace rfseg::cuda {

struct DenseShared {
  float cells[kDenseWarps][kWindowCells];  ///< of the tiles; before, a kernel alone selects there
  DenseTile tiles[kDenseWarps];
  uint16_t borders[kBorders];
  uint32_t border_count, stored_count;
  uint8_t stored[kDenseWarps];  ///< tiles that have or had set pixels; 128 more: had alone
  int32_t mask_query[kAloneThreads];
  uint32_t masks;         ///< of those
  PictureParams picture;  ///< the first one

  RFSEG_DEVICE AloneShared& selection() {
    static_assert(sizeof(AloneShared) <= sizeof(cells));
    return *reinterpret_cast<AloneShared*>(cells);
  }
};
static_assert(sizeof(DenseShared) <= 99 * 1024);  // what every GPU from 8.0 on has

/// The tiles of a picture's masks.
struct TileGrid {
  uint32_t across = 0, each = 0;  ///< tiles of a row of them, and of a mask
  /// Rows as long as they are in memory: earlier masks may have left pixels there.
  RFSEG_DEVICE TileGrid(int height, int width, MaskBytes format) {
    const int runs = static_cast<int>(row_pitch(width, format)) / run_bytes(format);
    across = (static_cast<uint32_t>(runs) + kWarp - 1) / kWarp;
    each = across * ((static_cast<uint32_t>(height) + kTileRows - 1) / kTileRows);
  }
};

/// Up to 32 pictures, a lane each: their tiles and bytes, with those of the pictures before.
struct TilesOfPictures {
  uint32_t tiles = 0, total_tiles = 0;  ///< up to this lane's picture, of all
  uint64_t bytes = 0, total_bytes = 0;
  uint32_t own_tiles = 0;
  uint64_t own_bytes = 0;

  /// All lanes of a warp.
  RFSEG_DEVICE TilesOfPictures(const KernelArguments& a, MaskBytes format, int from) {
    const int lane = thread_index() % kWarp;
    if (from + lane < a.batch) {
      const PictureParams& p = a.pictures[from + lane];
      const uint32_t masks = static_cast<uint32_t>(a.counts[from + lane].masks);
      own_tiles = masks * TileGrid(p.height, p.width, format).each;
      own_bytes = masks * mask_bytes(p.height, p.width, format);
    }
    tiles = own_tiles;
    bytes = own_bytes;
    for (int d = 1; d < kWarp; d *= 2) {
      const uint32_t below = warp_read_below(tiles, d);
      const uint64_t bytes_below = warp_read_below(bytes, d);
      if (lane >= d) {
        tiles += below;
        bytes += bytes_below;
      }
    }
    total_tiles = warp_read(tiles, kWarp - 1);
    total_bytes = warp_read(bytes, kWarp - 1);
  }
};

/// A block's tiles of one group of pictures, those from `from` on, whose masks begin at byte
/// `begin`: of each round every warp has one.
template <MaskBytes format, bool plain, bool alone>
class Tiles {
 public:
  RFSEG_DEVICE Tiles(const KernelArguments& a, DenseShared& s, int from, uint64_t begin,
                     const TilesOfPictures* pictures)
      : a_(a),
        s_(s),
        mine_(s.tiles[thread_index() / kWarp]),
        from_(from),
        begin_(begin),
        pictures_(pictures) {}

  /// What does not depend on the query of this warp's tile.
  RFSEG_DEVICE void plan(uint32_t round) {
    const int lane = thread_index() % kWarp;
    int picture = from_;
    uint32_t within = index_of(round);
    uint64_t begin = begin_;
    if (!alone && a_.batch > 1) {
      const int owner = lowest_bit(warp_ballot(within < pictures_->tiles));
      picture += owner;
      within -= warp_read(pictures_->tiles - pictures_->own_tiles, owner);
      begin += warp_read(pictures_->bytes - pictures_->own_bytes, owner);
    }
    if (lane == 0) mine_.picture = picture;
    const PictureParams& p = picture_of(picture);
    const TileGrid grid(p.height, p.width, format);
    const uint32_t mask = within / grid.each, rest = within - mask * grid.each;
    const uint32_t down = rest / grid.across, across = rest - down * grid.across;
    const int64_t pitch = row_pitch(p.width, format);
    const int row = static_cast<int>(down) * kTileRows;
    const int runs = static_cast<int>(pitch) / run_bytes(format) - static_cast<int>(across) * kWarp;
    const int count = p.height - row < kTileRows ? p.height - row : kTileRows;
    begin += mask * mask_bytes(p.height, p.width, format);
    if (lane == 0) mine_.slot = static_cast<int>(mask);
    // A plan made before the selection may be for a mask that there is no room for.
    if (alone && begin + mask_bytes(p.height, p.width, format) > a_.byte_capacity) return;
    begin += static_cast<uint64_t>(row) * static_cast<uint64_t>(pitch) +
             across * static_cast<uint32_t>(kWarp * run_bytes(format));
    plan_tile<format, plain>(a_, TileSource<plain>(a_, p, picture, 0), mine_, pitch, begin, row,
                             static_cast<int>(across) * kRun * kWarp, count,
                             runs < kWarp ? runs : kWarp);
  }

  /// Writes all of them, of which there are `total`. `planned`: so is the first round. All threads.
  RFSEG_DEVICE void write(uint32_t total, bool planned) {
    const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
    RFSEG_UNROLL_BY(1)
    for (uint32_t round = 0; first_of(round) < total; ++round) {
      if (index_of(round) < total) {
        if (round > 0 || !planned) plan(round);
        warp_sync();
        const int picture = mine_.picture, slot = mine_.slot;
        const int query =
            alone ? s_.mask_query[slot] : a_.mask_query[int64_t{picture} * a_.mask_pitch + slot];
        if (lane == 0) mine_.query = query;
        const TileSource<plain> source(a_, picture_of(picture), picture, query);
        const bool pixels =
            classify_tile<plain>(source, mine_, s_.cells[warp], warp, s_.borders, &s_.border_count);
        const bool before = lane < mine_.count && mine_.before[lane % kTileRows] != 0;
        if ((warp_ballot(before) != 0 || pixels) && lane == 0) {
          s_.stored[atomic_add(&s_.stored_count, 1u)] =
              static_cast<uint8_t>(pixels ? warp : warp | 128);
        }
      }
      block_sync();
      fill_borders(index_of(round) < total);
      block_sync();
      // Four warps a tile.
      constexpr int kParts = 4, kPart = kTileRows / kParts;
      const int parts = kParts * static_cast<int>(s_.stored_count);
      RFSEG_UNROLL_BY(1)
      for (int part = warp; part < parts; part += kDenseWarps) {
        const int stored = s_.stored[part / kParts];
        const DenseTile& tile = s_.tiles[stored & 127];
        const int first = part % kParts * kPart;
        const int last = first + kPart < tile.count ? first + kPart : tile.count;
        store_rows<format>(tile, stored >= 128, first, last,
                           row_pitch(picture_of(tile.picture).width, format), a_.bytes,
                           a_.set_runs);
      }
      if (alone && first_of(round + 1) >= total) return;
      block_sync();
      if (thread_index() == 0) s_.border_count = s_.stored_count = 0;
      block_sync();
    }
  }

 private:
  RFSEG_DEVICE static uint32_t first_of(uint32_t round) {
    return round * static_cast<uint32_t>(grid_x()) * kDenseWarps + static_cast<uint32_t>(block_x());
  }
  /// Neighbouring tiles to different blocks: where one has much to do, so have those beside it.
  RFSEG_DEVICE static uint32_t index_of(uint32_t round) {
    return first_of(round) + static_cast<uint32_t>(thread_index() / kWarp * grid_x());
  }
  /// Those of the list, and of this warp's tile, if it has one, those that the list had no room
  /// for.
  RFSEG_DEVICE void fill_borders(bool tiled) {
    const int half = thread_index() % kWarp / kRun, warp = thread_index() / kWarp;
    const int count =
        static_cast<int>(s_.border_count < kBorders ? s_.border_count : uint32_t{kBorders});
    uint32_t rows = tiled ? mine_.late : 0, late = 0;
    int base = 2 * warp, late_row = 0;
    while (true) {
      int number = warp, run, row;
      bool valid = true;
      if (base < count) {
        valid = base + half < count;
        const uint32_t border = s_.borders[valid ? base + half : base];
        number = static_cast<int>(border >> 9);
        run = static_cast<int>(border >> 4 & 31u);
        row = static_cast<int>(border & 15u);
        base += 2 * kDenseWarps;
      } else {
        if (late == 0) {
          if (rows == 0) break;
          late_row = lowest_bit(rows);
          rows &= rows - 1;
          late = mine_.spans[late_row];
        }
        row = late_row;
        run = lowest_bit(late);
        late &= late - 1;
        valid = half == 0 || late != 0;
        if (half != 0 && late != 0) run = lowest_bit(late);
        late &= late - 1;
      }
      DenseTile& tile = s_.tiles[number];
      const TileSource<plain> source(a_, picture_of(tile.picture), tile.picture, tile.query);
      fill_border<format, plain>(a_, source, tile, s_.cells[number], run, row, valid);
    }
  }
  RFSEG_DEVICE const PictureParams& picture_of(int picture) const {
    return alone || a_.batch == 1 ? s_.picture : a_.pictures[picture];
  }
  const KernelArguments& a_;
  DenseShared& s_;
  DenseTile& mine_;
  int from_;
  uint64_t begin_;
  const TilesOfPictures* pictures_;
};

/// Any number of blocks of kDenseThreads write all masks of the batch. `plain`: so are all
/// pictures' axes. `alone`: of one picture, with the selection.
template <MaskBytes format, bool plain, bool alone>
RFSEG_DEVICE void dense_kernel(const KernelArguments& a, DenseShared& s) {
  load_picture(a, 0, s.picture);  // parameters were there before the kernel before this one began
  if (thread_index() == 0) s.border_count = s.stored_count = 0;
  if (alone) release_next_kernel();
  block_sync();
  await_previous_kernel();
  int masks = 0;
  Tiles<format, plain, alone> tiles(a, s, 0, 0, nullptr);
  if (alone) {
    AloneShared& selection = s.selection();
    // While the logits come, the first tiles are planned.
    const AloneCall call = select_in_block<kDenseThreads>(a, selection, s.mask_query, &s.masks,
                                                          [&] { tiles.plan(0); });
    if (!call.fits) {
      if (block_x() == 0 && thread_index() == 0) a.header->overflow = kTooManyCandidates;
      return;
    }
    if (block_x() == grid_x() - 1) {
      hand_over_alone(a, selection, call, s.picture);
      block_sync();  // the cells take its memory
    }
    masks = call.counts.masks;
  } else {
    hand_over_detections(a, format, kDenseThreads);
    masks = a.counts[0].masks;
  }
  // No mask is begun where not all have room.
  const TileGrid grid(s.picture.height, s.picture.width, format);
  uint64_t bytes =
      static_cast<uint64_t>(masks) * mask_bytes(s.picture.height, s.picture.width, format);
  if (!alone && a.batch > 1) bytes = DensePlaces(a, format).before(a.batch);
  if (bytes > a.byte_capacity) {
    if (block_x() == 0 && thread_index() == 0) {
      a.usage->bytes = bytes;
      a.header->overflow = kBuffersTooSmall;
    }
    return;
  }
  if (alone || a.batch == 1) {
    tiles.write(static_cast<uint32_t>(masks) * grid.each, alone);
    return;
  }
  uint64_t begin = 0;
  RFSEG_UNROLL_BY(1)
  for (int from = 0; from < a.batch; from += kWarp) {
    const TilesOfPictures pictures(a, format, from);
    Tiles<format, plain, alone> some(a, s, from, begin, &pictures);
    some.write(pictures.total_tiles, false);
    begin += pictures.total_bytes;
  }
}

}  // namespace rfseg::cuda
