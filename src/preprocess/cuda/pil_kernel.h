#pragma once

#include <cstddef>

#include "preprocess/cuda/await_pixels.h"
#include "preprocess/cuda/row_products.h"
#include "preprocess/cuda/source_rows.h"
#include "preprocess/cuda/tensor_writer.h"

// Pillow's resize. A tile is 64 columns x up to 16 rows of outputs; its source rows come into
// shared memory in rounds of 16. Eight column groups times two shares are the 16 warps of a block:
// of a group, the shares take the rounds in turn, each both passes of them (row_products.h), and in
// the end they add what they have, a channel each, and write the outputs. So a warp waits for its
// rows and, once a tile, for the other shares. Rows of the next tile are asked for before this one
// is begun, where both have room.
//
// Where Pillow runs the vertical pass first, the frame is `swapped`: what is called a column here
// is a row of the picture.

namespace rfseg::cuda {

/// What a tile is.
struct alignas(16) TileRecords {
  FrameRecord frame;
  ColumnWindow window;
  RowWindow rows;
  int32_t frame_index, across, down, unused;
};

/// What the shares give to the one that ends a channel.
using SharedSums = Words4[kChannels][kShares - 1][kColumnGroups][kWarp];

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
    warp_ = warp_read(thread_ / kWarp, 0);  // known to be the same for all lanes
    group_ = warp_ % kColumnGroups;
    share_ = warp_ / kColumnGroups;
    active_ = group_ * kColumnGroup < columns_;
    RFSEG_UNROLL
    for (int c = 0; c < kChannels; ++c) totals_[c] = Words4{};
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
    Weights row_weights;
    const int lane = thread_ % kWarp;
    const std::byte* rows = row_table(row_steps) + share_ * kMatrixBytes;
    if (active_) {
      weights.load(column_table(steps), lane);
      row_weights.load(rows, lane);
    }
    const uint8_t* const pixels = slot_rows(0) + lane_offset(pitch);
    int slot = 0, its_share = 0;
    RFSEG_NO_UNROLL
    for (int round = 0; round < rounds_; ++round) {
      if (active_ && its_share == share_) {
        wait_row(shared_.slots[half_][slot], phases >> (first_bit + slot) & 1);
        multiply_round(pixels + slot * round_bytes, pitch, steps, weights, row_weights);
        rows += kShares * kMatrixBytes;
        if (round + kShares < rounds_) row_weights.load(rows, lane);
      }
      its_share = its_share + 1 < kShares ? its_share + 1 : 0;
      phases ^= 1u << (first_bit + slot);
      if (!all_have_room && rounds_ > depth) {
        row_accessed();
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
      phases = f_.steps == kHeldSteps ? run_rounds<StagedReader, kHeldSteps>(in, phases)
                                      : run_rounds<StagedReader, 0>(in, phases);
    } else if (f_.reading == Reading::kGeneral) {
      phases = run_rounds<GeneralReader, 0>(in, phases);
    } else {
      run_strips(in);
    }
    row_accessed();  // copies of the next tile may come to the same place
    return phases;
  }

