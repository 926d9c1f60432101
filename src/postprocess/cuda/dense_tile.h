#pragma once

// A tile of a mask of pixels: 16 rows of 32 runs of 16 pixels, a warp's. Where the cells around a
// run have one sign, no value is needed to tell its pixels; the runs where they do not, borders,
// are gathered and computed as the reference has them, by all threads of the block, half a warp a
// run and a lane a pixel.

#include <type_traits>

#include "postprocess/cuda/axis_tables.h"
#include "postprocess/cuda/mask_source.h"
#include "postprocess/cuda/pixel_columns.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

constexpr int kTileRows = 16;      ///< pixel rows
constexpr int kWindowCells = 328;  ///< cells that a tile may keep in shared memory
constexpr int kWindowRows = 32;    ///< rows of cells that a lane notes signs of
constexpr int kRunCells = 32;      ///< columns of cells of one run, likewise
constexpr int kDenseWarps = kDenseThreads / kWarp;
constexpr int kBorders = 2048;  ///< runs with a border that are gathered
constexpr int kOutside = -2;    ///< no row of cells: background
constexpr int kManyTaps = -1;   ///< not two taps

/// How a pixel row reads the cells.
struct TileRow {
  int32_t cell;  ///< its first row of cells within the window, kOutside, or kManyTaps
  float w0, w1;
};

enum class TileCells : uint8_t {
  kWindow,  ///< in shared memory
  kDirect,  ///< read from where they are
  kAny      ///< likewise, and not all pixels have two taps, or some cells are no numbers
};

struct DenseTile {
  uint16_t pixels[kTileRows][kWarp];  ///< of the borders, a bit each
  TileRow rows[kTileRows];
  uint32_t before[kTileRows];  ///< runs with set pixels that a row had before this call
  uint32_t full[kTileRows];    ///< runs whose pixels are all set
  uint32_t border[kTileRows];  ///< runs that are in `pixels`
  uint32_t spans[kWarp];       ///< of each run: its first column of cells, and 65536 times how many
  uint8_t ends[kTileRows];     ///< first row after it with other cells, or the tile's end
  uint64_t begin;              ///< byte of the tile's first run
  int32_t picture, slot, query;
  int32_t row, column;              ///< first pixels
  int32_t count, runs;              ///< rows, and runs of each
  int32_t first_row, first_column;  ///< of the cells
  int32_t row_count, column_count;  ///< of those; no rows: background
  uint32_t late;  ///< rows with borders that the list has no room for; those are in `spans` then
  TileCells reading;
};

/// A gathered run: its tile, run and first row.
RFSEG_DEVICE uint16_t pack_border(int tile, int run, int row) {
  static_assert(kDenseWarps <= 32 && kWarp == 32 && kTileRows == 16);
  return static_cast<uint16_t>(tile << 9 | run << 4 | row);
}

/// Runs are numbered through all bytes; a bit of `set_runs` says that one may have set pixels.
struct RunBits {
  uint32_t* word;
  int shift;

  RFSEG_DEVICE RunBits(uint32_t* bits, uint64_t first_run)
      : word(bits + (first_run >> 5)), shift(static_cast<int>(first_run & 31)) {}
  /// Of the 32 from the first one on.
  RFSEG_DEVICE uint32_t read() const {
    const uint64_t both = word[0] | uint64_t{word[1]} << 32;
    return static_cast<uint32_t>(both >> shift);
  }
  /// Others change their bits of the same words meanwhile: each adds what its own differ by.
  RFSEG_DEVICE void change(uint32_t from, uint32_t to) const {
    const uint64_t old = uint64_t{from} << shift, now = uint64_t{to} << shift;
    const uint32_t low = static_cast<uint32_t>(now) - static_cast<uint32_t>(old);
    const uint32_t high = static_cast<uint32_t>(now >> 32) - static_cast<uint32_t>(old >> 32);
    if (low != 0) atomic_add(word, low);
    if (high != 0) atomic_add(word + 1, high);
  }
};

/// What a tile of a picture with plain axes reads: no more than that is kept in registers.
struct PlainSource {
  const AxisMap &x, &y;
  const void* data;
  Number type;
  int64_t base;
  int columns;

