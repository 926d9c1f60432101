#pragma once

#include "preprocess/cuda/source_rows.h"
#include "preprocess/cuda/tensor_writer.h"

// Pillow's resize as products of 8-bit matrices. A weight has 22 bits and a pixel 8: the weights'
// three bytes are three matrices, and the sums of the three products, shifted and added in 32 bits,
// are Pillow's sums. Both passes of a tile run in one block: 16 source rows after the other come
// into shared memory as bytes of one channel; a warp multiplies them with the weights of 8 output
// columns, rounds to bytes as Pillow does, and keeps them by columns; after four such rounds, or
// the last, the same is done with the weights of the output rows.
//
// Where Pillow runs the vertical pass first, the frame is `swapped`: what is called a column here
// is a row of the picture.

namespace rfseg::cuda {

constexpr int kPilBitsOfWeight = 22;
constexpr int kGroupRounds = 4;            ///< rounds of source rows between two vertical products
constexpr int kNarrowPitch = 80;           ///< bytes of a column of 64; free of bank conflicts
constexpr int kItems = 3 * kColumnGroups;  ///< products of a round
constexpr int kItemTurns = (kItems + kWarps - 1) / kWarps;

struct PilShared {
  uint8_t
      narrow[3 * kTileColumns * kNarrowPitch];  ///< after the first pass, [channel][column][row]
  Words2 row_weights[kGroupRounds * kDigits * kWarp];
  float normalised[3][256];
  Words4 partial[kItems * kWarp];  ///< sums of a strip, where a row's window comes in strips
  alignas(16) uint8_t raw[16];     ///< PreprocessArguments::raw_bytes of them
};

/// Sums of the three digits' products, as Pillow's 32-bit sums without its half.
RFSEG_DEVICE uint32_t add_digits(int32_t low, int32_t middle, int32_t high) {
  return static_cast<uint32_t>(low) + (static_cast<uint32_t>(middle) << 8) +
         (static_cast<uint32_t>(high) << 16);
}
RFSEG_DEVICE uint32_t round_to_byte(uint32_t sum) {
  const uint32_t value = (sum + (1u << (kPilBitsOfWeight - 1))) >> kPilBitsOfWeight;
  return value > 255 ? 255 : value;
}

RFSEG_DEVICE uint32_t shared_word(const uint8_t* p) {
  return *reinterpret_cast<const uint32_t*>(p);
}

/// Weights of the column group that a warp works on; `held` steps of them stay in registers.
template <int held>
struct ColumnWeights {
  const Words2* table = nullptr;
  Words2 words[held > 0 ? held* kDigits : 1];

  RFSEG_DEVICE void load(const Words2* from, int steps) {
    table = from;
    RFSEG_UNROLL
    for (int i = 0; i < held * kDigits; ++i) {
      if (i < steps * kDigits) words[i] = load_constant(from + i * kWarp);
    }
  }
};

/// products += rows of pixels * weights, for `steps` times 32 inputs. `pixels`: row lane / 4 of the
/// round, at the 4 inputs of lane % 4.
template <int held>
RFSEG_DEVICE void multiply_rows(const uint8_t* pixels, int pitch,
                                const ColumnWeights<held>& weights, int from, int end,
                                int32_t (&sums)[kDigits][4]) {
  const auto step = [&](const uint8_t* p, const Words2* w) {
    const uint32_t a[4] = {shared_word(p), shared_word(p + 8 * pitch), shared_word(p + 16),
                           shared_word(p + 8 * pitch + 16)};
    RFSEG_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      const uint32_t b[2] = {w[d].w[0], w[d].w[1]};
      multiply_bytes_32(sums[d], a, b);
    }
  };
  if constexpr (held > 0) {
    RFSEG_UNROLL
    for (int s = 0; s < held; ++s) {
      if (s < end) step(pixels + 32 * s, weights.words + s * kDigits);
    }
  } else {
    for (int s = from; s < end; ++s) {
      Words2 w[kDigits];
      RFSEG_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        w[d] = load_constant(weights.table + (s * kDigits + d) * kWarp);
      }
      step(pixels + 32 * s, w);
    }
  }
}

/// Keeps 16 rows x 8 columns of one channel, as bytes by columns.
RFSEG_DEVICE void store_narrow(PilShared& shared, int channel, int group, int round,
                               const uint32_t (&values)[4]) {
  const int lane = thread_index() % kWarp;
  uint8_t* const to =
      shared.narrow +
      (channel * kTileColumns + group * kColumnGroup + lane % 4 * 2) * kNarrowPitch +
      round % kGroupRounds * kRound + lane / 4;
  to[0] = static_cast<uint8_t>(values[0]);
  to[kNarrowPitch] = static_cast<uint8_t>(values[1]);
  to[8] = static_cast<uint8_t>(values[2]);
  to[kNarrowPitch + 8] = static_cast<uint8_t>(values[3]);
}

