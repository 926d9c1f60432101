#pragma once

#include <cstddef>

#include "preprocess/cuda/row_products.h"
#include "preprocess/cuda/source_rows.h"
#include "preprocess/cuda/tensor_writer.h"

// Pillow's resize. A tile is 64 columns x up to 16 rows of outputs; its source rows come into
// shared memory in rounds of 16. Eight column groups times two shares are the 16 warps of a block:
// of a group, share 0 takes the even rounds and share 1 the odd ones, each both passes of them
// (row_products.h), and in the end the two add what they have and write the outputs. So a warp
// waits for its rows and, once a tile, for the other share. Rows of the next tile are asked for
// before this one is begun, where both have room.
//
// Where Pillow runs the vertical pass first, the frame is `swapped`: what is called a column here
// is a row of the picture.

namespace rfseg::cuda {

constexpr int kShares = 2;
static_assert(kShares * kColumnGroups == kWarps);

/// What a tile is.
struct alignas(16) TileRecords {
  FrameRecord frame;
  ColumnWindow window;
  RowWindow rows;
  int32_t frame_index, across, down, unused;
};

/// What the shares give each other: one channel, and half of the one in the middle.
struct SharedSums {
  Words4 channel[kShares][kColumnGroups][kWarp];
  Words2 middle[kShares][kColumnGroups][kWarp];
};

struct PilShared {
  TileRecords tiles[4];  ///< the one before, the one at work and the next two
  BatchHeader header;
  SlotBarriers slots[2];  ///< a tile with room in half the memory has one half of them
  SharedSums sums[2];
  alignas(16) float normalised[kChannels][256];
  /// PreprocessArguments::row_bytes of them: copied rows of kDirect; else rows of pixels, and then
  /// copied rows.
  alignas(16) uint8_t source[16];
};

class PilTile {
 public:
  /// `turn`: of the block's tiles this is the turn-th.
  RFSEG_DEVICE PilTile(const PreprocessArguments& a, PilShared& shared, const TileRecords& tile,
                       int turn)
      : a_(a), shared_(shared), tile_(tile), f_(tile.frame), thread_(opaque(thread_index())) {
    const bool swapped = f_.swapped != 0;
    columns_ = (swapped ? a.height : a.width) - tile.across * kTileColumns;
    if (columns_ > kTileColumns) columns_ = kTileColumns;
    rounds_ = (tile.rows.count + kRound - 1) / kRound;
    half_ = f_.half != 0 ? turn & 1 : 0;
    turn_ = turn & 1;
    const int warp = thread_ / kWarp;
    group_ = warp % kColumnGroups;
    share_ = warp / kColumnGroups;
    active_ = group_ * kColumnGroup < columns_;
    RFSEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) totals_[c].w[i] = share_ == 0 ? uint32_t{kHalfOfByte} : 0u;
    }
  }

  /// Of kDirect: begins the copies of this warp's rows for as many rounds as have room.
  RFSEG_DEVICE void start_direct() const {
    const int depth = f_.depth;
    start_rounds(0, rounds_ < depth ? rounds_ : depth, 0);
  }

  /// Of kDirect, after start_direct(): the products of all rounds. `phases`: of shared.slots, a bit
  /// each; returns those afterwards.
  template <int held, bool all_have_room>
  RFSEG_DEVICE uint32_t multiply_direct(uint32_t phases) {
    const int steps = f_.steps, depth = all_have_room ? kSlots : f_.depth, pitch = f_.pitch,
              row_steps = f_.row_steps;
    const int round_bytes = kRound * pitch, first_bit = half_ * kSlots;
    ColumnWeights<held> weights;
    RowWeights row_weights;
    const Words2* rows = row_table(row_steps) + share_ * kDigits * kWarp;
    if (active_) {
      weights.load(column_table(steps), steps);
      if (share_ < rounds_) row_weights.load(rows);
    }
    const uint8_t* const pixels = slot_rows(0) + lane_offset(pitch);
    int slot = 0;
    RFSEG_NO_UNROLL
    for (int round = 0; round < rounds_; ++round) {
      if (active_ && round % kShares == share_) {
        wait_row(shared_.slots[half_][slot], phases >> (first_bit + slot) & 1);
        multiply_round(pixels + slot * round_bytes, pitch, steps, weights, row_weights);
        rows += kShares * kDigits * kWarp;
        if (round + kShares < rounds_) row_weights.load(rows);
      }
      phases ^= 1u << (first_bit + slot);
      if (!all_have_room && rounds_ > depth) {
        block_sync();
        if (round + depth < rounds_) start_rounds(round + depth, round + depth + 1, slot);
      }
      slot = slot + 1 < depth ? slot + 1 : 0;
    }
    return phases;
  }

  /// The products of all rounds, of all other ways to read.
  RFSEG_DEVICE uint32_t multiply_otherwise(uint32_t phases) {
    const TileInput in{
        f_,
        reinterpret_cast<const FrameRecord*>(a_.parameters + a_.frames) + tile_.frame_index,
        a_.parameters,
        tile_.window.range.first,
        tile_.window.range.end - tile_.window.range.first,
        tile_.rows.first,
        tile_.rows.count,
        thread_,
        shared_.source};
    if (f_.reading == Reading::kStaged) {
      phases = f_.steps <= 2 ? run_rounds<StagedReader, 2>(in, phases)
                             : run_rounds<StagedReader, 0>(in, phases);
    } else if (f_.reading == Reading::kGeneral) {
      phases = run_rounds<GeneralReader, 0>(in, phases);
    } else {
      run_strips(in);
    }
    row_written();  // copies of the next tile may come to the same place
    return phases;
  }

  /// Before the block's barrier: what the other share needs.
  RFSEG_DEVICE void give_sums() const {
    const bool first = share_ == 0;
    SharedSums& to = shared_.sums[turn_];
    const int lane = thread_ % kWarp;
    Words4 channel;
    Words2 middle;
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) channel.w[i] = first ? totals_[2].w[i] : totals_[0].w[i];
    RFSEG_UNROLL
    for (int i = 0; i < 2; ++i) middle.w[i] = first ? totals_[1].w[2 + i] : totals_[1].w[i];
    to.channel[share_][group_][lane] = channel;
    to.middle[share_][group_][lane] = middle;
  }

  /// After it: share 0 writes channel 0 and rows 0 to 7 of channel 1, share 1 the others.
  template <bool half>
  RFSEG_DEVICE void write() const {
    const int lane = thread_ % kWarp, column = group_ * kColumnGroup + lane % 4 * 2;
    if (column >= columns_) return;
    const bool first = share_ == 0, swapped = f_.swapped != 0;
    const SharedSums& from = shared_.sums[turn_];
    Words4 channel = from.channel[share_ ^ 1][group_][lane];
    Words2 middle = from.middle[share_ ^ 1][group_][lane];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) channel.w[i] += first ? totals_[0].w[i] : totals_[2].w[i];
    RFSEG_UNROLL
    for (int i = 0; i < 2; ++i) middle.w[i] += first ? totals_[1].w[i] : totals_[1].w[2 + i];

    const int tile_row = tile_.down * a_.tile_rows, row = lane / 4;
    int rows = (swapped ? a_.width : a_.height) - tile_row;
    if (rows > a_.tile_rows) rows = a_.tile_rows;
    const int row_step = swapped ? 1 : a_.width, column_step = swapped ? a_.width : 1;
    const int64_t plane = static_cast<int64_t>(a_.height) * a_.width;
    const int64_t at = tile_.frame_index * kChannels * plane +
                       static_cast<int64_t>(tile_row + row) * row_step +
                       static_cast<int64_t>(tile_.across * kTileColumns + column) * column_step;
    const TensorWriter<half> writer{shared_.header.tensor};
    const bool pairs = !swapped && a_.width % 2 == 0, both = column + 1 < columns_;
    const auto write_two = [&](int to_channel, int below, uint32_t one, uint32_t two) {
      if (row + below >= rows) return;
      const int64_t to = at + to_channel * plane + below * row_step;
      const float value = shared_.normalised[to_channel][one >> 24];
      const float other = shared_.normalised[to_channel][two >> 24];
      if (pairs) {
        writer.two(to, value, other);
      } else {
        writer.one(to, value);
        if (both) writer.one(to + column_step, other);
      }
    };
    const int own = (f_.reversed != 0) == first ? 2 : 0;
    write_two(own, 0, channel.w[0], channel.w[1]);
    write_two(own, 8, channel.w[2], channel.w[3]);
    write_two(1, first ? 0 : 8, middle.w[0], middle.w[1]);
  }

 private:
  /// Where slot `slot` of kDirect is.
  RFSEG_DEVICE uint8_t* slot_rows(int slot) const {
    return shared_.source + half_ * (a_.row_bytes / 32 * 16) + slot * kRound * f_.pitch;
  }

  /// Begins the copies of this warp's rows of rounds [round, end), the first to `slot`.
  RFSEG_DEVICE void start_rounds(int round, int end, int slot) const {
    const int warp = thread_ / kWarp, pitch = f_.pitch;
    const int first = tile_.window.range.first, rows = tile_.rows.count;
    const uint32_t bytes =
        static_cast<uint32_t>(kChannels * (tile_.window.range.end - first) + 15) & ~15u;
    const int64_t stride = f_.strides[0];
    int row = round * kRound + warp;
    const uint8_t* from = f_.planes[0] + (f_.origin_y + tile_.rows.first + row) * stride +
                          kChannels * (f_.origin_x + first);
    uint8_t* to = slot_rows(slot) + warp * pitch;
    RFSEG_NO_UNROLL
    for (; round < end; ++round, ++slot) {
      RowBarrier& barrier = shared_.slots[half_][slot];
      expect_row(barrier, row < rows ? bytes : 0);
      if (row < rows) copy_row(to, from, bytes, barrier);
      row_started(barrier);
      row += kRound;
      from += kRound * stride;
      to += kRound * pitch;
    }
  }

  /// Weights of the output rows, for the tile's first round.
  RFSEG_DEVICE const Words2* row_table(int row_steps) const {
    return reinterpret_cast<const Words2*>(a_.parameters + f_.row_table) +
           tile_.down * row_steps * kDigits * kWarp + thread_ % kWarp;
  }
  RFSEG_DEVICE const Words2* column_table(int steps) const {
    return reinterpret_cast<const Words2*>(a_.parameters + f_.column_table) +
           (tile_.across * kColumnGroups + group_) * steps * kDigits * kWarp + thread_ % kWarp;
  }
  /// Where this lane begins to read rows of pixels.
  RFSEG_DEVICE int lane_offset(int pitch) const {
    const int lane = thread_ % kWarp;
    return lane / 4 * pitch +
           kChannels * (tile_.window.start[group_] - tile_.window.range.first + lane % 4 * 8);
  }

  /// Both passes of a round.
  template <int held>
  RFSEG_DEVICE void multiply_round(const uint8_t* pixels, int pitch, int steps,
                                   const ColumnWeights<held>& weights,
                                   const RowWeights& row_weights) {
    DigitSums sums;
    begin_sums(sums);
    multiply_rows(pixels, pitch, weights, 0, steps, sums);
    multiply_columns(sums, row_weights, totals_);
  }

  template <class Reader, int held>
  RFSEG_DEVICE uint32_t run_rounds(const TileInput& in, uint32_t phases) {
    Reader reader(in, shared_.source + 2 * kRound * f_.pitch, shared_.slots[0], phases);
    ColumnWeights<held> weights;
    RowWeights row_weights;
    const int offset = lane_offset(f_.pitch), steps = f_.steps;
    const Words2* const rows = row_table(f_.row_steps);
    // The loop begins with rounds that only start copies, so that their code stands once.
    const int ahead = f_.depth > 0 ? f_.depth - 1 : 0;
    RFSEG_NO_UNROLL
    for (int round = -ahead; round < rounds_; ++round) {
      if (round + ahead < rounds_) reader.start(round + ahead);
      if (round < 0) continue;
      if (round == 0 && active_) weights.load(column_table(steps), steps);
      const bool mine = active_ && round % kShares == share_;
      if (mine) row_weights.load(rows + round * kDigits * kWarp);
      reader.store(round);
      block_sync();
      if (mine) {
        multiply_round(in.pixel_row(round, 0) + offset, f_.pitch, steps, weights, row_weights);
      }
    }
    return reader.phases();
  }

  /// Windows too wide for shared memory: a round's rows come in strips, one after the other. A
  /// strip has all inputs of the products that begin in its first `strip_advance` ones.
  RFSEG_DEVICE void run_strips(const TileInput& in) {
    const int advance = f_.strip_advance, columns = in.columns;
    ColumnWeights<0> weights;
    weights.table = active_ ? column_table(f_.steps) : nullptr;
    const int warp = thread_ / kWarp, lane = thread_ % kWarp;
    const int lane_place = lane / 4 * f_.pitch + kChannels * (lane % 4 * 8);
    RFSEG_NO_UNROLL
    for (int round = 0; round < rounds_; ++round) {
      DigitSums sums;
      begin_sums(sums);
      const bool mine = active_ && round % kShares == share_;
      RFSEG_NO_UNROLL
      for (int at = 0; at < columns; at += advance) {
        block_sync();
        store_general(in, in.pixel_row(0, warp), round * kRound + warp, at,
                      at + f_.strip < columns ? at + f_.strip : columns);
        block_sync();
        if (!mine) continue;
        // Steps whose first input lies in [at, at + advance).
        const int start = tile_.window.start[group_] - in.column - at;
        const int low = start >= 0 ? 0 : (-start + 31) / 32;
        int high = start >= advance ? 0 : (advance - start + 31) / 32;
        if (high > f_.steps) high = f_.steps;
        multiply_rows(in.pixel_row(0, 0) + lane_place + kChannels * start, f_.pitch, weights, low,
                      high, sums);
      }
      if (!mine) continue;
      RowWeights row_weights;
      row_weights.load(row_table(f_.row_steps) + round * kDigits * kWarp);
      multiply_columns(sums, row_weights, totals_);
    }
  }

  const PreprocessArguments& a_;
  PilShared& shared_;
  const TileRecords& tile_;
  const FrameRecord& f_;
  int thread_;  ///< not to be computed with ahead of the tile
  int columns_, rounds_, half_, turn_, group_, share_;
  bool active_;  ///< the group has columns
  Words4 totals_[kChannels];
};

