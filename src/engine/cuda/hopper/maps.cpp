#include "engine/cuda/hopper/maps.h"

#include <cuda_runtime_api.h>

namespace rfseg::cuda::hopper {
namespace {

// The driver's functions are asked of the runtime, so that nothing links against the driver.
template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) !=
          cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  return reinterpret_cast<Function>(found);
}

constexpr CUtensorMapL2promotion kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;

}  // namespace

bool matrix_map(CUtensorMap* map, const void* data, int64_t columns, int64_t rows, int64_t ld,
                int64_t count, int64_t step, int box_columns, int box_rows, bool floats) {
  static const auto encode =
      driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  if (!encode) return false;
  if (count <= 1 || step == 0) {
    count = 1;
    step = ld * rows;
  }
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(count)};
  const unsigned bytes = floats ? 4 : 2;
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(ld) * bytes,
                                 static_cast<cuuint64_t>(step) * bytes};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_columns),
                             static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  return encode(map, floats ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                const_cast<void*>(data), sizes, strides, box, element_strides,
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                box_columns * bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                kPromotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool cells_map(CUtensorMap* map, const void* data, int channels, int cols, int rows, int pictures,
               int box_cols, int box_rows) {
  static const auto encode =
      driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  if (!encode) return false;
  const auto size = [](int64_t v) { return static_cast<cuuint64_t>(v); };
  const cuuint64_t sizes[4] = {size(channels), size(cols), size(rows), size(pictures)};
  const cuuint64_t cell = size(channels) * 2;
  const cuuint64_t strides[3] = {cell, cell * sizes[1], cell * sizes[1] * sizes[2]};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_cols),
                             static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, const_cast<void*>(data), sizes, strides,
                box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                kPromotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool taps_map(CUtensorMap* map, const void* data, int64_t channels, int64_t ld, int map_cols,
              int map_rows, int pictures, int stride, int cells) {
  static const auto encode =
      driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  if (!encode) return false;
  const cuuint64_t row = static_cast<cuuint64_t>(ld) * 2;
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(channels), static_cast<cuuint64_t>(map_cols),
                               static_cast<cuuint64_t>(map_rows),
                               static_cast<cuuint64_t>(pictures)};
  const cuuint64_t strides[3] = {row, row * map_cols, row * map_cols * map_rows};
  // The first tap's cells: columns and rows from -1 (padding) to the last but one.
  const int lower[2] = {-1, -1}, upper[2] = {-1, -1};
  const cuuint32_t element_strides[4] = {1, static_cast<cuuint32_t>(stride),
                                         static_cast<cuuint32_t>(stride), 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, const_cast<void*>(data), sizes, strides,
                lower, upper, 64, static_cast<cuuint32_t>(cells), element_strides,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, kPromotion,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace rfseg::cuda::hopper
