#pragma once

// Masks pixel by pixel: every block writes an equal share of the bytes of all masks, row after row,
// a thread 16 pixels of each. Where the cells around have one sign, no value is needed to tell it;
// the places where they do not are gathered, and computed as the reference has them by all threads.

#include "postprocess/cuda/axis_tables.h"
#include "postprocess/cuda/hand_over.h"
#include "postprocess/cuda/mask_source.h"
#include "postprocess/cuda/pixel_columns.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

constexpr int kRun = 16;          ///< pixels that a thread writes at once
constexpr int kBandRows = 64;     ///< pixel rows that a block prepares at once
constexpr int kBandCells = 6144;  ///< cells of those
constexpr int kBandWords = 512;   ///< words of their signs
constexpr int kBorders = 1024;    ///< runs with a border that are gathered
constexpr int kOutside = -2;      ///< no row of cells: background
constexpr int kManyTaps = -1;     ///< not two taps

struct BandRow {
  int32_t cell;  ///< its first row of cells, kOutside, or kManyTaps, which no usable band has
  float w0, w1;
  int32_t end;  ///< first row after it, within the band, with other cells
};

/// Rows [row, end) of the band, 16 pixels of each, whose cells have both signs.
struct Border {
  int32_t run;
  uint16_t row, end;
};

struct DenseShared {
  float cells[kBandCells];
  uint32_t positive[kBandWords];  ///< [rows, words] one bit a cell > 0
  uint32_t solid[kBandWords];     ///< cells whose blends are > 0, too: see kernels.inc
  alignas(16) BandRow rows[kBandRows];
  Border borders[kBorders];
  uint32_t border_count;
  PictureParams picture;
  MaskSource source;               ///< of the mask at work
  int32_t queries[kDenseThreads];  ///< of the first masks
};

/// The cells of one band, and how its masks read them.
struct Band {
  int begin, rows;  ///< pixel rows
  int first_cell;   ///< row of cells at the top of the tile
  int words;        ///< of one row's signs
  bool usable;      ///< the tile is loaded, and two taps tell all
};

/// 16 pixels.
template <MaskBytes format>
struct Pixels;

template <>
struct Pixels<MaskBytes::kDense> {
  static constexpr int kBytes = kRun;
  uint32_t words[4] = {};
  RFSEG_DEVICE void set(int k, bool value) { words[k / 4] |= value ? 1u << (k % 4 * 8) : 0u; }
  RFSEG_DEVICE void fill(bool value) {
    words[0] = words[1] = words[2] = words[3] = value ? 0x01010101u : 0u;
  }
  RFSEG_DEVICE void store(uint8_t* row, int run) const {
    struct alignas(16) Quad {
      uint32_t w[4];
    };
    *reinterpret_cast<Quad*>(row + kBytes * run) = Quad{{words[0], words[1], words[2], words[3]}};
  }
};

template <>
struct Pixels<MaskBytes::kBits> {
  static constexpr int kBytes = kRun / 8;
  uint32_t bits = 0;
  RFSEG_DEVICE void set(int k, bool value) { bits |= value ? 1u << (k / 8 * 8 + 7 - k % 8) : 0u; }
  RFSEG_DEVICE void fill(bool value) { bits = value ? 0xffffu : 0u; }
  RFSEG_DEVICE void store(uint8_t* row, int run) const {
    *reinterpret_cast<uint16_t*>(row + kBytes * run) = static_cast<uint16_t>(bits);
  }
};

/// Taps of one pixel row.
template <bool plain>
RFSEG_DEVICE BandRow band_row(const MaskSource& source, int row) {
  const AxisMap& y = source.y;
  if (row < y.begin || row >= y.end) return {kOutside, 0, 0, 0};
  if (plain) {
    const PlainTaps taps = plain_taps(y, row);
    return {taps.i0, taps.w0, taps.w1, 0};
  }
  const int k = row - y.begin;
  return {source.y_cells[k], source.y_weights[2 * k], source.y_weights[2 * k + 1], 0};
}

