#include "engine/cuda/portable/tiles.h"

// The fp16 tiles of the portable product. A name says rows x columns, the warps over rows, columns
// and k, and the stages; s2: two slabs a stage.

namespace rfseg::cuda::portable {
namespace {

template <int rows, int cols, int warps_m, int warps_n, int warps_k, int slabs, int stages,
          int min_blocks = 1>
using Tile =
    GemmTile<Math::kFp16, rows, cols, warps_m, warps_n, warps_k, slabs, stages, min_blocks>;

template <RowSource source>
constexpr TileEntry kTiles[] = {
    tile_entry<Tile<128, 128, 2, 4, 1, 1, 3, 2>, source>("128x128 2x4x1 3", {1422, 2355, 864, 724}),
    tile_entry<Tile<64, 128, 2, 4, 1, 1, 4, 2>, source>("64x128 2x4x1 4", {630, 1513, 530, 418}),
    tile_entry<Tile<64, 64, 2, 2, 1, 1, 4>, source>("64x64 2x2x1 4", {1430, 761, 298, 254}),
    tile_entry<Tile<32, 64, 1, 2, 2, 1, 4>, source>("32x64 1x2x2 4", {1394, 537, 224, 125}),
    tile_entry<Tile<32, 64, 1, 2, 4, 2, 4, 2>, source>("32x64 1x2x4 4 s2", {1051, 1100, 197, 150}),
    tile_entry<Tile<16, 64, 1, 2, 4, 2, 4, 2>, source>("16x64 1x2x4 4 s2", {602, 1073, 117, 113}),
    tile_entry<Tile<16, 32, 1, 1, 4, 2, 4>, source>("16x32 1x1x4 4 s2", {937, 437, 92, 57}),
};
constexpr TileEntry kNormedTiles[] = {
    tile_entry<Tile<64, 96, 2, 3, 1, 1, 4>, RowSource::kNormed>("64x96 2x3x1 4",
                                                                {1500, 3000, 400, 330}),
    tile_entry<Tile<32, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("32x64 1x2x4 4",
                                                                {1500, 2500, 230, 150}),
    tile_entry<Tile<16, 64, 1, 2, 4, 1, 4>, RowSource::kNormed>("16x64 1x2x4 4",
                                                                {1500, 2500, 130, 110}),
};

template <RowSource source>
constexpr TileEntry kClusterTiles[] = {
    cluster_tile<Tile<32, 64, 1, 2, 4, 2, 4, 2>, source>("32x64 1x2x4 4 s2",
                                                         {1051, 1100, 197, 150}),
    cluster_tile<Tile<16, 64, 1, 2, 4, 2, 4, 2>, source>("16x64 1x2x4 4 s2", {602, 1073, 117, 113}),
    cluster_tile<Tile<16, 32, 1, 1, 4, 2, 4>, source>("16x32 1x1x4 4 s2", {937, 437, 92, 57}),
};

}  // namespace

TileList fp16_cluster_tiles(RowSource source) {
  return source == RowSource::kConv3x3 ? list_of(kClusterTiles<RowSource::kConv3x3>)
                                       : list_of(kClusterTiles<RowSource::kRows>);
}

TileList fp16_tiles(RowSource source) {
  switch (source) {
    case RowSource::kRows:
      return list_of(kTiles<RowSource::kRows>);
    case RowSource::kConv3x3:
      return list_of(kTiles<RowSource::kConv3x3>);
    case RowSource::kNormed:
      break;
  }
  return list_of(kNormedTiles);
}

}  // namespace rfseg::cuda::portable
