#pragma once

#include <cstddef>
#include <vector>

#include "core/geometry.h"
#include "postprocess/box_placement.h"
#include "postprocess/interpolation.h"
#include "rfseg/options.h"

namespace rfseg {

/// Borrowed mask logits of one query: value (row, column) at data[row * stride + column].
struct GridView {
  const float* data = nullptr;
  int rows = 0;
  int columns = 0;
  std::ptrdiff_t stride = 0;
};

/// How the masks of one picture are read out of the mask head's grids. The same for all queries.
struct MaskGeometry {
  int height = 0, width = 0;  ///< of the mask, = the picture's
  int rows = 0, columns = 0;  ///< of the mask head
  /// Cells taken off (positive) or zeros put around (negative) the grid, before it is resampled.
  int pad_left = 0, pad_top = 0, pad_right = 0, pad_bottom = 0;
  AxisMap x, y;  ///< from the picture to the grid after the pads

  /// The grid that `x` and `y` speak of: a view into `data`, or into `storage` where zeros are put
  /// around it.
  GridView source(const float* data, std::vector<float>& storage) const;
};

/// Throws Error(kInput) for a geometry that cannot be: empty or huge sizes, a crop outside of the
/// picture, pads that leave nothing, a scale that is not positive.
void check_geometry(const PreprocessGeometry& geometry, Convention like);

/// docs/conventions.md, "From the mask head's grid to the picture". `geometry` has been checked.
MaskGeometry mask_geometry(const PreprocessGeometry& geometry, Convention like, int rows,
                           int columns);

BoxAxis box_axis_x(const PreprocessGeometry& geometry, Convention like);
BoxAxis box_axis_y(const PreprocessGeometry& geometry, Convention like);

}  // namespace rfseg