/// Which tile has number `number`.
struct TilePlace {
  int frame = 0, across = 0, down = 0;

  /// As if the frame were not swapped.
  RFSEG_DEVICE TilePlace(const PreprocessArguments& a, int number) {
    int tile = number;
    if (tile >= a.tiles_per_frame) {
      frame = tile / a.tiles_per_frame;
      tile -= frame * a.tiles_per_frame;
    }
    down = static_cast<int>(static_cast<float>(tile) * a.across_reciprocal);
    across = tile - down * a.tiles_across;
    if (across < 0) --down, across += a.tiles_across;
    if (across >= a.tiles_across) ++down, across -= a.tiles_across;
  }
  /// Of a frame that is swapped, for a network that is not square.
  RFSEG_DEVICE void swap(const PreprocessArguments& a, int number, int tiles_across) {
    const int tile = number - frame * a.tiles_per_frame;
    down = tile / tiles_across;
    across = tile - down * tiles_across;
  }
};

// A tile's records come by one warp, a piece a lane.
constexpr int kFramePieces = sizeof(FrameRecord) / sizeof(Words4);
constexpr int kRecordPieces = offsetof(TileRecords, frame_index) / sizeof(Words4);
static_assert(kRecordPieces < kWarp - 1 && sizeof(RowWindow) == sizeof(Words4));

