#pragma once

#include <cstddef>
#include <cstdint>

#include "preprocess/color_formula.h"

// What the host writes into device memory for the pre-processing kernels: one block of parameters
// with a header, a record a frame, the input windows of its tiles, and tables. Offsets count bytes
// from the block's start.

namespace rfseg::cuda {

constexpr int kPreprocessThreads = 512;
constexpr int kWarps = kPreprocessThreads / 32;

// Tiles of the resize in matrix products: kTileColumns x up to kMaxTileRows outputs.
constexpr int kTileColumns = 64;
constexpr int kColumnGroup = 8;  ///< outputs of one product
constexpr int kColumnGroups = kTileColumns / kColumnGroup;
constexpr int kMaxTileRows = 16;
constexpr int kRound = 16;  ///< source rows taken together
constexpr int kDigits = 3;  ///< bytes of a weight
constexpr int kChannels = 3;
constexpr int kSlots = 8;      ///< most rounds of a tile whose rows are under way together
constexpr int kHeldSteps = 2;  ///< of FrameRecord::steps, at least: weights that stay in registers
constexpr int kShares = 2;     ///< of a tile's rounds among the warps of a column group

/// Inputs of a product: byte k of a lane's word in the first and in the second half of 32 is pixel
/// kColumnOrder[half][k] of the lane's 8.
constexpr int kColumnOrder[2][4] = {{0, 1, 4, 5}, {2, 3, 6, 7}};
/// Byte k of lane c's word of 16 rows is row 2 c + kRowOrder[k].
constexpr int kRowOrder[4] = {0, 8, 1, 9};

/// A matrix of weights: of its first two digits, lane by lane, four words; then of its third two.
constexpr int kMatrixBytes = 32 * 24;
constexpr int matrix_byte(int lane, int digit, int byte) {
  return digit < 2 ? lane * 16 + digit * 8 + byte : 32 * 16 + lane * 8 + byte;
}

constexpr int32_t kHalfOfByte = 1 << 23;  ///< of four times the weights' sums

// Tiles of the resizes in float.
constexpr int kFloatTileColumns = 32;
constexpr int kFloatTileRows = 16;

enum class ResizeKernel : int32_t { kPil, kBilinear, kAntialias };
enum class FrameFormat : int32_t { kRgb, kBgr, kRgba, kGray, kNv12, kI420, kP010 };
/// How source rows come into shared memory.
enum class Reading : int32_t {
  kGeneral,  ///< pixel by pixel
  kStaged,   ///< copied as they are, some rounds ahead, and then made into pixels
  kDirect,   ///< copied as they are, and used so
  kStrips    ///< pixel by pixel, a row in strips
};
enum class Scaling : int32_t { kNone, kLinear, kHalve };

struct alignas(16) BatchHeader {
  void* tensor;  ///< [B, 3, height, width]
  float mean[3], std[3];
};

/// One frame. Its input, what the last step stretches, is in_width x in_height: the cropped
/// picture, or a canvas with the picture at (place_x, place_y). "Columns" are the axis of the first
/// pass: x, or y where `swapped`.
struct alignas(16) FrameRecord {
  const uint8_t* planes[3];
  int64_t strides[3];
  FrameFormat format;
  Reading reading;
  YuvFormula yuv;
  int32_t width, height;        ///< of the whole picture
  int32_t in_width, in_height;  ///< of the input
  int32_t origin_x, origin_y;   ///< in the picture, of what is placed
  int32_t place_x, place_y, place_width, place_height;
  int32_t fill;  ///< the canvas's byte
  Scaling scaling;
  uint32_t scale_columns, scale_rows;  ///< tables of CvTaps
  int32_t swapped;
  int32_t tiles_across, tiles_down;
  int32_t pitch;          ///< bytes between rows of pixels in shared memory
  int32_t reversed;       ///< pixels come there as B, G, R
  int32_t half;           ///< of kDirect: all rounds of a tile have room in half the memory
  int32_t strip;          ///< of kStrips: inputs of an output row that are taken together
  int32_t strip_advance;  ///< first inputs of a product from strip to strip
  int32_t depth;          ///< of kDirect and kStaged: rounds that are under way together
  int32_t planes_used;    ///< of kStaged, with what follows
  int32_t raw_pitch;      ///< bytes between copied rows
  int32_t segments[3];    ///< where a plane's part of a copied row begins
  int32_t unit_bytes[3];  ///< of a plane for 16 pixels of a row
  uint64_t memory[3][2];  ///< first and last address + 1 of a plane
  int32_t steps;          ///< products of 32 inputs a column group
  int32_t row_steps;      ///< products of 16 source rows a tile
  uint32_t column_table, row_table;
  int32_t column_taps, row_taps;  ///< of the tables in float
};

/// Window of a tile in the inputs of the first pass. `start` of a group is a multiple of 8.
struct alignas(16) ColumnRange {
  int32_t first, end;  ///< `first` is a multiple of 16
  int32_t unused[2];
};
struct alignas(16) ColumnWindow {
  ColumnRange range;
  int32_t start[kColumnGroups];
};
struct alignas(16) RowWindow {
  int32_t first, count;
  int32_t unused[2];
};
struct alignas(16) CvTaps {
  int32_t low, high, weight0, weight1;
};
struct alignas(16) BilinearTaps {
  int32_t low, high;
  float weight0, weight1;
};
struct alignas(8) TapRange {
  int32_t first, count;
};

/// Arguments of a launch: what a captured graph cannot change.
struct PreprocessArguments {
  const std::byte* parameters = nullptr;
  int32_t batch = 0;
  int32_t height = 0, width = 0;  ///< of the network's input
  ResizeKernel kernel = ResizeKernel::kPil;
  bool half = false;            ///< the tensor's type: float16 or float32
  bool direct = false;          ///< of kPil: the kernel for frames that are all read directly
  int32_t tile_rows = 0;        ///< of a tile in matrix products
  int32_t tiles_per_frame = 0;  ///< the most that any frame may need
  int32_t tiles_across = 0;     ///< of a frame that is not swapped
  float across_reciprocal = 0;
  int32_t column_windows = 0, row_windows = 0;  ///< a frame's
  uint32_t frames = 0, columns = 0, rows = 0;   ///< offsets of the records
  uint32_t normalised = 0;                      ///< offset of [3][256] floats, what a byte becomes
  int32_t row_bytes = 0;                        ///< shared memory for source rows
  uint32_t* gate = nullptr;                     ///< null: the pixels are there
};

}  // namespace rfseg::cuda