/// Loads rows from `from` on with their cells: up to kBandRows, up to `to`, and no more than the
/// tile has room for. All threads; ends with a barrier.
template <bool plain>
RFSEG_DEVICE Band load_band(const MaskSource& source, int from, int to, DenseShared& s) {
  Band band;
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  const AxisMap &x = source.x, &y = source.y;
  int n = to - from < kBandRows ? to - from : kBandRows;
  const int columns = x.cells, words = (columns + 31) / 32;
  int first = 0, count = 0;
  band.usable = false;
  while (true) {
    const int begin = from > y.begin ? from : y.begin;
    const int end = from + n < y.end ? from + n : y.end;
    if (begin >= end) break;  // background alone
    if (plain) {
      first = plain_taps(y, begin).i0;
      count = plain_taps(y, end - 1).i1 + 1 - first;
    } else if (y.sampling == Sampling::kIdentity) {
      first = begin - y.origin;
      count = end - begin;
    } else {
      first = antialias_taps(y, begin).lo;
      count = antialias_taps(y, end - 1).hi - first;
    }
    // A row and the next even where the second has no weight.
    count = count + 1 < y.cells - first ? count + 1 : y.cells - first;
    band.usable = int64_t{count} * columns <= kBandCells && count * words <= kBandWords;
    if (band.usable || n == 1) break;
    n = (n + 1) / 2;
  }
  constexpr int kLoads = 4;  // in flight a thread
  const float inverse = 1.0f / static_cast<float>(columns);
  const int total = band.usable ? count * columns : 0;
  float values[kLoads];
  const auto load = [&](int at) {
    RFSEG_UNROLL
    for (int k = 0; k < kLoads; ++k) {
      const int i = at + k * kDenseThreads;
      // i / columns: the half keeps the product away from integers by more than its error
      const int row = static_cast<int>((static_cast<float>(i) + 0.5f) * inverse);
      values[k] = i >= total ? 0.0f
                  : plain    ? source.inside(first + row, i - row * columns)
                             : source.cell(first + row, i - row * columns);
    }
  };
  load(thread);
  bool odd = false;
  if (thread == 0) s.border_count = 0;
  if (thread < n) {  // while the cells come
    s.rows[thread] = band_row<plain>(source, from + thread);
    odd = s.rows[thread].cell == kManyTaps;
  }
  block_sync();
  if (thread < n) {
    const int cell = s.rows[thread].cell;
    int end = thread + 1;
    RFSEG_UNROLL_BY(1)
    while (end < n && s.rows[end].cell == cell) ++end;
    s.rows[thread].end = end;
  }
  RFSEG_UNROLL_BY(1)
  for (int at = thread; at < total; at += kLoads * kDenseThreads) {
    if (at != thread) load(at);
    RFSEG_UNROLL
    for (int k = 0; k < kLoads; ++k) {
      const int i = at + k * kDenseThreads;
      odd = odd || (float_bits(values[k]) & 0x7f800000u) == 0x7f800000u;  // infinite, NaN
      if (i < total) s.cells[i] = values[k];
    }
  }
  // Two taps leave out those without a weight, which matter beside such a cell.
  odd = block_any(odd);
  if (!plain && odd) band.usable = false;
  if (band.usable) {
    RFSEG_UNROLL_BY(1)
    for (int i = warp; i < count * words; i += kDenseThreads / kWarp) {
      const int row = i / words, column = (i - row * words) * 32 + lane;
      const float v = column < columns ? s.cells[row * columns + column] : 0.0f;
      const uint32_t positive = warp_ballot(v > 0.0f);
      const uint32_t solid = warp_ballot(v >= 0x1p-30f && v <= 0x1p100f);
      if (lane == 0) {
        s.positive[i] = positive;
        s.solid[i] = solid;
      }
    }
  }
  band.begin = from;
  band.rows = n;
  band.first_cell = first;
  band.words = words;
  block_sync();
  return band;
}

/// Bits [from, to) of a word for a band's rows.
RFSEG_DEVICE uint64_t rows_between(int from, int to) {
  static_assert(kBandRows == 64);
  return (~uint64_t{0} >> (64 - (to - from))) << from;
}