RFSEG_DEVICE Words4 fetch_piece(const PreprocessArguments& a, const TilePlace& place, int lane) {
  const int down = place.down < a.row_windows ? place.down : a.row_windows - 1;
  uint32_t from = a.frames + static_cast<uint32_t>(place.frame * int{sizeof(FrameRecord)});
  int piece = lane;
  if (lane >= kFramePieces) {
    from = a.columns + static_cast<uint32_t>((place.frame * a.column_windows + place.across) *
                                             int{sizeof(ColumnWindow)});
    piece = lane - kFramePieces;
  }
  if (lane >= kRecordPieces - 1) {
    from = a.rows +
           static_cast<uint32_t>((place.frame * a.row_windows + down) * int{sizeof(RowWindow)});
    piece = 0;
  }
  return load_constant(reinterpret_cast<const Words4*>(a.parameters + from) + piece);
}

RFSEG_DEVICE void keep_piece(TileRecords& to, const TilePlace& place, int lane,
                             const Words4& piece) {
  if (lane < kRecordPieces) {
    reinterpret_cast<Words4*>(&to)[lane] = piece;
  } else if (lane == kWarp - 1) {
    to.frame_index = place.frame;
    to.across = place.across;
    to.down = place.down;
  }
}

/// What a block needs before its first tile: its records and the next tile's, and what is common to
/// all.
RFSEG_DEVICE void begin_tiles(const PreprocessArguments& a, PilShared& shared, int tiles) {
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  // The 3 x 256 values that a byte can become.
  constexpr int kValues = sizeof(shared.normalised) / sizeof(Words4);
  constexpr int kHeader = sizeof(BatchHeader) / sizeof(Words4);
  static_assert(2 * kWarp + kValues + kHeader <= kPreprocessThreads);
  const int number = block_x() + warp * grid_x(), value = thread - 2 * kWarp;
  if (warp < 2) {
    if (number < tiles) {
      const TilePlace place(a, number);
      keep_piece(shared.tiles[warp], place, lane, fetch_piece(a, place, lane));
    }
  } else if (value < kValues + kHeader) {
    const bool is_header = value >= kValues;
    const auto from =
        reinterpret_cast<const Words4*>(a.parameters + (is_header ? 0 : a.normalised));
    Words4* const to = is_header ? reinterpret_cast<Words4*>(&shared.header)
                                 : reinterpret_cast<Words4*>(shared.normalised);
    const int i = is_header ? value - kValues : value;
    to[i] = load_constant(from + i);
  }
  // A warp makes one: different lanes would take turns.
  static_assert(2 * kSlots == kWarps);
  if (lane == 0) make_row_barrier(shared.slots[warp / kSlots][warp % kSlots], kWarps);
  block_sync();
}