  /// Before the block's barrier: what other shares need. Share s ends the channels c with c %
  /// kShares = s.
  RFSEG_DEVICE void give_sums() const {
    SharedSums& to = shared_.sums[turn_];
    RFSEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      const int after = share_ - c % kShares;  // of the share that ends it
      if (after != 0)
        to[c][after > 0 ? after - 1 : after + kShares - 1][group_][thread_ % kWarp] = totals_[c];
    }
  }

  /// After it: this share's channels.
  template <bool half>
  RFSEG_DEVICE void write() const {
    if (group_ * kColumnGroup + thread_ % kWarp % 4 * 2 >= columns_) return;
    RFSEG_NO_UNROLL
    for (int channel = share_; channel < kChannels; channel += kShares) {
      Words4 sums;
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums.w[i] = (channel == 0   ? totals_[0].w[i]
                     : channel == 1 ? totals_[1].w[i]
                                    : totals_[2].w[i]) +
                    kHalfOfByte;
      }
      RFSEG_UNROLL
      for (int k = 0; k < kShares - 1; ++k) {
        const Words4 other = shared_.sums[turn_][channel][k][group_][thread_ % kWarp];
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) sums.w[i] += other.w[i];
      }
      write_channel<half>(f_.reversed != 0 ? kChannels - 1 - channel : channel, sums);
    }
  }

 private:
  /// Rows lane / 4 and + 8, two columns each.
  template <bool half>
  RFSEG_DEVICE void write_channel(int channel, const Words4& sums) const {
    const int lane = thread_ % kWarp, column = group_ * kColumnGroup + lane % 4 * 2;
    const bool swapped = f_.swapped != 0;
    const int tile_row = tile_.down * a_.tile_rows, row = lane / 4;
    int rows = (swapped ? a_.width : a_.height) - tile_row;
    if (rows > a_.tile_rows) rows = a_.tile_rows;
    const int row_step = swapped ? 1 : a_.width, column_step = swapped ? a_.width : 1;
    const int64_t plane = static_cast<int64_t>(tile_.frame_index) * kChannels + channel;
    const TensorWriter<half> writer = TensorWriter<half>{shared_.header.tensor}.from(
        plane * a_.height * a_.width + static_cast<int64_t>(tile_row + row) * row_step +
        static_cast<int64_t>(tile_.across * kTileColumns + column) * column_step);
    const bool pairs = !swapped && a_.width % 2 == 0, both = column + 1 < columns_;
    const float* const normalised = shared_.normalised[channel];
    RFSEG_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (row + 8 * i >= rows) break;
      const float one = normalised[sums.w[2 * i] >> 24], two = normalised[sums.w[2 * i + 1] >> 24];
      const int to = 8 * i * row_step;
      if (pairs) {
        writer.two(to, one, two);
      } else {
        writer.one(to, one);
        if (both) writer.one(to + column_step, two);
      }
    }
  }

  /// Where slot `slot` of kDirect is.
  RFSEG_DEVICE uint8_t* slot_rows(int slot) const {
    return shared_.source + half_ * (a_.row_bytes / 32 * 16) + slot * kRound * f_.pitch;
  }

  /// Begins the copies of this warp's rows of rounds [round, end), the first to `slot`.
  RFSEG_DEVICE void start_rounds(int round, int end, int slot) const {
    const int pitch = f_.pitch;
    const int first = tile_.window.range.first, rows = tile_.rows.count;
    const uint32_t bytes =
        static_cast<uint32_t>(kChannels * (tile_.window.range.end - first) + 15) & ~15u;
    const int64_t stride = f_.strides[0];
    int row = round * kRound + warp_;
    const uint8_t* from = f_.planes[0] + (f_.origin_y + tile_.rows.first + row) * stride +
                          kChannels * (f_.origin_x + first);
    uint8_t* to = slot_rows(slot) + warp_ * pitch;
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
  RFSEG_DEVICE const std::byte* row_table(int row_steps) const {
    return a_.parameters + f_.row_table +
           static_cast<uint32_t>(tile_.down * row_steps * kMatrixBytes);
  }
  RFSEG_DEVICE const std::byte* column_table(int steps) const {
    return a_.parameters + f_.column_table +
           static_cast<uint32_t>((tile_.across * kColumnGroups + group_) * steps * kMatrixBytes);
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
                                   const ColumnWeights<held>& weights, const Weights& row_weights) {
    DigitSums sums;
    begin_sums(sums);
    multiply_rows(pixels, pitch, weights, 0, steps, sums);
    multiply_columns(sums, row_weights, totals_);
  }

  template <class Reader, int held>
  RFSEG_DEVICE uint32_t run_rounds(const TileInput& in, uint32_t phases) {
    Reader reader(in, shared_.source + 2 * kRound * f_.pitch, shared_.slots[0], phases);
    ColumnWeights<held> weights;
    Weights row_weights;
    const int offset = lane_offset(f_.pitch), steps = f_.steps;
    const std::byte* const rows = row_table(f_.row_steps);
    // The loop begins with rounds that only start copies, so that their code stands once.
    const int ahead = f_.depth > 0 ? f_.depth - 1 : 0;
    RFSEG_NO_UNROLL
    for (int round = -ahead; round < rounds_; ++round) {
      if (round + ahead < rounds_) reader.start(round + ahead);
      if (round < 0) continue;
      if (round == 0 && active_) weights.load(column_table(steps), thread_ % kWarp);
      const bool mine = active_ && round % kShares == share_;
      if (mine) row_weights.load(rows + round * kMatrixBytes, thread_ % kWarp);
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
    weights.load(active_ ? column_table(f_.steps) : nullptr, thread_ % kWarp);
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
      Weights row_weights;
      row_weights.load(row_table(f_.row_steps) + round * kMatrixBytes, lane);
      multiply_columns(sums, row_weights, totals_);
    }
  }

  const PreprocessArguments& a_;
  PilShared& shared_;
  const TileRecords& tile_;
  const FrameRecord& f_;
  int thread_;  ///< not to be computed with ahead of the tile
  int warp_;
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
  static_assert(2 * kSlots == kWarps && kShares * kColumnGroups == kWarps);
  if (lane == 0) make_row_barrier(shared.slots[warp / kSlots][warp % kSlots], kWarps);
  block_sync();
}

/// Any number of blocks of kPreprocessThreads. `direct`: all frames are read so, with their tiles
/// in half the memory and kHeldSteps steps. That is a kernel of its own, since it has a sixth of
/// the instructions of the other, which take more registers, too.
template <bool half, bool direct>
RFSEG_DEVICE void pil_kernel(const PreprocessArguments& a, PilShared& shared) {
  const int tiles = a.batch * a.tiles_per_frame;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  begin_tiles(a, shared, tiles);
  release_next_kernel();
  await_previous_kernel();
  await_pixels(a);
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
        phases = direct || records.frame.steps == kHeldSteps
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
