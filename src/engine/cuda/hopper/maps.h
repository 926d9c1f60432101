#pragma once

#include <cuda.h>

#include <cstdint>

// Tensor maps: what the copy engine (TMA) must know of a matrix in device memory. Made on the host;
// they hold the address, so a map is only as good as the memory it describes.

namespace rfseg::cuda::hopper {

/// A matrix of halves (or floats), or `count` of them `step` elements apart: [count, rows,
/// columns], `ld` elements from row to row. Copied in boxes of box_rows x box_columns (64 or 32
/// columns: swizzled by 128 or 64 bytes). ld and step: multiples of 8; data: aligned to 16 bytes.
/// Whether CUDA took it.
bool matrix_map(CUtensorMap* map, const void* data, int64_t columns, int64_t rows, int64_t ld,
                int64_t count, int64_t step, int box_columns, int box_rows, bool floats = false);

/// A map of cells [pictures, rows, cols, channels] of halves, copied in boxes of 64 channels of
/// box_rows x box_cols cells, swizzled by 128 bytes; cells beyond the edges count as zeros, and are
/// not written.
bool cells_map(CUtensorMap* map, const void* data, int channels, int cols, int rows, int pictures,
               int box_cols, int box_rows);

/// The cells under one tap of a 3x3 convolution with zero padding 1: a map
/// [pictures, map_rows, map_cols, ld] of halves, read as `cells` successive output cells of 64
/// channels.
bool taps_map(CUtensorMap* map, const void* data, int64_t channels, int64_t ld, int map_cols,
              int map_rows, int pictures, int stride, int cells);

}  // namespace rfseg::cuda::hopper
