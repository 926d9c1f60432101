#include "engine/cuda/portable_tiles.h"

// The tiles of the portable product for floats by TF32. Names as in portable_fp16.cu.

namespace rfseg::cuda::portable {
namespace {

template <int rows, int cols, int warps_m, int warps_n, int warps_k, int slabs, int stages,
          int min_blocks = 1>
using Tile =
    GemmTile<Math::kTf32, rows, cols, warps_m, warps_n, warps_k, slabs, stages, min_blocks>;

constexpr TileEntry kRowTiles[] = {
    tile_entry<Tile<64, 64, 2, 2, 1, 1, 4>, RowSource::kRows>("64x64 2x2x1 4",
                                                              {1430, 761, 300, 260}),
    tile_entry<Tile<32, 32, 1, 1, 4, 2, 4>, RowSource::kRows>("32x32 1x1x4 4 s2",
                                                              {1000, 600, 110, 70}),
};
constexpr TileEntry kConvTiles[] = {
    tile_entry<Tile<64, 64, 2, 2, 1, 1, 4>, RowSource::kConv3x3>("64x64 2x2x1 4",
                                                                 {1430, 761, 300, 260}),
    tile_entry<Tile<32, 32, 1, 1, 4, 2, 4>, RowSource::kConv3x3>("32x32 1x1x4 4 s2",
                                                                 {1000, 600, 110, 70}),
};
constexpr TileEntry kNormedTiles[] = {
    tile_entry<Tile<32, 64, 2, 2, 1, 1, 4>, RowSource::kNormed>("32x64 2x2x1 4",
                                                                {1500, 2500, 230, 150}),
    tile_entry<Tile<16, 64, 1, 2, 2, 1, 4>, RowSource::kNormed>("16x64 1x2x2 4",
                                                                {1500, 2500, 130, 110}),
};

}  // namespace

TileList tf32_tiles(RowSource source) {
  switch (source) {
    case RowSource::kRows:
      return list_of(kRowTiles);
    case RowSource::kConv3x3:
      return list_of(kConvTiles);
    case RowSource::kNormed:
      break;
  }
  return list_of(kNormedTiles);
}

}  // namespace rfseg::cuda::portable
