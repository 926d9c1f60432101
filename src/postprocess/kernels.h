#pragma once

#include <cstddef>
#include <cstdint>

#include "postprocess/mask_geometry.h"

// The inner loops of the fast backend, compiled for several instruction sets from one source
// (kernels.inc). All give the same bits: every operation is an IEEE one, in one order.

namespace rfseg {

/// Flat column-major pixel positions at which a mask changes between background and foreground,
/// ascending. Two equal positions cancel out and are not kept.
struct Toggles {
  uint32_t* data = nullptr;
  std::size_t size = 0;
  std::size_t capacity = 0;
  void* owner = nullptr;  ///< the std::vector behind `data`
};
/// Makes room for `extra` more.
void reserve_toggles(Toggles& toggles, std::size_t extra);

/// Taps and weights of every pixel of one axis. Plain and most antialiased axes have two taps,
/// (cell, cell + 1 or the last) with w0 and w1; for them `start` tells the pixels of each cell.
/// Antialiased axes have all their taps too.
struct AxisTable {
  AxisMap map;
  bool two_taps = false;     ///< the cell-wise path may be used, with the guarantees of kernels.inc
  int max_taps = 0;          ///< row length of `weights`
  int32_t* start = nullptr;  ///< [cells + 1] first pixel whose `cell` is that one or a later one
  int32_t* cell = nullptr;   ///< [end - begin] first of two taps
  float* w0 = nullptr;       ///< [end - begin], readable one before and kAxisPadding past the end
  float* w1 = nullptr;
  int32_t* first = nullptr;  ///< [end - begin] first tap; this and below not for plain
  int32_t* count = nullptr;  ///< [end - begin] number of taps
  float* weights = nullptr;  ///< [end - begin, max_taps]
};
constexpr int kAxisPadding = 64;

/// Working memory of one mask, sized by scratch_for.
struct RasterScratch {
  uint32_t* column_bits = nullptr;  ///< [bit_words, padded columns]
  int padded_columns = 0;
  int bit_words = 0;
  int32_t* lists = nullptr;  ///< [kColumnBlock, rows + 3] crossings of a block of pixel columns
  float* column = nullptr;   ///< [rows + 1] one column blended horizontally
  uint8_t* signs = nullptr;  ///< [mask height]
};
constexpr int kColumnBlock = 64;

struct Kernels {
  const char* name;
  /// Writes the indices of all values >= cut in ascending order; `out` holds n. NaN is never one.
  std::size_t (*collect)(const float* values, std::size_t n, float cut, uint32_t* out);
  /// Fills a table whose map and arrays are set.
  void (*fill_axis)(AxisTable& table);
  /// Appends the toggles of one mask.
  void (*rasterize)(const GridView& grid, const AxisTable& x, const AxisTable& y,
                    const RasterScratch& scratch, Toggles& toggles);
};

enum class Isa { kPlain, kAvx2, kAvx512 };
constexpr Isa kAllIsas[] = {Isa::kPlain, Isa::kAvx2, Isa::kAvx512};

/// Whether this build and processor can run it.
bool isa_supported(Isa isa);
Isa best_isa();
/// `isa` must be supported.
const Kernels& kernels_for(Isa isa);

}  // namespace rfseg