  RFSEG_DEVICE PlainSource(const KernelArguments& a, const PictureParams& p, int picture, int query)
      : x(p.x),
        y(p.y),
        data(a.masks),
        type(a.masks_type),
        base((int64_t{picture} * a.queries + query) * a.rows * a.columns),
        columns(a.columns) {}
  RFSEG_DEVICE float cell(int row, int column) const {
    return read_number(data, type, base + row * columns + column);
  }
  RFSEG_DEVICE XTaps taps(int pixel) const {
    const PlainTaps found = plain_taps(x, pixel);
    XTaps taps;
    taps.cell = found.i0;
    taps.w0 = found.w0;
    taps.w1 = found.w1;
    taps.usable = true;
    return taps;
  }
};
struct AnySource : MaskSource {
  RFSEG_DEVICE AnySource(const KernelArguments& a, const PictureParams& p, int picture, int query)
      : MaskSource(mask_source(a, p, picture, query)) {}
  RFSEG_DEVICE XTaps taps(int pixel) const { return x_taps<false>(*this, pixel); }
};
template <bool plain>
using TileSource = std::conditional_t<plain, PlainSource, AnySource>;

/// Taps of one pixel row.
RFSEG_DEVICE TileRow tile_row(const PlainSource& source, int row) {
  const AxisMap& y = source.y;
  if (row < y.begin || row >= y.end) return {kOutside, 0, 0};
  const PlainTaps taps = plain_taps(y, row);
  return {taps.i0, taps.w0, taps.w1};
}
RFSEG_DEVICE TileRow tile_row(const AnySource& source, int row) {
  const AxisMap& y = source.y;
  if (row < y.begin || row >= y.end) return {kOutside, 0, 0};
  const int k = row - y.begin;
  return {source.y_cells[k], source.y_weights[2 * k], source.y_weights[2 * k + 1]};
}

/// The first cell of the pixels [begin, end) of an axis, and how many they read, with the next one
/// where the last has no weight.
template <bool plain>
RFSEG_DEVICE void cells_of(const AxisMap& axis, int begin, int end, int* first, int* count) {
  int last;
  if (plain) {
    *first = plain_taps(axis, begin).i0;
    last = plain_taps(axis, end - 1).i0;
  } else if (axis.sampling == Sampling::kIdentity) {
    *first = begin - axis.origin;
    last = end - 1 - axis.origin;
  } else if (axis.sampling == Sampling::kPlain) {
    *first = plain_taps(axis, begin).i0;
    last = plain_taps(axis, end - 1).i0;
  } else {
    *first = antialias_taps(axis, begin).lo;
    last = antialias_taps(axis, end - 1).hi - 1;
  }
  last = last + 1 < axis.cells ? last + 1 : axis.cells - 1;
  *count = last + 1 - *first;
}

template <class Source>
RFSEG_DEVICE float tile_cell(const DenseTile& tile, const float* cells, const Source& source,
                             int row, int column) {
  if (tile.reading == TileCells::kWindow) return cells[row * tile.column_count + column];
  return source.cell(tile.first_row + row, tile.first_column + column);
}

/// Which bit of a run a pixel is: those of a byte begin with the highest in masks of bits.
RFSEG_DEVICE int bit_of_pixel(MaskBytes format, int k) {
  return format == MaskBytes::kBits ? k / 8 * 8 + 7 - k % 8 : k;
}

