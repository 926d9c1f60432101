#pragma once

#include "engine/cuda/portable/gemm.h"
#include "engine/cuda/portable/tile_list.h"

// What the host knows of each compiled tile of the portable product.

namespace rfseg::cuda::portable {

template <class Tile, RowSource kSource>
void enqueue_tile(const Queue& queue, const ProductArguments& arguments, Grid grid,
                  int shared_bytes) {
  launch<gemm_body<Tile, kSource>, Tile::kThreads, Tile::kMinBlocks>(
      queue, grid, static_cast<std::size_t>(shared_bytes), arguments);
}

template <class Tile, RowSource kSource>
constexpr TileEntry tile_entry(const char* name, const TileCost& cost) {
  static_assert(kSource == RowSource::kNormed || Tile::kSharedBytes <= kMaxSharedBytes);
  static_assert(kSource != RowSource::kNormed || Tile::normed_bytes(256) <= kMaxSharedBytes);
  return {name,
          cost,
          Tile::kRows,
          Tile::kCols,
          Tile::kSharedBytes,
          kSource == RowSource::kNormed ? &Tile::normed_bytes : nullptr,
          kSource == RowSource::kNormed ? Tile::kMaxNormed : 0,
          &enqueue_tile<Tile, kSource>};
}

/// gemm_norm() by clusters of blocks, on GPUs that have them.
template <class Tile, RowSource kSource>
void enqueue_cluster_tile(const Queue& queue, const ProductArguments& arguments, Grid grid,
                          int shared_bytes) {
  launch_cluster<gemm_body<Tile, kSource, true>, Tile::kThreads, Tile::kMinBlocks>(
      queue, grid, grid.x, static_cast<std::size_t>(shared_bytes), arguments);
}
template <class Tile, RowSource kSource>
constexpr TileEntry cluster_tile(const char* name, const TileCost& cost) {
  constexpr int kShareBytes = kMostShares * Tile::kRows * static_cast<int>(sizeof(RowShare));
  static_assert(Tile::kSharedBytes + kShareBytes <= kMaxSharedBytes);
  TileEntry entry = tile_entry<Tile, kSource>(name, cost);
  entry.shared_bytes += kShareBytes;
  entry.enqueue = &enqueue_cluster_tile<Tile, kSource>;
  return entry;
}

/// The tiles of each arithmetic.
TileList fp16_tiles(RowSource source);
TileList float_tiles(Math math, RowSource source);
/// Those of gemm_norm() by clusters: kRows and kConv3x3. (With floats a split k gains more.)
TileList fp16_cluster_tiles(RowSource source);
void enqueue_norms(const Queue& queue, Math math, const ProductArguments& arguments);

}  // namespace rfseg::cuda::portable
