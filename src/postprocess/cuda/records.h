#pragma once

// Everything that host and kernels hand to each other. No CUDA types.

#include <cstddef>
#include <cstdint>

#include "postprocess/box_placement.h"
#include "postprocess/column_rule.h"
#include "postprocess/interpolation.h"

namespace rfseg::cuda {

enum class Number : uint8_t { kFloat32, kFloat16 };

/// What the bytes of a call's masks are.
enum class MaskBytes : uint8_t {
  kRle,    ///< compressed COCO counts, a MaskRecord each
  kDense,  ///< a byte a pixel, 0 or 1: [masks, height, row_pitch]
  kBits    ///< a bit a pixel, the first in the highest bit of a byte: [masks, height, row_pitch]
};

/// Pixels that masks of pixels are made of: the unit in which they are written.
constexpr int kRun = 16;
RFSEG_HOST_DEVICE constexpr int run_bytes(MaskBytes format) {
  return format == MaskBytes::kBits ? kRun / 8 : kRun;
}

/// Bytes from one row to the next of a dense mask or of one of bits. What is beyond the width is 0.
RFSEG_HOST_DEVICE int64_t row_pitch(int32_t width, MaskBytes format) {
  const int64_t used = format == MaskBytes::kBits ? (width + 7) / 8 : width;
  return (used + 15) / 16 * 16;
}

/// Bytes of one such mask.
RFSEG_HOST_DEVICE uint64_t mask_bytes(int32_t height, int32_t width, MaskBytes format) {
  return static_cast<uint64_t>(row_pitch(width, format)) * static_cast<uint64_t>(height);
}

constexpr int kSelectThreads = 1024;
constexpr int kMaskThreads = 256;
constexpr int kDenseThreads = 1024;
constexpr int kMaxBlocksPerMask = 8;  ///< and a cluster
constexpr int kCandidates = 4096;     ///< pairs that selection orders in shared memory
constexpr int kSharedQueries = 2048;  ///< queries whose first survivor is kept in shared memory
constexpr int kMaxRows = 1024;        ///< rows of cells that the cell-wise path takes

// --- parameters: in device memory, so that a captured graph serves changing pictures ---

struct CallParams {
  int32_t num_select = 0, max_detections = 0;
  float cut = 0;          ///< least logit that can pass; NaN when none can
  int32_t inference = 0;  ///< boxes by that convention
  int32_t with_masks = 0;
};

struct PictureParams {
  int32_t height = 0, width = 0;
  int32_t pad_left = 0, pad_top = 0;  ///< cells taken off, or zeros put around (negative)
  AxisMap x, y;
  BoxAxis box_x, box_y;
};

// --- results ---

/// The host clears it before a call.
struct ResultHeader {
  uint32_t overflow = 0;  ///< not 0: some mask is missing, see Overflow
  uint32_t done = 0;      ///< not 0: all results are there; with KernelArguments::tell_end
  uint32_t padding[2] = {};
};
enum Overflow : uint32_t {
  kBuffersTooSmall = 1,   ///< run again with larger buffers
  kTooManyCandidates = 2  ///< for one kernel alone: run again with the selection kernel
};
struct alignas(16) PictureRecord {
  int32_t detections = 0;
  int32_t masks = 0;
  uint64_t offset = 0;  ///< of the picture's first mask in the bytes; not for run lengths
};
struct MaskRecord {
  uint32_t offset = 0;  ///< in the bytes
  uint32_t length = 0;
};
struct alignas(16) DetectionRecord {
  int32_t query = 0, class_id = 0;
  float score = 0;
  int32_t mask = -1;  ///< index among the picture's masks, -1 without
  float box[4] = {};
};
/// What a rerun needs, and the running end of the bytes.
struct Usage {
  uint64_t reserved = 0;  ///< bytes so far; without a selection kernel also kReservation a mask,
                          ///< and 0 again after the last
  uint64_t bytes = 0;     ///< that all masks need
  uint32_t toggles = 0;   ///< most that one block had to spill, where it had no room
  uint32_t padding = 0;
};
constexpr uint64_t kReservation = uint64_t{1} << 48;

/// Fixed when a call is enqueued or captured: pointers and shapes, nothing about the pictures.
struct KernelArguments {
  // inputs, device memory
  const void* boxes = nullptr;   ///< [B, Q, 4]
  const void* logits = nullptr;  ///< [B, Q, K]
  const void* masks = nullptr;   ///< [B, Q, rows, columns], may be null
  Number boxes_type = Number::kFloat32, logits_type = Number::kFloat32,
         masks_type = Number::kFloat32;
  int32_t batch = 0, queries = 0, classes = 0, rows = 0, columns = 0;
  // parameters, device memory
  const CallParams* call = nullptr;
  const ColumnRule* rules = nullptr;        ///< [K]
  const PictureParams* pictures = nullptr;  ///< [B]
  // workspace, device memory
  uint64_t* keys = nullptr;  ///< [B, key_pitch], where selection is too large for shared
  DetectionRecord* survivors = nullptr;  ///< [B, detection_pitch]
  PictureRecord* counts = nullptr;       ///< [B]
  int32_t* first = nullptr;              ///< [B, Q] first survivor of a query
  int32_t* slots = nullptr;              ///< [B, Q] its mask
  int32_t* mask_query = nullptr;         ///< [B, mask_pitch]
  int32_t* start = nullptr;              ///< [B, start_pitch] first pixel row of each row of cells
  float* weights = nullptr;              ///< [B, 2, side_pitch, 2] antialiased axes as two taps
  int32_t* cells = nullptr;              ///< [B, 2, side_pitch] first of the two, -1: more taps
  int32_t* two_taps = nullptr;           ///< [B] the y axis has two taps everywhere
  uint32_t* spill = nullptr;             ///< [blocks, spill_pitch]
  Usage* usage = nullptr;
  uint32_t* ended = nullptr;  ///< blocks that have; 0 between calls
  int64_t key_pitch = 0;
  int32_t detection_pitch = 0, mask_pitch = 0, start_pitch = 0, side_pitch = 0;
  uint32_t spill_pitch = 0;
  // results, memory that the host may read
  ResultHeader* header = nullptr;
  PictureRecord* picture_records = nullptr;  ///< [B]
  MaskRecord* mask_records = nullptr;        ///< [B, mask_pitch]
  DetectionRecord* detections = nullptr;     ///< [B, detection_pitch]
  uint8_t* bytes = nullptr;
  uint64_t byte_capacity = 0;
  /// Masks of pixels: a bit a run of `bytes`, set where the run may have set pixels. Of nobody
  /// else.
  uint32_t* set_runs = nullptr;
  int32_t tell_end = 0;  ///< ResultHeader::done is to be set
};

}  // namespace rfseg::cuda