// Rare, so it is called, and looks for itself where the cells are: the registers are others'.
RFSEG_DEVICE_CALL bool pixel_of_any_taps(const KernelArguments& a, const DenseTile& tile, int x,
                                         int row) {
  const MaskSource source = mask_source(a, a.pictures[tile.picture], tile.picture, tile.query);
  return pixel_is_set(source, x, tile.row + row);
}
/// What is known of a tile before its query is: its place must be in it. All lanes of a warp.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void plan_tile(const KernelArguments& a, const TileSource<plain>& source,
                            DenseTile& tile, int64_t row_bytes, uint64_t begin, int row, int column,
                            int count, int runs) {
  const int lane = thread_index() % kWarp;
  const AxisMap &x = source.x, &y = source.y;
  uint32_t before = 0;
  TileRow mine{kOutside, 0, 0};
  if (lane < count) {
    const uint64_t at = begin + static_cast<uint64_t>(lane * row_bytes);
    before = RunBits(a.set_runs, at / run_bytes(format)).read() & (0xffffffffu >> (kWarp - runs));
    mine = tile_row(source, row + lane);
  }
  int first_row = 0, row_count = 0, first_column = 0, column_count = 0, low = 0, cells = 0;
  const int top = row > y.begin ? row : y.begin;
  const int bottom = row + count < y.end ? row + count : y.end;
  const int left = column > x.begin ? column : x.begin;
  const int right = column + kRun * runs < x.end ? column + kRun * runs : x.end;
  if (top < bottom && left < right) {
    cells_of<plain>(y, top, bottom, &first_row, &row_count);
    cells_of<plain>(x, left, right, &first_column, &column_count);
    const int from = column + kRun * lane;
    const int begin_x = from > x.begin ? from : x.begin;
    const int end_x = from + kRun < x.end ? from + kRun : x.end;
    if (lane < runs && begin_x < end_x) cells_of<plain>(x, begin_x, end_x, &low, &cells);
    low = cells > 0 ? low - first_column : 0;
  }
  const bool many_taps = !plain && warp_ballot(mine.cell == kManyTaps) != 0;
  const bool window = row_count * int64_t{column_count} <= kWindowCells;
  if (mine.cell >= 0) mine.cell -= first_row;
  const int above = warp_read(mine.cell, lane > 0 ? lane - 1 : 0);
  const uint32_t changes = warp_ballot(lane > 0 && lane < count && mine.cell != above);
  if (lane < kTileRows && lane < count) {
    const uint32_t later = changes >> (lane + 1);
    tile.rows[lane] = mine;
    tile.ends[lane] = static_cast<uint8_t>(later != 0 ? lane + 1 + lowest_bit(later) : count);
    tile.before[lane] = before;
  }
  tile.spans[lane] =
      cells > 0xffff || low > 0xffff ? 0xffff0000u : static_cast<uint32_t>(cells << 16 | low);
  if (lane == 0) {
    tile.late = 0;
    tile.begin = begin;
    tile.row = row;
    tile.column = column;
    tile.count = count;
    tile.runs = runs;
    tile.first_row = first_row;
    tile.first_column = first_column;
    tile.row_count = row_count;
    tile.column_count = column_count;
    tile.reading = many_taps || (!plain && !window) ? TileCells::kAny
                   : window                         ? TileCells::kWindow
                                                    : TileCells::kDirect;
  }
}

