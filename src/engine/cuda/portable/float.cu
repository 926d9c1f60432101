#include "engine/cuda/portable/tiles.h"

// The tiles of the portable product for floats, by TF32 and by split TF32. Names as in fp16.cu.

namespace rfseg::cuda::portable {
namespace {

constexpr TileCost cost(Math math, const TileCost& split, const TileCost& plain) {
  return math == Math::kFp32 ? split : plain;
}

template <Math math, RowSource source>
constexpr TileEntry kTiles[] = {
    tile_entry<GemmTile<math, 64, 64, 2, 2, 1, 1, 4>, source>(
        "64x64 2x2x1 4", cost(math, {2384, 274, 650, 582}, {1501, 1098, 376, 273})),
    tile_entry<GemmTile<math, 32, 64, 1, 2, 2, 1, 4>, source>(
        "32x64 1x2x2 4", cost(math, {1451, 814, 360, 274}, {1183, 706, 248, 142})),
    tile_entry<GemmTile<math, 32, 32, 1, 1, 4, 2, 4>, source>(
        "32x32 1x1x4 4 s2", cost(math, {1600, 659, 182, 146}, {1400, 523, 125, 99})),
    tile_entry<GemmTile<math, 16, 32, 1, 1, 4, 2, 4>, source>(
        "16x32 1x1x4 4 s2", cost(math, {1303, 306, 133, 84}, {1298, 301, 79, 61})),
};
template <Math math>
constexpr TileEntry kNormedTiles[] = {
    tile_entry<GemmTile<math, 32, 64, 2, 2, 1, 1, 4>, RowSource::kNormed>(
        "32x64 2x2x1 4", cost(math, {1500, 2500, 330, 250}, {1500, 2500, 230, 150})),
    tile_entry<GemmTile<math, 16, 64, 1, 2, 2, 1, 4>, RowSource::kNormed>(
        "16x64 1x2x2 4", cost(math, {1500, 2500, 200, 170}, {1500, 2500, 130, 110})),
};

template <Math math>
TileList tiles(RowSource source) {
  switch (source) {
    case RowSource::kRows:
      return list_of(kTiles<math, RowSource::kRows>);
    case RowSource::kConv3x3:
      return list_of(kTiles<math, RowSource::kConv3x3>);
    case RowSource::kNormed:
      break;
  }
  return list_of(kNormedTiles<math>);
}

}  // namespace

TileList float_tiles(Math math, RowSource source) {
  return math == Math::kTf32 ? tiles<Math::kTf32>(source) : tiles<Math::kFp32>(source);
}

}  // namespace rfseg::cuda::portable