template <bool half>
class PilTile {
 public:
  /// `first`: of those that this block has run.
  RFSEG_DEVICE PilTile(const PreprocessArguments& a, PilShared& shared, int tile, bool first)
      : a_(a), shared_(shared), first_(first) {
    frame_index_ = 0;
    if (tile >= a.tiles_per_frame) {
      frame_index_ = tile / a.tiles_per_frame;
      tile -= frame_index_ * a.tiles_per_frame;
    }
    in_.frame = reinterpret_cast<const FrameRecord*>(a.parameters + a.frames) + frame_index_;
    in_.f = load_early(in_.frame);
    const BatchHeader header = load_early(reinterpret_cast<const BatchHeader*>(a.parameters));
    writer_.tensor = header.tensor;
    // The windows are loaded beside the frame, not after it: as if it were not swapped.
    down_ = static_cast<int>(static_cast<float>(tile) * a.across_reciprocal);
    across_ = tile - down_ * a.tiles_across;
    if (across_ < 0) --down_, across_ += a.tiles_across;
    if (across_ >= a.tiles_across) ++down_, across_ -= a.tiles_across;
    load_windows();
    const bool swapped = in_.f.swapped != 0;
    if (swapped && a.width != a.height) {
      const int tiles = in_.f.tiles_across;
      down_ = tile / tiles;
      across_ = tile - down_ * tiles;
      if (down_ < in_.f.tiles_down) load_windows();
    }
    empty_ = down_ >= in_.f.tiles_down;
    if (empty_) return;
    in_.parameters = a.parameters;
    in_.raw = shared.raw;
    in_.pitch = in_.f.pitch;
    columns_ = (swapped ? a.height : a.width) - across_ * kTileColumns;
    if (columns_ > kTileColumns) columns_ = kTileColumns;
    out_rows_ = (swapped ? a.width : a.height) - down_ * a.tile_rows;
    if (out_rows_ > a.tile_rows) out_rows_ = a.tile_rows;
    rounds_ = (in_.rows + kRound - 1) / kRound;
  }

  /// Whether the frame has such a tile at all.
  RFSEG_DEVICE bool run() {
    if (empty_) return false;
    const int units = (in_.columns + 15) / 16;
    const bool narrow = units <= kWarp && in_.f.steps <= 2;
    if (in_.f.strip > 0) {
      run_strips();
    } else if (units > 2 * kWarp) {
      run_rounds<GeneralReader, 0>();
    } else if (in_.f.reading == Reading::kAligned) {
      narrow ? run_rounds<InterleavedReader<false, 1, 3>, 2>()
             : run_rounds<InterleavedReader<false, 2, 2>, 0>();
    } else if (in_.f.reading == Reading::kShifted) {
      narrow ? run_rounds<InterleavedReader<true, 1, 3>, 2>()
             : run_rounds<InterleavedReader<true, 2, 2>, 0>();
    } else if (in_.f.reading == Reading::kNv12Pairs) {
      narrow ? run_rounds<PairedReader<1, 3>, 2>() : run_rounds<PairedReader<2, 2>, 0>();
    } else {
      run_rounds<GeneralReader, 0>();
    }
    return true;
  }

 private:
  RFSEG_DEVICE void load_windows() {
    // Also of a tile that this frame has not: its window is the last one's.
    const int down = down_ < a_.row_windows ? down_ : a_.row_windows - 1;
    window_ = reinterpret_cast<const ColumnWindow*>(a_.parameters + a_.columns) +
              frame_index_ * a_.column_windows + across_;
    const RowWindow rows = load_early(reinterpret_cast<const RowWindow*>(a_.parameters + a_.rows) +
                                      frame_index_ * a_.row_windows + down);
    const ColumnRange range = load_early(&window_->range);
    in_.column = range.first;
    in_.columns = range.end - range.first;
    in_.row = rows.first;
    in_.rows = rows.count;
  }

  RFSEG_DEVICE void fill_normalised() const {
    if (!first_) return;
    const BatchHeader& header = *reinterpret_cast<const BatchHeader*>(a_.parameters);
    RFSEG_UNROLL
    for (int i = thread_index(); i < 3 * 256; i += kPreprocessThreads) {
      const int channel = i / 256;
      const float unit = unit_of_byte(static_cast<uint32_t>(i % 256));
      shared_.normalised[channel][i % 256] = (unit - header.mean[channel]) / header.std[channel];
    }
  }

