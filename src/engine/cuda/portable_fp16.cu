#include "engine/cuda/portable_tiles.h"

// The fp16 tiles of the portable product. A name says rows x columns, the warps over rows, columns
// and k, and the stages; s2: two slabs a stage.

namespace rfseg::cuda::portable {
namespace {

template <int rows, int cols, int warps_m, int warps_n, int warps_k, int slabs, int stages,
          int min_blocks = 1, bool norm_rows = false>
using Tile = GemmTile<Math::kFp16, rows, cols, warps_m, warps_n, warps_k, slabs, stages, min_blocks,
                      norm_rows>;

#define RFSEG_TILES(source)                                                      \
  {                                                                              \
    tile_entry<Tile<128, 128, 2, 4, 1, 1, 3, 2>, source>("128x128 2x4x1 3"),     \
        tile_entry<Tile<128, 128, 2, 2, 1, 1, 3, 2>, source>("128x128 2x2x1 3"), \
        tile_entry<Tile<128, 256, 2, 4, 1, 1, 2>, source>("128x256 2x4x1 2"),    \
        tile_entry<Tile<64, 128, 2, 4, 1, 1, 4>, source>("64x128 2x4x1 4"),      \
        tile_entry<Tile<64, 128, 2, 2, 1, 1, 4>, source>("64x128 2x2x1 4"),      \
        tile_entry<Tile<64, 96, 2, 3, 1, 1, 4>, source>("64x96 2x3x1 4"),        \
        tile_entry<Tile<64, 64, 2, 2, 2, 2, 3>, source>("64x64 2x2x2 3 s2"),     \
        tile_entry<Tile<64, 64, 2, 2, 1, 1, 4>, source>("64x64 2x2x1 4"),        \
        tile_entry<Tile<32, 128, 1, 4, 2, 1, 4>, source>("32x128 1x4x2 4"),      \
        tile_entry<Tile<32, 96, 1, 3, 2, 1, 4>, source>("32x96 1x3x2 4"),        \
        tile_entry<Tile<32, 64, 1, 2, 4, 2, 4>, source>("32x64 1x2x4 4 s2"),     \
        tile_entry<Tile<32, 64, 1, 2, 2, 1, 4>, source>("32x64 1x2x2 4"),        \
        tile_entry<Tile<32, 32, 1, 1, 4, 2, 4>, source>("32x32 1x1x4 4 s2"),     \
        tile_entry<Tile<16, 64, 1, 2, 4, 2, 4>, source>("16x64 1x2x4 4 s2"),     \
        tile_entry<Tile<16, 32, 1, 1, 4, 2, 4>, source>("16x32 1x1x4 4 s2"),     \
        tile_entry<Tile<16, 32, 1, 1, 8, 2, 4>, source>("16x32 1x1x8 4 s2"),     \
  }

constexpr TileEntry kRowTiles[] = RFSEG_TILES(RowSource::kRows);
constexpr TileEntry kConvTiles[] = RFSEG_TILES(RowSource::kConv3x3);
constexpr TileEntry kNormedTiles[] = {
    tile_entry<Tile<64, 128, 2, 4, 1, 1, 3>, RowSource::kNormed>("64x128 2x4x1 3"),
    tile_entry<Tile<64, 128, 2, 4, 2, 1, 3>, RowSource::kNormed>("64x128 2x4x2 3"),
    tile_entry<Tile<64, 96, 2, 3, 1, 1, 4>, RowSource::kNormed>("64x96 2x3x1 4"),
    tile_entry<Tile<64, 96, 2, 3, 2, 1, 4>, RowSource::kNormed>("64x96 2x3x2 4"),
    tile_entry<Tile<64, 64, 2, 2, 2, 1, 4>, RowSource::kNormed>("64x64 2x2x2 4"),
    tile_entry<Tile<32, 128, 1, 4, 2, 1, 4>, RowSource::kNormed>("32x128 1x4x2 4"),
    tile_entry<Tile<32, 96, 1, 3, 2, 1, 4>, RowSource::kNormed>("32x96 1x3x2 4"),
    tile_entry<Tile<32, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("32x64 1x2x4 4"),
    tile_entry<Tile<16, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("16x64 1x2x4 4"),
};
#define RFSEG_NORM_TILES(source)                                                     \
  {                                                                                  \
    tile_entry<Tile<16, 128, 1, 4, 2, 1, 4, 1, true>, source>("16x128 1x4x2 4"),     \
        tile_entry<Tile<32, 128, 2, 4, 1, 1, 4, 1, true>, source>("32x128 2x4x1 4"), \
        tile_entry<Tile<16, 256, 1, 8, 1, 1, 2, 1, true>, source>("16x256 1x8x1 2"), \
  }
constexpr TileEntry kNormRowTiles[] = RFSEG_NORM_TILES(RowSource::kRows);
constexpr TileEntry kNormConvTiles[] = RFSEG_NORM_TILES(RowSource::kConv3x3);

#undef RFSEG_NORM_TILES
#undef RFSEG_TILES

}  // namespace

TileList fp16_tiles(RowSource source, bool norm_rows) {
  switch (source) {
    case RowSource::kRows:
      return norm_rows ? list_of(kNormRowTiles) : list_of(kRowTiles);
    case RowSource::kConv3x3:
      return norm_rows ? list_of(kNormConvTiles) : list_of(kConvTiles);
    case RowSource::kNormed:
      break;
  }
  return list_of(kNormedTiles);
}

}  // namespace rfseg::cuda::portable
