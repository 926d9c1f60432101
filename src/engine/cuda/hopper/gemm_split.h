#pragma once

#include "engine/cuda/portable/tile_list.h"

// The matrix product of fp32 (split TF32) by Hopper's wgmma, whose TF32 rate is three times that of
// mma.sync. Everything but the multiplication is the portable product's (portable/gemm.h).

namespace rfseg::cuda::hopper {

/// Tiles of floats for portable::gemm() and portable::gemm_norm(); none for kNormed, and none where
/// usable() is false.
portable::TileList split_tiles(RowSource source);

}  // namespace rfseg::cuda::hopper