  /// Weights of the output rows for the four rounds from `round`, a piece a thread.
  RFSEG_DEVICE Words4 row_weights(int round) const {
    const Words4* const table = reinterpret_cast<const Words4*>(a_.parameters + in_.f.row_table) +
                                (down_ * in_.f.row_steps + round) * (kDigits * kWarp / 2);
    const int t = thread_index();
    const int pieces = kGroupRounds * kDigits * kWarp / 2;
    return t < pieces && round + t / (kDigits * kWarp / 2) < rounds_ ? load_constant(table + t)
                                                                     : Words4{};
  }
  RFSEG_DEVICE void keep_row_weights(const Words4& piece) {
    if (thread_index() < kGroupRounds * kDigits * kWarp / 2) {
      reinterpret_cast<Words4*>(shared_.row_weights)[thread_index()] = piece;
    }
  }

  template <class Reader, int held>
  RFSEG_DEVICE void run_rounds() {
    Reader reader(in_);
    RFSEG_UNROLL
    for (int slot = 0; slot < Reader::kDepth; ++slot) reader.load(slot, slot);
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    // A warp keeps one column group; two warps share its three channels.
    const int group = warp % kColumnGroups, share = warp / kColumnGroups;
    const bool active = group * kColumnGroup < columns_;
    ColumnWeights<held> weights;
    const int start = active ? window_->start[group] - in_.column : 0;
    if (active) {
      const int number = across_ * kColumnGroups + group;
      weights.load(reinterpret_cast<const Words2*>(a_.parameters + in_.f.column_table) +
                       number * in_.f.steps * kDigits * kWarp + lane,
                   in_.f.steps);
    }
    const int steps = in_.f.steps;
    fill_normalised();  // while the first rows are on their way
    uint32_t sums[kItemTurns][4] = {};
    for (int base = 0; base < rounds_; base += Reader::kDepth) {
      RFSEG_UNROLL
      for (int slot = 0; slot < Reader::kDepth; ++slot) {
        const int round = base + slot;
        if (round >= rounds_) break;
        Words4 piece;
        if (round % kGroupRounds == 0) piece = row_weights(round);
        reader.store(slot, round);
        block_sync();
        if (round % kGroupRounds == 0) keep_row_weights(piece);
        if (round + Reader::kDepth < rounds_) reader.load(slot, round + Reader::kDepth);
        if (active) {
          narrow_channel(weights, start, steps, group, share, round);
          if ((round + share) % 2 == 0) narrow_channel(weights, start, steps, group, 2, round);
        }
        if (round % kGroupRounds == kGroupRounds - 1 || round == rounds_ - 1) {
          block_sync();
          multiply_columns(round, sums);
        }
      }
    }
    finish(sums);
  }

  template <int held>
  RFSEG_DEVICE void narrow_channel(const ColumnWeights<held>& weights, int start, int steps,
                                   int group, int channel, int round) {
    const int lane = thread_index() % kWarp;
    int32_t sums[kDigits][4] = {};
    multiply_rows(in_.channel_row(round, channel, lane / 4) + start + lane % 4 * 4, in_.pitch,
                  weights, 0, steps, sums);
    uint32_t values[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) {
      values[i] = round_to_byte(add_digits(sums[0][i], sums[1][i], sums[2][i]));
    }
    store_narrow(shared_, channel, group, round, values);
  }

