#include "preprocess/cuda/plan_tables.h"

#include <algorithm>
#include <cstring>

#include "preprocess/cv_resize.h"
#include "preprocess/float_axis.h"
#include "preprocess/pil_axis.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

/// Byte `digit` of four times a weight.
std::byte digit_of(int32_t weight, int digit) {
  const uint32_t four = std::min(static_cast<uint32_t>(weight) * 4, (1u << 24) - 1);
  return static_cast<std::byte>(four >> (8 * digit) & 255);
}

/// Sums of four times the weights and bytes must fit 32 bits. Only the rounding of more than 16,000
/// weights all in one direction could be too much.
void check_sums(const PilAxis& axis) {
  for (int o = 0; o < axis.out; ++o) {
    const int32_t* const weights = &axis.weights[static_cast<std::size_t>(o) * axis.taps];
    int64_t sum = kHalfOfByte;
    for (int k = 0; k < axis.count[o]; ++k) sum += int64_t{255} * 4 * weights[k];
    if (sum > UINT32_MAX) throw Error(ErrorCode::kInternal, "weights of a resize exceed 1");
  }
}

/// The weights of 8 output columns for 32 inputs are one right-hand matrix: lane / 4 is the column,
/// lane % 4 the eight inputs, in the order kColumnOrder.
Table pil_columns(int in, int out) {
  const PilAxis axis = make_pil_axis(in, out);
  check_sums(axis);
  Table table;
  const int groups = divide_up(out, kColumnGroup), tiles = divide_up(out, kTileColumns);
  std::vector<int> starts(static_cast<std::size_t>(groups)), ends(starts);
  for (int g = 0; g < groups; ++g) {
    const int last = std::min(out, (g + 1) * kColumnGroup) - 1;
    starts[g] = axis.first[g * kColumnGroup] & ~7;
    ends[g] = axis.first[last] + axis.count[last];
    table.steps = std::max(table.steps, divide_up(ends[g] - starts[g], 32));
  }
  table.steps = std::max(table.steps, kHeldSteps);
  int place[8];  // of an input among the 8 bytes of a lane
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 4; ++k) place[kColumnOrder[half][k]] = half * 4 + k;
  }
  table.bytes.resize(static_cast<std::size_t>(groups) * table.steps * kMatrixBytes);
  for (int o = 0; o < out; ++o) {
    const int g = o / kColumnGroup;
    for (int k = 0; k < axis.count[o]; ++k) {
      const int input = axis.first[o] + k - starts[g], step = input / 32, within = input % 32;
      const int lane = o % kColumnGroup * 4 + within / 8;
      const int32_t weight = axis.weights[static_cast<std::size_t>(o) * axis.taps + k];
      for (int d = 0; d < kDigits; ++d) {
        const std::size_t matrix = static_cast<std::size_t>(g) * table.steps + step;
        table.bytes[matrix * kMatrixBytes + matrix_byte(lane, d, place[within % 8])] =
            digit_of(weight, d);
      }
    }
  }
  for (int t = 0; t < tiles; ++t) {
    ColumnWindow window{};
    window.range.first = starts[t * kColumnGroups] & ~15;
    int read = 0;
    for (int i = 0; i < kColumnGroups; ++i) {
      const int g = t * kColumnGroups + i;
      window.start[i] = window.range.first;
      if (g >= groups) continue;
      window.start[i] = starts[g];
      window.range.end = std::max(window.range.end, ends[g]);
      read = std::max(read, starts[g] + table.steps * 32);
    }
    table.widest = std::max(table.widest, window.range.end - window.range.first);
    // So that the 8-byte loads of four rows, 24 bytes apart within each, meet different banks.
    const int inputs = std::max(read, window.range.end) - window.range.first;
    const int pitch = divide_up(inputs * kChannels, 32) * 32;
    table.pitch = std::max(table.pitch, pitch % 64 == 32 ? pitch : pitch + 32);
    table.columns.push_back(window);
  }
  return table;
}

/// The weights of a tile's output rows for 16 source rows are one left-hand matrix: rows lane / 4
/// and + 8, source rows in the order kRowOrder.
Table pil_rows(int in, int out, int tile_rows) {
  const PilAxis axis = make_pil_axis(in, out);
  check_sums(axis);
  Table table;
  const int tiles = divide_up(out, tile_rows);
  for (int t = 0; t < tiles; ++t) {
    const int first = axis.first[t * tile_rows];
    const int last = std::min(out, (t + 1) * tile_rows) - 1;
    const int count = axis.first[last] + axis.count[last] - first;
    table.rows.push_back({first, count, {}});
    table.steps = std::max(table.steps, divide_up(count, kRound));
  }
  table.steps = std::max(table.steps, kShares);  // each loads its first before it counts
  int place[kRound];                             // of a source row among the 16 bytes of four lanes
  for (int lane = 0; lane < 4; ++lane) {
    for (int k = 0; k < 4; ++k) place[2 * lane + kRowOrder[k]] = lane * 4 + k;
  }
  table.bytes.resize(static_cast<std::size_t>(tiles) * table.steps * kMatrixBytes);
  for (int o = 0; o < out; ++o) {
    const int t = o / tile_rows, r = o % tile_rows;
    for (int k = 0; k < axis.count[o]; ++k) {
      const int input = axis.first[o] + k - table.rows[t].first, step = input / kRound;
      const int byte = place[input % kRound], lane = r % 8 * 4 + byte / 4;
      const int32_t weight = axis.weights[static_cast<std::size_t>(o) * axis.taps + k];
      for (int d = 0; d < kDigits; ++d) {
        const std::size_t matrix = static_cast<std::size_t>(t) * table.steps + step;
        table.bytes[matrix * kMatrixBytes + matrix_byte(lane, d, r / 8 * 4 + byte % 4)] =
            digit_of(weight, d);
      }
    }
  }
  return table;
}

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

Table antialias(int in, int out) {
  const AntialiasAxis axis = make_antialias_axis(in, out);
  Table table;
  table.taps = axis.taps;
  for (int i = 0; i < out; ++i) append(table.bytes, TapRange{axis.first[i], axis.count[i]});
  for (const float weight : axis.weights) append(table.bytes, weight);
  for (int t = 0; t < divide_up(out, kFloatTileRows); ++t) {
    const int from = t * kFloatTileRows, to = std::min(out, from + kFloatTileRows);
    RowWindow window{axis.first[from], 0, {}};
    for (int i = from; i < to; ++i) {
      window.count = std::max(window.count, axis.first[i] + axis.count[i] - window.first);
    }
    table.rows.push_back(window);
  }
  return table;
}

Table cv_taps(int in, int out, bool columns) {
  const CvAxis axis = make_cv_axis(in, out, columns);
  Table table;
  for (int i = 0; i < out; ++i) {
    append(table.bytes, CvTaps{axis.low[i], axis.high[i], axis.weight0[i], axis.weight1[i]});
  }
  return table;
}

}  // namespace

Table make_table(const TableKey& key) {
  switch (key.kind) {
    case TableKind::kPilColumns:
      return pil_columns(key.in, key.out);
    case TableKind::kPilRows:
      return pil_rows(key.in, key.out, key.tile_rows);
    case TableKind::kAntialias:
      return antialias(key.in, key.out);
    case TableKind::kCvColumns:
      return cv_taps(key.in, key.out, true);
    case TableKind::kCvRows:
      return cv_taps(key.in, key.out, false);
  }
  throw Error(ErrorCode::kInternal, "unknown table");
}

}  // namespace rfseg::cuda
