#pragma once

// The second kernel where masks are wanted pixel by pixel: every block writes an equal share of the
// bytes of all masks, row after row, a thread 16 pixels of each. Values are computed as the
// reference has them; where the cells around have one sign, no value is needed to tell it.

#include "postprocess/cuda/axis_tables.h"
#include "postprocess/cuda/hand_over.h"
#include "postprocess/cuda/mask_source.h"
#include "postprocess/cuda/pixel_columns.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

constexpr int kRun = 16;          ///< pixels that a thread writes at once
constexpr int kBandRows = 64;     ///< pixel rows that a block prepares at once
constexpr int kBandCells = 8192;  ///< cells of those
constexpr int kBandWords = 1024;  ///< words of their signs
constexpr int kOutside = -2;      ///< no row of cells: background
constexpr int kManyTaps = -1;     ///< not two taps

struct BandRow {
  int32_t cell;  ///< its first row of cells, kOutside, or kManyTaps, which no usable band has
  float w0, w1;
};

struct DenseShared {
  float cells[kBandCells];
  uint32_t positive[kBandWords];  ///< [rows, words] one bit a cell > 0
  uint32_t solid[kBandWords];     ///< cells whose blends are > 0, too: see kernels.inc
  BandRow rows[kBandRows];
  PictureParams picture;
  MaskSource source;  ///< of the mask at work
};

/// The cells of one band, and how its masks read them.
struct Band {
  int first_cell;  ///< row of cells at the top of the tile
  int words;       ///< of one row's signs
  bool usable;     ///< the tile is loaded, and two taps tell all
};

/// 16 pixels in the making.
template <MaskBytes format>
struct Pixels;

template <>
struct Pixels<MaskBytes::kDense> {
  uint32_t words[4] = {};
  RFSEG_DEVICE void set(int k, bool value) { words[k / 4] |= value ? 1u << (k % 4 * 8) : 0u; }
  RFSEG_DEVICE void fill(bool value) {
    words[0] = words[1] = words[2] = words[3] = value ? 0x01010101u : 0u;
  }
  RFSEG_DEVICE void store(uint8_t* row, int run) const {
    struct alignas(16) Quad {
      uint32_t w[4];
    };
    *reinterpret_cast<Quad*>(row + kRun * run) = Quad{{words[0], words[1], words[2], words[3]}};
  }
};

template <>
struct Pixels<MaskBytes::kBits> {
  uint32_t bits = 0;
  RFSEG_DEVICE void set(int k, bool value) { bits |= value ? 1u << (k / 8 * 8 + 7 - k % 8) : 0u; }
  RFSEG_DEVICE void fill(bool value) { bits = value ? 0xffffu : 0u; }
  RFSEG_DEVICE void store(uint8_t* row, int run) const {
    *reinterpret_cast<uint16_t*>(row + kRun / 8 * run) = static_cast<uint16_t>(bits);
  }
};

/// Taps of one pixel row.
RFSEG_DEVICE BandRow band_row(const MaskSource& source, int row) {
  const AxisMap& y = source.y;
  if (row < y.begin || row >= y.end) return {kOutside, 0, 0};
  if (y.sampling == Sampling::kPlain) {
    const PlainTaps taps = plain_taps(y, row);
    return {taps.i0, taps.w0, taps.w1};
  }
  const int k = row - y.begin;
  return {source.y_cells[k], source.y_weights[2 * k], source.y_weights[2 * k + 1]};
}