/// 16 pixels one by one.
template <MaskBytes format>
RFSEG_DEVICE_CALL Pixels<format> pixels_of_any_taps(const MaskSource& source, int column, int row) {
  Pixels<format> pixels;
  for (int k = 0; k < kRun; ++k) {
    const int x = column + k;
    pixels.set(k, x >= source.x.begin && x < source.x.end && pixel_is_set(source, x, row));
  }
  return pixels;
}
template <MaskBytes format, bool plain>
RFSEG_DEVICE Pixels<format> pixels_one_by_one(const MaskSource& source, int column, int row) {
  if (!plain) return pixels_of_any_taps<format>(source, column, row);
  Pixels<format> pixels;
  const PlainTaps y = plain_taps(source.y, row);
  RFSEG_UNROLL_BY(1)
  for (int k = 0; k < kRun; ++k) {
    const int at = column + k;
    if (at < source.x.begin || at >= source.x.end) continue;
    const PlainTaps x = plain_taps(source.x, at);
    const float a = plain_blend(x.w0, source.inside(y.i0, x.i0), x.w1, source.inside(y.i0, x.i1));
    const float b = plain_blend(x.w0, source.inside(y.i1, x.i0), x.w1, source.inside(y.i1, x.i1));
    pixels.set(k, plain_blend(y.w0, a, y.w1, b) > 0.0f);
  }
  return pixels;
}

/// Pixels [16 run, 16 run + 16) of the band's rows [first, last), but those of borders, which are
/// gathered. Returns the rows that are left to be made pixel by pixel, one bit each.
template <MaskBytes format, bool plain>
RFSEG_DEVICE uint64_t write_run(const MaskSource& source, DenseShared& s, const Band& band, int run,
                                int first, int last, uint8_t* mask, int64_t pitch) {
  const AxisMap& x = source.x;
  const int column = kRun * run, columns = x.cells;
  // The pixels that have cells, and which cells those are. They do not fall along x.
  const int begin = column > x.begin ? column : x.begin;
  const int end = column + kRun < x.end ? column + kRun : x.end;
  const bool whole = end - begin == kRun;
  bool two_taps = band.usable;
  int low = columns, high = -1;
  if (begin < end) {
    if (plain) {
      low = plain_taps(x, begin).i0;
      high = plain_taps(x, end - 1).i1;
    } else {
      for (int pixel = begin; pixel < end; ++pixel) {
        const int cell = source.x_cells[pixel - x.begin];
        two_taps = two_taps && cell >= 0;
        low = cell < low ? cell : low;
        high = cell > high ? cell : high;
      }
      high = high + 1 < columns ? high + 1 : columns - 1;
    }
  }
  const bool signs = low <= high && high - low < 32;
  const uint32_t window = signs ? 0xffffffffu >> (31 - (high - low)) : 0u;
  const auto in_window = [&](const uint32_t* bits) {
    const int word = low / 32;
    const uint64_t both = bits[word] | (word + 1 < band.words ? uint64_t{bits[word + 1]} << 32 : 0);
    return static_cast<uint32_t>(both >> (low & 31)) & window;
  };
  uint8_t* out = mask + (band.begin + first) * pitch;
  uint64_t left = 0;
  for (int row = first; row < last;) {
    const int cell = s.rows[row].cell;
    const int stop = s.rows[row].end < last ? s.rows[row].end : last;
    bool all = false;
    if (cell != kOutside && begin < end) {
      bool border = !two_taps || !signs;
      if (!border) {
        const int above = (cell - band.first_cell) * band.words;
        const int below = cell < source.y.cells - 1 ? above + band.words : above;
        const uint32_t any = in_window(s.positive + above) | in_window(s.positive + below);
        all = whole && (in_window(s.solid + above) & in_window(s.solid + below)) == window;
        border = any != 0 && !all;
      }
      if (border) {
        const uint32_t at = two_taps ? atomic_add(&s.border_count, 1u) : kBorders;
        if (at < kBorders) {
          s.borders[at] = {run, static_cast<uint16_t>(row), static_cast<uint16_t>(stop)};
        } else {
          left |= rows_between(row, stop);
        }
        out += (stop - row) * pitch;
        row = stop;
        continue;
      }
    }
    Pixels<format> pixels;
    pixels.fill(all);
    RFSEG_UNROLL_BY(1)
    for (; row < stop; ++row, out += pitch) pixels.store(out, run);
  }
  return left;
}

