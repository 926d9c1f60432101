#pragma once

#include "core/weights.h"

namespace rfseg {

/// Resamples the patch rows of a position table to another grid: float32 [1, 1+P*P, D] to
/// [1, 1+grid*grid, D]; row 0 (the class token) is kept. Bicubic with a = -0.5 and antialias, as
/// torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=True), then
/// rounded to `dtype`. Within 1e-6 of torch. Source: rfdetr 1.6.5, load-time interpolation.
Tensor resample_position_table(const Tensor& table, int grid, DType dtype);

}  // namespace rfseg
