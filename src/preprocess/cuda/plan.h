#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "preprocess/cuda/records.h"
#include "preprocess/preprocess.h"

// The host's side of pre-processing on a GPU, without CUDA: checks, tiles, parameter blocks.

namespace rfseg::cuda {

/// What a launch depends on; as long as it stays, a captured graph may be replayed.
struct LaunchShape {
  int batch = 0, height = 0, width = 0;
  ResizeKernel kernel = ResizeKernel::kPil;
  bool half = false;
  bool operator==(const LaunchShape&) const = default;
};

struct PlanLimits {
  int processors = 132;    ///< multiprocessors
  int row_bytes = 160000;  ///< shared memory for source rows
  int tile_rows = 0;       ///< 0: the best known, or 1..16
};

/// A frame whose planes may be read where the kernel runs.
using FrameView = ImageView;

LaunchShape launch_shape(std::size_t batch, const PreprocessSpec& spec, bool half);

/// Fills in all but `parameters` and `direct`.
PreprocessArguments launch_arguments(const LaunchShape& shape, const PlanLimits& limits);
int total_tiles(const PreprocessArguments& arguments);

/// Throws what preprocess() throws for this frame.
void check_frame(const ImageView& view, const PreprocessSpec& spec);

/// The rows of the picture that are read: [first, end).
struct UsedRows {
  int first, end;
};
UsedRows used_rows(const ImageView& view, const PreprocessSpec& spec);

/// Number and length of a frame's planes.
int plane_count(FrameFormat format);
FrameFormat frame_format(PixelFormat format);
/// Bytes of a row of plane `plane`, and its rows.
std::size_t plane_row_bytes(const ImageView& view, int plane);
int plane_rows(const ImageView& view, int plane);

/// Builds parameter blocks. Tables are kept from call to call.
class Planner {
 public:
  Planner();
  ~Planner();

  /// The block for these frames: `fixed` bytes of records, which change with every frame, then
  /// tables, which change with sizes and may already be in place (`tables_changed`).
  struct Block {
    std::span<const std::byte> bytes;
    std::size_t fixed = 0;
    bool tables_changed = false;
    bool direct = false;  ///< the kernel of PreprocessArguments::direct serves these frames
  };
  Block build(const PreprocessArguments& arguments, std::span<const FrameView> frames,
              const PreprocessSpec& spec, void* tensor);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rfseg::cuda
