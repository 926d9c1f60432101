#pragma once

#include "core/cuda/simt.h"
#include "postprocess/cuda/inputs.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

/// One query's cells, and how its picture reads them.
struct MaskSource {
  const void* data;
  Number type;
  int64_t base;            ///< element of the query's first cell
  int rows, columns;       ///< of the mask head
  int pad_left, pad_top;   ///< cells taken off, or zeros put around (negative)
  AxisMap x, y;            ///< over the grid after the pads
  const float* x_weights;  ///< [pixels, 2], antialiased or unscaled axes only
  const float* y_weights;
  const int32_t* x_cells;  ///< [pixels], -1: not two taps
  const int32_t* y_cells;
  const int32_t* start;  ///< [y.cells + 1]
  bool y_two_taps;
  float y_inverse;  ///< 1 / y.scale, for estimates

  /// The same without pads.
  RFSEG_DEVICE float inside(int row, int column) const {
    return read_number(data, type, base + row * columns + column);
  }
  /// The cell at a row and column of the grid after the pads.
  RFSEG_DEVICE float cell(int row, int column) const {
    const int r = row + pad_top, c = column + pad_left;
    if (r < 0 || r >= rows || c < 0 || c >= columns) return 0.0f;
    return read_number(data, type, base + int64_t{r} * columns + c);
  }
};

RFSEG_DEVICE MaskSource mask_source(const KernelArguments& a, const PictureParams& picture,
                                    int picture_index, int query) {
  MaskSource source;
  source.data = a.masks;
  source.type = a.masks_type;
  source.base = (int64_t{picture_index} * a.queries + query) * a.rows * a.columns;
  source.rows = a.rows;
  source.columns = a.columns;
  source.pad_left = picture.pad_left;
  source.pad_top = picture.pad_top;
  source.x = picture.x;
  source.y = picture.y;
  const int64_t table = int64_t{picture_index} * 2 * a.side_pitch;
  source.x_weights = a.weights + 2 * table;
  source.y_weights = a.weights + 2 * (table + a.side_pitch);
  source.x_cells = a.cells + table;
  source.y_cells = a.cells + table + a.side_pitch;
  source.start = a.start + int64_t{picture_index} * a.start_pitch;
  source.y_two_taps = picture.y.sampling == Sampling::kPlain || a.two_taps[picture_index] != 0;
  source.y_inverse = 1.0f / picture.y.scale;
  return source;
}

/// The two-tap value in the rounding of either formula: the plain one rounds the second product,
/// the antialiased one the first.
template <bool plain>
RFSEG_DEVICE float blend_two(float w0, float v0, float w1, float v1) {
  return plain ? plain_blend(w0, v0, w1, v1) : fused(v1, w1, v0 * w0);
}

/// Two taps along x of one pixel column. None at all without weights.
struct XTaps {
  int cell = 0;
  float w0 = 0, w1 = 0;
  bool usable = false;
};

template <bool plain>
RFSEG_DEVICE XTaps x_taps(const MaskSource& source, int pixel) {
  XTaps taps;
  if (plain) {
    const PlainTaps found = plain_taps(source.x, pixel);
    taps.cell = found.i0;
    taps.w0 = found.w0;
    taps.w1 = found.w1;
    taps.usable = true;
    return taps;
  }
  const int k = pixel - source.x.begin;
  taps.cell = source.x_cells[k];
  taps.w0 = source.x_weights[2 * k];
  taps.w1 = source.x_weights[2 * k + 1];
  taps.usable = taps.cell >= 0;
  return taps;
}

RFSEG_DEVICE XTaps x_taps(const MaskSource& source, int pixel) {
  return source.x.sampling == Sampling::kPlain ? x_taps<true>(source, pixel)
                                               : x_taps<false>(source, pixel);
}

/// What a column's toggles say beside their positions.
struct ColumnFacts {
  uint32_t inner = 0;  ///< toggles at neither end of the picture
  bool first = false;  ///< pixel 0 is set
  bool last = false;   ///< the last pixel of the picture's column is set
};

}  // namespace rfseg::cuda
