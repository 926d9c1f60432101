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

struct PilShared {
  FrameRecord frame;
  ColumnWindow window;
  RowWindow rows;
  BatchHeader header;
  int32_t frame_index, across, down;  ///< the tile's place
  RowBarriers barriers;
  uint8_t
      narrow[3 * kTileColumns * kNarrowPitch];  ///< after the first pass, [channel][column][row]
  Words2 row_weights[kGroupRounds * kDigits * kWarp];
  Words4 partial[kItems * kWarp];  ///< sums of the second pass, where there is more than one
  alignas(16) float normalised[3][256];
  /// PreprocessArguments::row_bytes of them: rows by channels, then copied rows, or the sums of a
  /// strip.
  alignas(16) uint8_t source[16];
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
    RFSEG_NO_UNROLL
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
RFSEG_DEVICE void store_narrow(PilShared& shared, int lane, int channel, int group, int round,
                               const uint32_t (&values)[4]) {
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
  /// The tile whose records lie in shared memory.
  RFSEG_DEVICE PilTile(const PreprocessArguments& a, PilShared& shared, uint32_t phases)
      : a_(a),
        shared_(shared),
        in_{shared.frame,
            reinterpret_cast<const FrameRecord*>(a.parameters + a.frames) + shared.frame_index,
            a.parameters,
            shared.window.range.first,
            shared.window.range.end - shared.window.range.first,
            shared.rows.first,
            shared.rows.count,
            opaque(thread_index()),
            shared.source},
        phases_(phases) {
    const bool swapped = in_.f.swapped != 0;
    columns_ = (swapped ? a.height : a.width) - shared_.across * kTileColumns;
    if (columns_ > kTileColumns) columns_ = kTileColumns;
    out_rows_ = (swapped ? a.width : a.height) - shared_.down * a.tile_rows;
    if (out_rows_ > a.tile_rows) out_rows_ = a.tile_rows;
    rounds_ = (in_.rows + kRound - 1) / kRound;
  }

  /// Returns the phases that the barriers are in afterwards.
  RFSEG_DEVICE uint32_t run() {
    if (in_.f.reading == Reading::kStaged) {
      in_.f.steps <= 2 ? run_rounds<StagedReader, 2>() : run_rounds<StagedReader, 0>();
    } else if (in_.f.reading == Reading::kGeneral) {
      run_rounds<GeneralReader, 0>();
    } else {
      run_strips();
    }
    return phases_;
  }

 private:
  /// Weights of the output rows for the four rounds from `round`, a piece a thread.
  RFSEG_DEVICE Words4 row_weights(int round) const {
    const Words4* const table = reinterpret_cast<const Words4*>(a_.parameters + in_.f.row_table) +
                                (shared_.down * in_.f.row_steps + round) * (kDigits * kWarp / 2);
    const int t = in_.thread;
    const int pieces = kGroupRounds * kDigits * kWarp / 2;
    return t < pieces && round + t / (kDigits * kWarp / 2) < rounds_ ? load_constant(table + t)
                                                                     : Words4{};
  }
  RFSEG_DEVICE void keep_row_weights(const Words4& piece) {
    if (in_.thread < kGroupRounds * kDigits * kWarp / 2) {
      reinterpret_cast<Words4*>(shared_.row_weights)[in_.thread] = piece;
    }
  }

  template <class Reader, int held>
  RFSEG_DEVICE void run_rounds() {
    Reader reader(in_, shared_.source + 2 * 3 * kRound * in_.f.pitch, shared_.barriers, phases_);
    const int warp = in_.thread / kWarp, lane = in_.thread % kWarp;
    // A warp keeps one column group; two warps share its three channels.
    const int group = warp % kColumnGroups, share = warp / kColumnGroups;
    const bool active = group * kColumnGroup < columns_;
    ColumnWeights<held> weights;
    int start = 0;
    const int steps = in_.f.steps;
    // The loop begins with rounds that only start copies, so that their code stands once.
    const int ahead = in_.f.depth > 0 ? in_.f.depth - 1 : 0;
    RFSEG_NO_UNROLL
    for (int round = -ahead; round < rounds_; ++round) {
      if (round + ahead < rounds_) reader.start(round + ahead);
      if (round < 0) continue;
      if (round == 0 && active) {
        const int number = shared_.across * kColumnGroups + group;
        weights.load(reinterpret_cast<const Words2*>(a_.parameters + in_.f.column_table) +
                         number * steps * kDigits * kWarp + lane,
                     steps);
        start = shared_.window.start[group] - in_.column;
      }
      Words4 piece;
      if (round % kGroupRounds == 0) piece = row_weights(round);
      reader.store(round);
      block_sync();
      if (round % kGroupRounds == 0) keep_row_weights(piece);
      if (active) {
        RFSEG_NO_UNROLL
        for (int turn = 0; turn < 2; ++turn) {
          if (turn == 1 && (round + share) % 2 != 0) break;
          narrow_channel(weights, start, steps, group, turn == 0 ? share : 2, round);
        }
      }
      second_pass(round);
    }
    phases_ = reader.phases();
  }

  template <int held>
  RFSEG_DEVICE void narrow_channel(const ColumnWeights<held>& weights, int start, int steps,
                                   int group, int channel, int round) {
    const int lane = in_.thread % kWarp;
    int32_t sums[kDigits][4] = {};
    multiply_rows(in_.channel_row(round, channel, lane / 4) + start + lane % 4 * 4, in_.f.pitch,
                  weights, 0, steps, sums);
    uint32_t values[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) {
      values[i] = round_to_byte(add_digits(sums[0][i], sums[1][i], sums[2][i]));
    }
    store_narrow(shared_, lane, channel, group, round, values);
  }

  /// After four rounds, or the last: adds their part of the outputs, or finishes them.
  RFSEG_DEVICE void second_pass(int round) {
    const bool last = round == rounds_ - 1;
    if (round % kGroupRounds != kGroupRounds - 1 && !last) return;
    block_sync();
    const int warp = in_.thread / kWarp, lane = in_.thread % kWarp;
    const int count = round % kGroupRounds + 1;
    RFSEG_NO_UNROLL
    for (int item = warp; item < kItems; item += kWarps) {
      const int channel = item / kColumnGroups, group = item % kColumnGroups;
      if (group * kColumnGroup >= columns_) continue;
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
      Words4& partial = shared_.partial[item * kWarp + lane];
      Words4 sums = round < kGroupRounds ? Words4{} : partial;
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums.w[i] += add_digits(products[0][i], products[1][i], products[2][i]);
      }
      if (last) {
        write(channel, group, sums);
      } else {
        partial = sums;
      }
    }
  }

