#pragma once

#include <memory>

#include "postprocess/kernels.h"
#include "postprocess/mask_geometry.h"
#include "rfseg/detections.h"

namespace rfseg {

/// Turns mask logits of one query into the mask of the picture. One object serves all queries of a
/// picture; not thread-safe, since it keeps its working memory.
class Rasterizer {
 public:
  virtual ~Rasterizer() = default;
  /// `logits` is [rows, columns] of the geometry that the object was made for.
  virtual Mask operator()(const float* logits) = 0;
};

/// Every pixel by the formulas of interpolation.h, then encoded.
std::unique_ptr<Rasterizer> make_reference_rasterizer(const MaskGeometry& geometry);

/// The same bytes at a cost that grows with the cells on the mask's border and with its runs.
std::unique_ptr<Rasterizer> make_fast_rasterizer(const MaskGeometry& geometry,
                                                 const Kernels& kernels);

}  // namespace rfseg
