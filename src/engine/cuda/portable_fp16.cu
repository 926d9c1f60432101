#include "engine/cuda/portable_tiles.h"

// The fp16 tiles of the portable product. A name says rows x columns, the warps over rows, columns
// and k, and the stages; s2: two slabs a stage.

namespace rfseg::cuda::portable {
namespace {

template <int rows, int cols, int warps_m, int warps_n, int warps_k, int slabs, int stages,
          int min_blocks = 1>
using Tile =
    GemmTile<Math::kFp16, rows, cols, warps_m, warps_n, warps_k, slabs, stages, min_blocks>;

constexpr TileEntry kRowTiles[] = {
    tile_entry<Tile<128, 128, 2, 4, 1, 1, 3, 2>, RowSource::kRows>("128x128 2x4x1 3"),
    tile_entry<Tile<128, 128, 2, 2, 1, 1, 3, 2>, RowSource::kRows>("128x128 2x2x1 3"),
    tile_entry<Tile<64, 128, 2, 4, 1, 1, 4, 2>, RowSource::kRows>("64x128 2x4x1 4"),
    tile_entry<Tile<64, 128, 2, 4, 2, 1, 3, 1>, RowSource::kRows>("64x128 2x4x2 3"),
    tile_entry<Tile<64, 96, 2, 3, 1, 1, 4>, RowSource::kRows>("64x96 2x3x1 4"),
    tile_entry<Tile<64, 96, 2, 3, 2, 1, 4>, RowSource::kRows>("64x96 2x3x2 4"),
    tile_entry<Tile<64, 64, 2, 2, 2, 2, 3, 2>, RowSource::kRows>("64x64 2x2x2 3 s2"),
    tile_entry<Tile<64, 64, 2, 2, 1, 1, 4>, RowSource::kRows>("64x64 2x2x1 4"),
    tile_entry<Tile<32, 128, 1, 4, 2, 1, 4, 2>, RowSource::kRows>("32x128 1x4x2 4"),
    tile_entry<Tile<32, 96, 1, 3, 2, 1, 4>, RowSource::kRows>("32x96 1x3x2 4"),
    tile_entry<Tile<32, 64, 1, 2, 4, 2, 4, 2>, RowSource::kRows>("32x64 1x2x4 4 s2"),
    tile_entry<Tile<32, 64, 1, 2, 2, 1, 4>, RowSource::kRows>("32x64 1x2x2 4"),
    tile_entry<Tile<32, 32, 1, 1, 4, 2, 4>, RowSource::kRows>("32x32 1x1x4 4 s2"),
    tile_entry<Tile<32, 32, 1, 1, 8, 2, 4, 2>, RowSource::kRows>("32x32 1x1x8 4 s2"),
    tile_entry<Tile<16, 64, 1, 2, 4, 2, 4, 2>, RowSource::kRows>("16x64 1x2x4 4 s2"),
    tile_entry<Tile<16, 32, 1, 1, 4, 2, 4>, RowSource::kRows>("16x32 1x1x4 4 s2"),
};
constexpr TileEntry kConvTiles[] = {
    tile_entry<Tile<128, 128, 2, 4, 1, 1, 3, 2>, RowSource::kConv3x3>("128x128 2x4x1 3"),
    tile_entry<Tile<64, 128, 2, 4, 1, 1, 4, 2>, RowSource::kConv3x3>("64x128 2x4x1 4"),
    tile_entry<Tile<64, 64, 2, 2, 2, 2, 3, 2>, RowSource::kConv3x3>("64x64 2x2x2 3 s2"),
    tile_entry<Tile<32, 128, 1, 4, 2, 1, 4, 2>, RowSource::kConv3x3>("32x128 1x4x2 4"),
    tile_entry<Tile<32, 64, 1, 2, 4, 2, 4, 2>, RowSource::kConv3x3>("32x64 1x2x4 4 s2"),
    tile_entry<Tile<32, 32, 1, 1, 4, 2, 4>, RowSource::kConv3x3>("32x32 1x1x4 4 s2"),
    tile_entry<Tile<32, 32, 1, 1, 8, 2, 4, 2>, RowSource::kConv3x3>("32x32 1x1x8 4 s2"),
    tile_entry<Tile<16, 64, 1, 2, 4, 2, 4, 2>, RowSource::kConv3x3>("16x64 1x2x4 4 s2"),
    tile_entry<Tile<16, 32, 1, 1, 4, 2, 4>, RowSource::kConv3x3>("16x32 1x1x4 4 s2"),
};
constexpr TileEntry kNormedTiles[] = {
    tile_entry<Tile<64, 96, 2, 3, 1, 1, 4>, RowSource::kNormed>("64x96 2x3x1 4"),
    tile_entry<Tile<32, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("32x64 1x2x4 4"),
    tile_entry<Tile<16, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("16x64 1x2x4 4"),
};

}  // namespace

TileList fp16_tiles(RowSource source) {
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
