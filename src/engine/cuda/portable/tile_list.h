#pragma once

#include "engine/cuda/products.h"

// The compiled tiles of a product, as the host chooses among them.

namespace rfseg::cuda {
struct Grid;
}

namespace rfseg::cuda::portable {

struct ProductArguments;

/// What a tile costs, in ns on an H200: once, for each round of blocks, for each 128 bytes of k in
/// the first round and in each further one (rounds share the multiprocessor). Fitted to measured
/// times; they only have to put the tiles in order.
struct TileCost {
  float once, block, slab, further;
};

struct TileEntry {
  const char* name;
  TileCost cost;
  int rows, cols;
  int shared_bytes;            ///< fixed part; kNormed asks normed_bytes
  int (*normed_bytes)(int k);  ///< null but for kNormed
  int max_k;                   ///< of kNormed
  void (*enqueue)(const Queue&, const ProductArguments&, Grid, int shared_bytes);
};

struct TileList {
  const TileEntry* entries = nullptr;
  int count = 0;
};
template <int n>
constexpr TileList list_of(const TileEntry (&entries)[n]) {
  return {entries, n};
}

/// gemm() and gemm_norm() of portable.h with a choice of `more` tiles, those of one kind of GPU.
void gemm(const Queue& queue, Math math, const GemmArguments& arguments, const TileList& more);
void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments,
               const TileList& more);
/// gemm() by one tile; false if it does not take the arguments.
bool gemm_by_entry(const Queue& queue, Math math, const GemmArguments& arguments,
                   const TileEntry& tile);

}  // namespace rfseg::cuda::portable