/// Of a planned tile whose query is known: its cells, the runs that are set, and those for the list
/// of borders. `number`: of the tile in its block. Returns whether it has set pixels, or may have.
template <bool plain>
RFSEG_DEVICE bool classify_tile(const TileSource<plain>& source, DenseTile& tile, float* cells,
                                int number, uint16_t* borders, uint32_t* border_count) {
  const int lane = thread_index() % kWarp;
  const int row_count = tile.row_count, column_count = tile.column_count;
  const uint32_t span = tile.spans[lane];
  const int low = static_cast<int>(span & 0xffffu), columns = static_cast<int>(span >> 16);
  const bool active = columns > 0;
  uint32_t positive = 0, solid = 0;  // the signs of this lane's cells, a bit a row of them
  bool unknown = row_count > kWindowRows || columns > kRunCells;
  TileCells reading = tile.reading;
  if (row_count == 0) return false;
  if (reading == TileCells::kWindow && column_count <= 2 * kWarp) {
    const uint64_t mine = active && columns <= 64 ? (~uint64_t{0} >> (64 - columns)) << low : 0;
    uint64_t any = 0;
    bool odd = false;
    constexpr int kRows = 4;  // of loads in flight
    RFSEG_UNROLL_BY(1)
    for (int from = 0; from < row_count; from += kRows) {
      float values[kRows][2];
      RFSEG_UNROLL
      for (int k = 0; k < kRows; ++k) {
        const int row = tile.first_row + from + k, column = tile.first_column + lane;
        const bool inside = from + k < row_count;
        values[k][0] = inside && lane < column_count ? source.cell(row, column) : 0.0f;
        values[k][1] = 0;
        if (column_count > kWarp) {
          const bool further = inside && lane + kWarp < column_count;
          values[k][1] = further ? source.cell(row, column + kWarp) : 0.0f;
        }
      }
      RFSEG_UNROLL
      for (int k = 0; k < kRows; ++k) {
        const int row = from + k;
        if (row >= row_count) continue;
        const float u = values[k][0], v = values[k][1];
        uint64_t set = warp_ballot(u > 0.0f), sure = warp_ballot(u >= 0x1p-30f && u <= 0x1p100f);
        if (lane < column_count) cells[row * column_count + lane] = u;
        if (column_count > kWarp) {
          set |= uint64_t{warp_ballot(v > 0.0f)} << kWarp;
          sure |= uint64_t{warp_ballot(v >= 0x1p-30f && v <= 0x1p100f)} << kWarp;
          if (lane + kWarp < column_count) cells[row * column_count + lane + kWarp] = v;
        }
        if (!plain) {
          odd = odd || (float_bits(u) & 0x7f800000u) == 0x7f800000u ||
                (float_bits(v) & 0x7f800000u) == 0x7f800000u;
        }
        any |= set;
        if (row < kWindowRows) {
          positive |= (set & mine) != 0 ? 1u << row : 0u;
          solid |= (sure & mine) == mine ? 1u << row : 0u;
        }
      }
    }
    // Two taps leave out those without a weight, which matter beside an infinite cell or a NaN.
    if (!plain && warp_ballot(odd) != 0) {
      reading = TileCells::kAny;
    } else if (any == 0) {
      return false;
    }
  } else if (reading == TileCells::kWindow) {
    bool odd = false;
    RFSEG_UNROLL_BY(1)
    for (int row = 0; row < row_count; ++row) {
      RFSEG_UNROLL_BY(1)
      for (int column = lane; column < column_count; column += kWarp) {
        const float v = source.cell(tile.first_row + row, tile.first_column + column);
        odd = odd || (float_bits(v) & 0x7f800000u) == 0x7f800000u;
        cells[row * column_count + column] = v;
      }
    }
    if (!plain && warp_ballot(odd) != 0) reading = TileCells::kAny;
  }
  if (!plain) {
    warp_sync();  // all lanes have read what it was
    if (lane == 0) tile.reading = reading;
  }
  warp_sync();
  unknown = unknown || reading == TileCells::kAny;
  if (reading == TileCells::kDirect ||
      (reading == TileCells::kWindow && column_count > 2 * kWarp)) {
    RFSEG_UNROLL_BY(1)
    for (int r = 0; r < row_count && active && !unknown; ++r) {
      bool any = false, all = true;
      RFSEG_UNROLL_BY(1)
      for (int c = low; c < low + columns; ++c) {
        const float v = tile_cell(tile, cells, source, r, c);
        any = any || v > 0.0f;
        all = all && v >= 0x1p-30f && v <= 0x1p100f;
      }
      positive |= any ? 1u << r : 0u;
      solid |= all ? 1u << r : 0u;
    }
  }
  if (warp_ballot(active && (positive != 0 || unknown)) == 0) return false;
  const AxisMap& x = source.x;
  const int from = tile.column + kRun * lane, rows = tile.count;
  const bool whole = from >= x.begin && from + kRun <= x.end;
  RFSEG_UNROLL_BY(1)
  for (int row = 0; row < rows;) {
    const int cell = tile.rows[row].cell, stop = tile.ends[row];
    bool border = false, all = false;
    if (active && cell != kOutside) {
      const int next = cell + 1 < row_count ? cell + 1 : cell;
      all = !unknown && whole && (solid >> cell & solid >> next & 1u) != 0;
      border = unknown || (((positive >> cell | positive >> next) & 1u) != 0 && !all);
    }
    const uint32_t found = warp_ballot(border), full = warp_ballot(all);
    if (lane >= row && lane < stop) {
      tile.border[lane % kTileRows] = found;
      tile.full[lane % kTileRows] = full;
    }
    if (found != 0) {
      uint32_t at = 0;
      if (lane == 0) at = atomic_add(border_count, static_cast<uint32_t>(count_bits(found)));
      at = warp_read(at, 0) + static_cast<uint32_t>(count_bits(found & ((1u << lane) - 1u)));
      if (border && at < kBorders) borders[at] = pack_border(number, lane, row);
      const uint32_t late = warp_ballot(border && at >= kBorders);
      if (late != 0 && lane == 0) {
        tile.late |= 1u << row;
        tile.spans[row] = late;
      }
    }
    row = stop;
  }
  return true;
}