  /// Rows lane / 4 and + 8, two columns each.
  RFSEG_DEVICE void write(int channel, int group, const Words4& sums) const {
    const TensorWriter<half> writer{shared_.header.tensor};
    const int lane = in_.thread % kWarp;
    const bool swapped = in_.f.swapped != 0;
    const bool pairs = !swapped && a_.width % 2 == 0;
    const int column = group * kColumnGroup + lane % 4 * 2;
    const int64_t row_step = swapped ? 1 : a_.width, column_step = swapped ? a_.width : 1;
    int64_t at = (static_cast<int64_t>(shared_.frame_index) * 3 + channel) * a_.height * a_.width +
                 (shared_.down * a_.tile_rows + lane / 4) * row_step +
                 (shared_.across * kTileColumns + column) * column_step;
    const float* const normalised = shared_.normalised[channel];
    RFSEG_UNROLL
    for (int i = 0; i < 4; i += 2) {
      if (lane / 4 + i * 4 < out_rows_ && column < columns_) {
        const float first = normalised[round_to_byte(sums.w[i])];
        const float second = normalised[round_to_byte(sums.w[i + 1])];
        if (pairs) {
          writer.two(at, first, second);
        } else {
          writer.one(at, first);
          if (column + 1 < columns_) writer.one(at + column_step, second);
        }
      }
      at += 8 * row_step;
    }
  }

  /// Windows too wide for shared memory: a round's rows come in strips, one after the other. A
  /// strip has all inputs of the products that begin in its first `strip_advance` ones.
  RFSEG_DEVICE void run_strips() {
    const int warp = in_.thread / kWarp, lane = in_.thread % kWarp;
    const int advance = in_.f.strip_advance, columns = in_.columns, first = in_.column;
    RFSEG_NO_UNROLL
    for (int round = 0; round < rounds_; ++round) {
      RFSEG_NO_UNROLL
      for (int at = 0; at < columns; at += advance) {
        const bool begin = at == 0, end = at + advance >= columns;
        block_sync();
        if (round % kGroupRounds == 0 && begin) keep_row_weights(row_weights(round));
        store_general(in_, round, at, at + in_.f.strip < columns ? at + in_.f.strip : columns);
        block_sync();
        RFSEG_NO_UNROLL
        for (int item = warp; item < kItems; item += kWarps) {
          const int channel = item / kColumnGroups, group = item % kColumnGroups;
          if (group * kColumnGroup >= columns_) continue;
          ColumnWeights<0> weights;
          weights.table = reinterpret_cast<const Words2*>(a_.parameters + in_.f.column_table) +
                          (shared_.across * kColumnGroups + group) * in_.f.steps * kDigits * kWarp +
                          lane;
          // Steps whose first input lies in [at, at + advance).
          const int start = shared_.window.start[group] - first - at;
          const int low = start >= 0 ? 0 : (-start + 31) / 32;
          int high = start >= advance ? 0 : (advance - start + 31) / 32;
          if (high > in_.f.steps) high = in_.f.steps;
          int32_t products[kDigits][4] = {};
          multiply_rows(in_.channel_row(round, channel, lane / 4) + start + lane % 4 * 4,
                        in_.f.pitch, weights, low, high, products);
          Words4& partial = reinterpret_cast<Words4*>(
              shared_.source + 2 * 3 * kRound * in_.f.pitch)[item * kWarp + lane];
          uint32_t values[4];
          for (int i = 0; i < 4; ++i) {
            values[i] = add_digits(products[0][i], products[1][i], products[2][i]) +
                        (begin ? 0 : partial.w[i]);
            partial.w[i] = values[i];
            values[i] = round_to_byte(values[i]);
          }
          if (end) store_narrow(shared_, lane, channel, group, round, values);
        }
      }
      second_pass(round);
    }
  }