  /// The second pass's sums of the rounds since the last.
  RFSEG_DEVICE void multiply_columns(int round, uint32_t (&sums)[kItemTurns][4]) {
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    const int count = round % kGroupRounds + 1;
    RFSEG_UNROLL
    for (int turn = 0; turn < kItemTurns; ++turn) {
      const int item = warp + turn * kWarps;
      const int channel = item / kColumnGroups, group = item % kColumnGroups;
      if (item >= kItems || group * kColumnGroup >= columns_) continue;
      const uint8_t* const narrow =
          shared_.narrow +
          (channel * kTileColumns + group * kColumnGroup + lane / 4) * kNarrowPitch + lane % 4 * 4;
      int32_t products[kDigits][4] = {};
      RFSEG_UNROLL
      for (int k = 0; k < kGroupRounds; ++k) {
        if (k >= count) break;
        const uint32_t b[1] = {shared_word(narrow + k * kRound)};
        RFSEG_UNROLL
        for (int d = 0; d < kDigits; ++d) {
          const Words2 w = shared_.row_weights[(k * kDigits + d) * kWarp + lane];
          const uint32_t a[2] = {w.w[0], w.w[1]};
          multiply_bytes_16(products[d], a, b);
        }
      }
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums[turn][i] += add_digits(products[0][i], products[1][i], products[2][i]);
      }
    }
  }

  RFSEG_DEVICE void finish(const uint32_t (&sums)[kItemTurns][4]) const {
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    const bool swapped = in_.f.swapped != 0;
    const bool pairs = !swapped && a_.width % 2 == 0;
    const int64_t plane = static_cast<int64_t>(a_.height) * a_.width;
    RFSEG_UNROLL
    for (int turn = 0; turn < kItemTurns; ++turn) {
      const int item = warp + turn * kWarps;
      if (item >= kItems) continue;
      const int channel = item / kColumnGroups;
      const int column = item % kColumnGroups * kColumnGroup + lane % 4 * 2;
      const float* const normalised = shared_.normalised[channel];
      RFSEG_UNROLL
      for (int i = 0; i < 4; i += 2) {
        const int row = lane / 4 + i * 4;
        if (row >= out_rows_ || column >= columns_) continue;
        const float first = normalised[round_to_byte(sums[turn][i])];
        const float second = normalised[round_to_byte(sums[turn][i + 1])];
        const int64_t r = down_ * a_.tile_rows + row, c = across_ * kTileColumns + column;
        const int64_t at = (static_cast<int64_t>(frame_index_) * 3 + channel) * plane +
                           (swapped ? c * a_.width + r : r * a_.width + c);
        if (pairs) {
          writer_.two(at, first, second);
        } else {
          writer_.one(at, first);
          if (column + 1 < columns_) writer_.one(at + (swapped ? a_.width : 1), second);
        }
      }
    }
  }

  /// Windows too wide for shared memory: a round's rows come in strips, one after the other. A
  /// strip has all inputs of the products that begin in its first `strip_advance` ones.
  RFSEG_DEVICE void run_strips() {
    fill_normalised();
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    const int advance = in_.f.strip_advance, columns = in_.columns, first = in_.column;
    uint32_t sums[kItemTurns][4] = {};
    for (int round = 0; round < rounds_; ++round) {
      for (int at = 0; at < columns; at += advance) {
        const bool begin = at == 0, end = at + advance >= columns;
        block_sync();
        if (round % kGroupRounds == 0 && begin) keep_row_weights(row_weights(round));
        store_general(in_, round, at, at + in_.f.strip < columns ? at + in_.f.strip : columns);
        block_sync();
        for (int item = warp; item < kItems; item += kWarps) {
          const int channel = item / kColumnGroups, group = item % kColumnGroups;
          if (group * kColumnGroup >= columns_) continue;
          ColumnWeights<0> weights;
          weights.table = reinterpret_cast<const Words2*>(a_.parameters + in_.f.column_table) +
                          (across_ * kColumnGroups + group) * in_.f.steps * kDigits * kWarp + lane;
          // Steps whose first input lies in [at, at + advance).
          const int start = window_->start[group] - first - at;
          const int low = start >= 0 ? 0 : (-start + 31) / 32;
          int high = start >= advance ? 0 : (advance - start + 31) / 32;
          if (high > in_.f.steps) high = in_.f.steps;
          int32_t products[kDigits][4] = {};
          multiply_rows(in_.channel_row(round, channel, lane / 4) + start + lane % 4 * 4, in_.pitch,
                        weights, low, high, products);
          Words4& partial = shared_.partial[item * kWarp + lane];
          uint32_t values[4];
          for (int i = 0; i < 4; ++i) {
            values[i] = add_digits(products[0][i], products[1][i], products[2][i]) +
                        (begin ? 0 : partial.w[i]);
            partial.w[i] = values[i];
            values[i] = round_to_byte(values[i]);
          }
          if (end) store_narrow(shared_, channel, group, round, values);
        }
      }
      if (round % kGroupRounds == kGroupRounds - 1 || round == rounds_ - 1) {
        block_sync();
        multiply_columns(round, sums);
      }
    }
    finish(sums);
  }

  const PreprocessArguments& a_;
  PilShared& shared_;
  const ColumnWindow* window_ = nullptr;
  TileInput in_;
  TensorWriter<half> writer_;
  int frame_index_, across_, down_;
  int columns_ = 0, out_rows_ = 0, rounds_ = 0;
  bool first_, empty_;
};

template <bool half>
RFSEG_DEVICE void pil_kernel(const PreprocessArguments& a, PilShared& shared) {
  const int tiles = a.batch * a.tiles_per_frame;
  bool first = true;
  for (int tile = block_x(); tile < tiles; tile += grid_x()) {
    if (PilTile<half>(a, shared, tile, first).run()) first = false;
  }
}

}  // namespace rfseg::cuda