/// Loads the rows [from, from + n) with their cells and returns n: up to kBandRows, up to `to`, and
/// no more than the tile has room for. All threads; ends with a barrier.
RFSEG_DEVICE int load_band(const MaskSource& source, int from, int to, DenseShared& s, Band& band) {
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  const AxisMap &x = source.x, &y = source.y;
  const bool plain = x.sampling == Sampling::kPlain;
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
  bool odd = false;
  if (thread < n) {
    s.rows[thread] = band_row(source, from + thread);
    odd = s.rows[thread].cell == kManyTaps;
  }
  if (band.usable) {
    constexpr int kLoads = 4;  // in flight a thread
    const float inverse = 1.0f / static_cast<float>(columns);
    const int total = count * columns;
    for (int at = thread; at < total; at += kLoads * kDenseThreads) {
      float values[kLoads];
      RFSEG_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        const int i = at + k * kDenseThreads;
        // i / columns: the half keeps the product away from integers by more than its error
        const int row = static_cast<int>((static_cast<float>(i) + 0.5f) * inverse);
        values[k] = i < total ? source.cell(first + row, i - row * columns) : 0.0f;
      }
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
  }
  if (band.usable) {
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
  band.first_cell = first;
  band.words = words;
  block_sync();
  return n;
}

/// 16 pixels one by one.
template <MaskBytes format>
RFSEG_DEVICE_CALL Pixels<format> pixels_one_by_one(const MaskSource& source, int column, int row) {
  Pixels<format> pixels;
  for (int k = 0; k < kRun; ++k) {
    const int x = column + k;
    pixels.set(k, x >= source.x.begin && x < source.x.end && pixel_is_set(source, x, row));
  }
  return pixels;
}

/// Pixels [16 run, 16 run + 16) of the band's rows [first, last).
template <MaskBytes format, bool plain>
RFSEG_DEVICE void write_run(const MaskSource& source, const DenseShared& s, const Band& band,
                            int band_begin, int run, int first, int last, uint8_t* rows,
                            int64_t pitch) {
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
  if (begin < end && !two_taps) {
    for (int row = first; row < last; ++row) {
      Pixels<format> pixels;
      pixels.fill(false);
      if (row >= source.y.begin && row < source.y.end) {
        pixels = pixels_one_by_one<format>(source, column, row);
      }
      pixels.store(rows + row * pitch, run);
    }
    return;
  }
  float upper[kRun], lower[kRun];
  enum Kind { kNone, kAll, kMixed } kind = kNone;
  int cell = kOutside;
  Pixels<format> pixels;
  pixels.fill(false);
  uint8_t* out = rows + first * pitch;
  for (int row = first; row < last; ++row, out += pitch) {
    const BandRow taps = s.rows[row - band_begin];
    if (taps.cell == kOutside || high < low) {
      Pixels<format> none;
      none.fill(false);
      none.store(out, run);
      continue;
    }
    if (taps.cell != cell) {
      cell = taps.cell;
      const int above = cell - band.first_cell;
      const int below = above + (cell < source.y.cells - 1 ? 1 : 0);
      kind = kMixed;
      if (signs) {
        const uint32_t* bits = s.positive;
        if ((in_window(bits + above * band.words) | in_window(bits + below * band.words)) == 0) {
          kind = kNone;
        } else if (whole && (in_window(s.solid + above * band.words) &
                             in_window(s.solid + below * band.words)) == window) {
          kind = kAll;
        }
      }
      if (kind == kMixed) {
        const float* a = s.cells + above * columns;
        const float* b = s.cells + below * columns;
        const int from = opaque(column);  // taps again rather than 48 registers for all rows
        RFSEG_UNROLL
        for (int k = 0; k < kRun; ++k) {
          const int pixel = from + k;
          const XTaps at = pixel >= begin && pixel < end ? x_taps<plain>(source, pixel) : XTaps{};
          const int next = at.cell + (at.cell < columns - 1 ? 1 : 0);
          upper[k] = blend_two<plain>(at.w0, a[at.cell], at.w1, a[next]);
          lower[k] = blend_two<plain>(at.w0, b[at.cell], at.w1, b[next]);
        }
      } else {
        pixels.fill(kind == kAll);
      }
    }
    if (kind == kMixed) {
      pixels.fill(false);
      RFSEG_UNROLL
      for (int k = 0; k < kRun; ++k) {
        pixels.set(k, blend_two<plain>(taps.w0, upper[k], taps.w1, lower[k]) > 0.0f);
      }
    }
    pixels.store(out, run);
  }
}

/// Rows [from, to) of one mask. All threads; begins with a barrier.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void write_rows(const MaskSource& source, DenseShared& s, int from, int to,
                             uint8_t* mask, int64_t pitch) {
  const int runs = static_cast<int>(pitch / (format == MaskBytes::kBits ? kRun / 8 : kRun));
  const int teams = runs < kDenseThreads ? kDenseThreads / runs : 1;  // shares of the band's rows
  const int thread = thread_index();
  for (int at = from; at < to;) {
    block_sync();
    Band band;
    const int n = load_band(source, at, to, s, band);
    const int share = (n + teams - 1) / teams;
    const int team = teams > 1 ? thread / runs : 0;
    const int first = at + team * share;
    const int last = first + share < at + n ? first + share : at + n;
    if (team < teams) {
      for (int run = teams > 1 ? thread - team * runs : thread; run < runs; run += kDenseThreads) {
        write_run<format, plain>(source, s, band, at, run, first, last, mask, pitch);
      }
    }
    at += n;
  }
}

/// Any number of blocks of kDenseThreads write all masks of the batch.
template <MaskBytes format>
RFSEG_DEVICE void dense_kernel(const KernelArguments& a, DenseShared& s) {
  int loaded = 0;  // parameters were there before the selection kernel began
  load_picture(a, loaded, s.picture);
  await_previous_kernel();
  DensePlaces places(a, format);
  const uint64_t total = places.find(~uint64_t{0});
  hand_over_detections(a, format);
  const uint64_t blocks = static_cast<uint64_t>(grid_x());
  const uint64_t block = static_cast<uint64_t>(block_x());
  if (total > a.byte_capacity) {
    if (block == 0 && thread_index() == 0) {
      a.usage->bytes = total;
      a.header->overflow = 1;
    }
    return;
  }
  // A row belongs to the block in whose share it begins.
  const uint64_t begin = total / blocks * block + total % blocks * block / blocks;
  const uint64_t end = total / blocks * (block + 1) + total % blocks * (block + 1) / blocks;
  for (uint64_t at = begin; at < end;) {
    places.find(at);
    const int picture_index = places.picture;
    if (picture_index != loaded) {
      block_sync();
      loaded = picture_index;
      load_picture(a, loaded, s.picture);
    }
    block_sync();
    const PictureParams& picture = s.picture;
    const int64_t pitch = row_pitch(picture.width, format);
    const uint64_t size = mask_bytes(picture.height, picture.width, format);
    const uint64_t mask = (at - places.start) / size;
    const uint64_t mask_start = places.start + mask * size;
    const uint64_t mask_end = mask_start + size;
    const uint64_t p = static_cast<uint64_t>(pitch);
    const int from = static_cast<int>((at - mask_start + p - 1) / p);
    const int to = static_cast<int>(((end < mask_end ? end : mask_end) - mask_start + p - 1) / p);
    if (from < to) {
      const int64_t slot = int64_t{picture_index} * a.mask_pitch + static_cast<int64_t>(mask);
      if (thread_index() == 0) {
        s.source = mask_source(a, picture, picture_index, a.mask_query[slot]);
      }
      block_sync();
      uint8_t* const out = a.bytes + mask_start;
      if (picture.x.sampling == Sampling::kPlain) {
        write_rows<format, true>(s.source, s, from, to, out, pitch);
      } else {
        write_rows<format, false>(s.source, s, from, to, out, pitch);
      }
    }
    at = mask_end;
  }
}

}  // namespace rfseg::cuda