/// The gathered borders, a lane a pixel of each of two.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void write_borders(const MaskSource& source, const DenseShared& s, const Band& band,
                                uint8_t* mask, int64_t pitch) {
  const AxisMap& x = source.x;
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp, columns = x.cells;
  const int count =
      static_cast<int>(s.border_count < kBorders ? s.border_count : uint32_t{kBorders});
  // Bits of a byte begin with the highest.
  const int within = lane % kRun;
  const int k = format == MaskBytes::kBits ? within / 8 * 8 + 7 - within % 8 : within;
  for (int base = 2 * warp; base < count; base += 2 * kDenseThreads / kWarp) {
    const Border one = s.borders[base], other = s.borders[base + 1 < count ? base + 1 : base];
    const bool valid = base + lane / kRun < count;
    const Border mine = lane < kRun ? one : other;
    const int rows_of_one = one.end - one.row, rows_of_other = other.end - other.row;
    const int rows = rows_of_one > rows_of_other ? rows_of_one : rows_of_other;
    const int pixel = kRun * mine.run + k;
    const XTaps taps = pixel >= x.begin && pixel < x.end ? x_taps<plain>(source, pixel) : XTaps{};
    const int next = taps.cell < columns - 1 ? 1 : 0;
    const int cell = s.rows[mine.row].cell;
    const float* a = s.cells + (cell - band.first_cell) * columns + taps.cell;
    const float* b = cell < source.y.cells - 1 ? a + columns : a;
    const float upper = blend_two<plain>(taps.w0, a[0], taps.w1, a[next]);
    const float lower = blend_two<plain>(taps.w0, b[0], taps.w1, b[next]);
    uint8_t* out = mask + (band.begin + mine.row) * pitch + Pixels<format>::kBytes * mine.run +
                   (format == MaskBytes::kBits ? 0 : k);
    RFSEG_UNROLL_BY(1)
    for (int r = 0; r < rows; ++r, out += pitch) {
      const bool active = valid && mine.row + r < mine.end;
      const BandRow row = s.rows[active ? mine.row + r : mine.row];
      const bool set = blend_two<plain>(row.w0, upper, row.w1, lower) > 0.0f;
      if (format == MaskBytes::kBits) {
        const uint32_t bits = warp_ballot(set);
        if (active && within == 0) {
          *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(bits >> (lane & kRun));
        }
      } else if (active) {
        *out = set ? 1 : 0;
      }
    }
  }
}

/// Rows [from, to) of one mask. All threads; begins with a barrier.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void write_rows(const MaskSource& source, DenseShared& s, int from, int to,
                             uint8_t* mask, int64_t pitch) {
  const int runs = static_cast<int>(pitch / Pixels<format>::kBytes);
  const int teams = runs < kDenseThreads ? kDenseThreads / runs : 1;  // shares of the band's rows
  const int thread = thread_index();
  for (int at = from; at < to;) {
    block_sync();
    const Band band = load_band<plain>(source, at, to, s);
    const int share = (band.rows + teams - 1) / teams;
    const int team = teams > 1 ? thread / runs : 0;
    const int first = team * share;
    const int last = first + share < band.rows ? first + share : band.rows;
    if (team < teams) {
      for (int run = teams > 1 ? thread - team * runs : thread; run < runs; run += kDenseThreads) {
        uint64_t left = write_run<format, plain>(source, s, band, run, first, last, mask, pitch);
        for (int row = first; left != 0 && row < last; ++row) {
          if ((left >> row & 1) == 0) continue;
          pixels_one_by_one<format, plain>(source, kRun * run, band.begin + row)
              .store(mask + (band.begin + row) * pitch, run);
        }
      }
    }
    block_sync();
    write_borders<format, plain>(source, s, band, mask, pitch);
    at += band.rows;
  }
}

RFSEG_DEVICE uint64_t mask_bytes(const PictureParams& picture, MaskBytes format) {
  return mask_bytes(picture.height, picture.width, format);
}