  const PreprocessArguments& a_;
  PilShared& shared_;
  TileInput in_;
  int columns_, out_rows_, rounds_;
  uint32_t phases_;
};

/// Brings the records of a tile into shared memory, each thread 16 bytes.
RFSEG_DEVICE void load_records(const PreprocessArguments& a, PilShared& shared, int frame,
                               int across, int down) {
  const int pieces = sizeof(FrameRecord) / sizeof(Words4);
  const int window_pieces = sizeof(ColumnWindow) / sizeof(Words4);
  const int header_pieces = sizeof(BatchHeader) / sizeof(Words4);
  static_assert(pieces <= kWarp && window_pieces + 1 + header_pieces <= kWarp);
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const auto copy = [](void* to, const void* from, int i) {
    static_cast<Words4*>(to)[i] = load_constant(static_cast<const Words4*>(from) + i);
  };
  if (thread_index() == kPreprocessThreads - 1) {
    shared.frame_index = frame;
    shared.across = across;
    shared.down = down;
  }
  if (warp == 0 && lane < pieces) {
    copy(&shared.frame, reinterpret_cast<const FrameRecord*>(a.parameters + a.frames) + frame,
         lane);
  }
  // The 3 x 256 values that a rounded byte can become.
  const int value = thread_index() - kPreprocessThreads / 2;
  const int value_pieces = sizeof(shared.normalised) / sizeof(Words4);
  static_assert(value_pieces <= kPreprocessThreads / 2);
  if (value >= 0 && value < value_pieces)
    copy(shared.normalised, a.parameters + a.normalised, value);
  if (warp != 1) return;
  if (lane < window_pieces) {
    copy(&shared.window,
         reinterpret_cast<const ColumnWindow*>(a.parameters + a.columns) +
             frame * a.column_windows + across,
         lane);
  } else if (lane == window_pieces) {
    copy(&shared.rows,
         reinterpret_cast<const RowWindow*>(a.parameters + a.rows) + frame * a.row_windows + down,
         0);
  } else if (lane - window_pieces - 1 < header_pieces) {
    copy(&shared.header, a.parameters, lane - window_pieces - 1);
  }
}

template <bool half>
RFSEG_DEVICE void pil_kernel(const PreprocessArguments& a, PilShared& shared) {
  const int tiles = a.batch * a.tiles_per_frame;
  uint32_t phases = 0;
  RFSEG_NO_UNROLL
  for (int number = block_x(); number < tiles; number += grid_x()) {
    int frame = 0, tile = number;
    if (tile >= a.tiles_per_frame) {
      frame = tile / a.tiles_per_frame;
      tile -= frame * a.tiles_per_frame;
    }
    // All records are loaded at once, as if the frame were not swapped.
    int down = static_cast<int>(static_cast<float>(tile) * a.across_reciprocal);
    int across = tile - down * a.tiles_across;
    if (across < 0) --down, across += a.tiles_across;
    if (across >= a.tiles_across) ++down, across -= a.tiles_across;
    if (number != block_x()) block_sync();
    load_records(a, shared, frame, across, down < a.row_windows ? down : a.row_windows - 1);
    if (number == block_x()) {
      const int lane = thread_index() % kWarp;
      if (lane < kMaxDepth) make_row_barrier(shared.barriers[lane][thread_index() / kWarp]);
      warp_sync();
    }
    block_sync();
    if (shared.frame.swapped != 0 && a.width != a.height) {
      const int tiles_across = shared.frame.tiles_across;
      down = tile / tiles_across;
      across = tile - down * tiles_across;
      if (down < shared.frame.tiles_down) {
        block_sync();
        load_records(a, shared, frame, across, down);
        block_sync();
      }
    }
    if (down >= shared.frame.tiles_down) continue;
    phases = PilTile<half>(a, shared, phases).run();
  }
}

}  // namespace rfseg::cuda