/// The pixels of a gathered border, by half a warp. `valid`: it has one. All lanes of a warp.
template <MaskBytes format, bool plain>
RFSEG_DEVICE void fill_border(const KernelArguments& args, const TileSource<plain>& source,
                              DenseTile& tile, const float* cells, int run, int row, bool valid) {
  const int lane = thread_index() % kWarp, within = lane % kRun;
  const int k = bit_of_pixel(format, within);  // its own inverse
  const AxisMap& x = source.x;
  const int pixel = tile.column + kRun * run + k;
  const int stop = tile.ends[row];
  const int mine = stop - row, other = warp_read(mine, (lane + kRun) % kWarp);
  const int rows = mine > other ? mine : other;
  const bool inside = pixel >= x.begin && pixel < x.end;
  bool any = tile.reading == TileCells::kAny;
  XTaps taps;
  if (inside && !any) taps = source.taps(pixel);
  if (!plain && inside && !taps.usable) any = true;
  float upper = 0, lower = 0;
  if (inside && !any) {
    const int next = taps.cell < x.cells - 1 ? 1 : 0;
    const int a = tile.rows[row].cell, b = tile.first_row + a < source.y.cells - 1 ? a + 1 : a;
    const int column = taps.cell - tile.first_column;
    upper = blend_two<plain>(taps.w0, tile_cell(tile, cells, source, a, column), taps.w1,
                             tile_cell(tile, cells, source, a, column + next));
    lower = blend_two<plain>(taps.w0, tile_cell(tile, cells, source, b, column), taps.w1,
                             tile_cell(tile, cells, source, b, column + next));
  }
  RFSEG_UNROLL_BY(1)
  for (int r = 0; r < rows; ++r) {
    const bool active = valid && row + r < stop;
    bool set = false;
    if (active && inside) {
      const TileRow t = tile.rows[row + r];
      set = !plain && any ? pixel_of_any_taps(args, tile, pixel, row + r)
                          : blend_two<plain>(t.w0, upper, t.w1, lower) > 0.0f;
    }
    const uint32_t bits = warp_ballot(set);
    if (active && within == 0) {
      tile.pixels[row + r][run] = static_cast<uint16_t>(bits >> (lane & kRun));
    }
  }
}

/// Rows [from, to) of a finished tile, by one warp: stores the runs that have set pixels or had.
/// `background`: none has.
template <MaskBytes format>
RFSEG_DEVICE void store_rows(const DenseTile& tile, bool background, int from, int to,
                             int64_t row_bytes, uint8_t* bytes, uint32_t* set_runs) {
  constexpr int kBytes = run_bytes(format);
  const int lane = thread_index() % kWarp;
  RFSEG_UNROLL_BY(4)
  for (int r = from; r < to; ++r) {
    const uint32_t before = tile.before[r];
    uint32_t v = 0;
    if (!background) {
      v = (tile.full[r] >> lane & 1u) != 0 ? 0xffffu : 0u;
      if ((tile.border[r] >> lane & 1u) != 0) v = tile.pixels[r][lane];
    }
    const uint32_t now = warp_ballot(v != 0);
    const uint64_t at = tile.begin + static_cast<uint64_t>(r * row_bytes);
    if (((before | now) >> lane & 1u) != 0) {
      uint8_t* const out = bytes + at + kBytes * lane;
      if (format == MaskBytes::kBits) {
        *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(v);
      } else {
        struct alignas(16) Quad {
          uint32_t w[4];
        };
        const auto spread = [v](int k) { return (v >> (4 * k) & 15u) * 0x00204081u & 0x01010101u; };
        *reinterpret_cast<Quad*>(out) = Quad{{spread(0), spread(1), spread(2), spread(3)}};
      }
    }
    if (lane == 0 && before != now) RunBits(set_runs, at / kBytes).change(before, now);
  }
}

}  // namespace rfseg::cuda
