#pragma once

#include <compare>
#include <cstddef>
#include <vector>

#include "preprocess/cuda/records.h"

// Tables of weights for the kernels. They depend on the lengths of an axis alone.

namespace rfseg::cuda {

inline int divide_up(int a, int b) { return (a + b - 1) / b; }

enum class TableKind { kPilColumns, kPilRows, kAntialias, kCvColumns, kCvRows };
struct TableKey {
  TableKind kind;
  int in, out;
  int tile_rows;                                      ///< of pil rows
  auto operator<=>(const TableKey&) const = default;  // NOLINT(modernize-use-nullptr): misread
};

struct Table {
  std::vector<std::byte> bytes;
  std::vector<ColumnWindow> columns;
  std::vector<RowWindow> rows;
  int steps = 0;   ///< products a group or tile
  int pitch = 0;   ///< bytes of a row of pixels of the widest window
  int widest = 0;  ///< inputs of the widest window
  int taps = 0;
};

Table make_table(const TableKey& key);

}  // namespace rfseg::cuda