/// Any number of blocks of kPreprocessThreads. `direct`: all frames are read so, with their tiles
/// in half the memory and up to kHeldSteps steps; a kernel of its own, for it has a third of the
/// registers and a tenth of the instructions of the others.
template <bool half, bool direct>
RFSEG_DEVICE void pil_kernel(const PreprocessArguments& a, PilShared& shared) {
  const int tiles = a.batch * a.tiles_per_frame;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  begin_tiles(a, shared, tiles);
  release_next_kernel();
  await_previous_kernel();
  uint32_t phases = 0;
  bool started = false;
  int turn = 0;
  RFSEG_NO_UNROLL
  for (int number = block_x(); number < tiles; number += grid_x(), ++turn) {
    TileRecords& records = shared.tiles[turn & 3];
    const TileRecords& next = shared.tiles[(turn + 1) & 3];
    TileRecords& after_next = shared.tiles[(turn + 2) & 3];
    bool valid = records.down < records.frame.tiles_down;
    if (!direct && records.frame.swapped != 0 && a.width != a.height) {
      TilePlace place(a, number);
      place.swap(a, number, records.frame.tiles_across);
      valid = place.down < records.frame.tiles_down;
      if (valid) {
        block_sync();
        if (warp == 0) keep_piece(records, place, lane, fetch_piece(a, place, lane));
        block_sync();
      }
    }
    const bool more = number + grid_x() < tiles;
    const bool start_next = more && records.frame.half != 0 && next.frame.half != 0 &&
                            next.down < next.frame.tiles_down;
    const int later = number + 2 * grid_x();
    const bool fetches = warp == kWarps - 1 && later < tiles;
    Words4 piece;
    if (fetches) piece = fetch_piece(a, TilePlace(a, later), lane);
    if (valid) {
      PilTile tile(a, shared, records, turn);
      if (direct || records.frame.reading == Reading::kDirect) {
        if (!started) tile.start_direct();
        if (start_next) PilTile(a, shared, next, turn + 1).start_direct();
        phases = direct || records.frame.steps <= kHeldSteps
                     ? tile.multiply_direct<kHeldSteps, direct>(phases)
                     : tile.multiply_direct<0, direct>(phases);
      } else {
        phases = tile.multiply_otherwise(phases);
      }
      if (fetches) keep_piece(after_next, TilePlace(a, later), lane, piece);
      tile.give_sums();
      block_sync();
      tile.write<half>();
    } else {
      if (fetches) keep_piece(after_next, TilePlace(a, later), lane, piece);
      block_sync();
    }
    started = valid && start_next;
  }
}

}  // namespace rfseg::cuda