/// Part `part` of `parts` equal ones of `n`: where it begins.
RFSEG_DEVICE uint64_t part_of(uint64_t n, uint64_t part, uint64_t parts) {
  return n / parts * part + n % parts * part / parts;
}

/// First row of `pitch` bytes that begins at byte `at` or after.
RFSEG_DEVICE int64_t row_from(uint64_t at, int64_t pitch) {
  return static_cast<int64_t>((at + static_cast<uint64_t>(pitch) - 1) /
                              static_cast<uint64_t>(pitch));
}

/// Any number of blocks of kDenseThreads write all masks of the batch. `plain`: so are all
/// pictures' axes.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void dense_kernel(const KernelArguments& a, DenseShared& s) {
  int loaded = 0;  // parameters were there before the selection kernel began
  load_picture(a, loaded, s.picture);
  block_sync();
  if (plain && thread_index() == 0) s.source = mask_source(a, s.picture, 0, 0);
  await_previous_kernel();
  // With one picture, all loads that do not depend on each other at once.
  const int32_t query = thread_index() < a.mask_pitch ? a.mask_query[thread_index()] : 0;
  const int masks = a.counts[0].masks;
  DensePlaces places(a, format);
  const uint64_t total = a.batch == 1 ? mask_bytes(s.picture, format) * static_cast<uint64_t>(masks)
                                      : places.find(~uint64_t{0});
  s.queries[thread_index()] = query;
  hand_over_detections(a, format);
  const uint64_t blocks = static_cast<uint64_t>(grid_x());
  const uint64_t block = static_cast<uint64_t>(block_x());
  if (total > a.byte_capacity) {
    if (block == 0 && thread_index() == 0) {
      a.usage->bytes = total;
      a.header->overflow = kBuffersTooSmall;
    }
    return;
  }
  // Of few masks, no block has parts of two, and all is told in 32 bits.
  const bool few = a.batch == 1 && masks <= grid_x();
  uint64_t at = 0, end = total;
  if (!few) {
    at = part_of(total, block, blocks);
    end = part_of(total, block + 1, blocks);
  }
  while (at < end) {
    if (a.batch > 1) places.find(at);
    if (places.picture != loaded) {
      block_sync();
      loaded = places.picture;
      load_picture(a, loaded, s.picture);
    }
    block_sync();
    const int64_t pitch = row_pitch(s.picture.width, format);
    const uint64_t size = mask_bytes(s.picture, format);
    uint64_t begin;
    int mask, from, to;
    if (few) {
      const unsigned each = static_cast<unsigned>(grid_x()) / static_cast<unsigned>(masks);
      const unsigned its = static_cast<unsigned>(block_x()) / each;
      if (its >= static_cast<unsigned>(masks)) break;
      const unsigned part = static_cast<unsigned>(block_x()) - its * each;
      const unsigned height = static_cast<unsigned>(s.picture.height);
      mask = static_cast<int>(its);
      from = static_cast<int>(height * part / each);
      to = static_cast<int>(height * (part + 1) / each);
      begin = its * size;
      at = end;
    } else {  // a row belongs to the block in whose share it begins
      mask = static_cast<int>((at - places.start) / size);
      begin = places.start + static_cast<uint64_t>(mask) * size;
      const uint64_t until = end < begin + size ? end : begin + size;
      from = static_cast<int>(row_from(at - begin, pitch));
      to = static_cast<int>(row_from(until - begin, pitch));
      at = begin + size;
    }
    if (from >= to) continue;
    if (thread_index() == 0) {
      const int32_t its_query = a.batch == 1 && mask < kDenseThreads
                                    ? s.queries[mask]
                                    : a.mask_query[int64_t{loaded} * a.mask_pitch + mask];
      if (plain && a.batch == 1) {
        s.source.base = int64_t{its_query} * a.rows * a.columns;
      } else {
        s.source = mask_source(a, s.picture, loaded, its_query);
      }
    }
    write_rows<format, plain>(s.source, s, from, to, a.bytes + begin, pitch);
  }
}

}  // namespace rfseg::cuda
