#pragma once

// The host's half that needs no CUDA: parameters, memory layout, reading results.

#include <cstddef>
#include <span>
#include <vector>

#include "postprocess/cuda/records.h"
#include "postprocess/postprocess.h"

namespace rfseg::cuda {

/// What the inputs of one call look like.
struct Shape {
  int batch = 0, queries = 0, classes = 0, rows = 0, columns = 0;
  bool masks = false;
  bool operator==(const Shape&) const = default;
};

/// Sizes of workspace and results. A call fits when each is at least what it needs.
struct Capacity {
  int32_t detections = 0;  ///< a picture
  int32_t masks = 0;       ///< a picture
  int64_t keys = 0;        ///< a picture, 0 or a power of two
  int32_t side = 0;        ///< pixels, of antialiased axes
  uint32_t spill = 0;      ///< toggles a block, beyond those in shared memory
  uint64_t bytes = 0;      ///< of all masks
  int32_t blocks = 0;      ///< of the mask kernel
  bool operator==(const Capacity&) const = default;
  bool holds(const Capacity& other) const;
  /// The larger of each.
  Capacity grown_to(const Capacity& other) const;
};

/// Throws what postprocess() throws. `pictures` has shape.batch entries.
void check_call(const PostprocessSpec& spec, std::span<const PreprocessGeometry> pictures,
                const Shape& shape);

/// Bytes of the parameter block, which holds CallParams, the rules and the pictures in this order,
/// each aligned to 16 bytes.
std::size_t parameter_bytes(const Shape& shape);
/// Fills `to` (parameter_bytes) and says what the call needs (spill, bytes and blocks excepted).
Capacity write_parameters(const PostprocessSpec& spec, std::span<const PreprocessGeometry> pictures,
                          const Shape& shape, std::byte* to);
void point_to_parameters(KernelArguments& arguments, const Shape& shape, const std::byte* block);

/// Whether the axes of all pictures of a parameter block are plain.
bool all_plain(const Shape& shape, const std::byte* block);

/// Hands out the workspace from `base` and returns its size; with base = nullptr only the size.
std::size_t carve_workspace(KernelArguments& arguments, const Shape& shape,
                            const Capacity& capacity, std::byte* base);
/// The same for the results but their header. The bytes come last.
std::size_t carve_results(KernelArguments& arguments, const Shape& shape, const Capacity& capacity,
                          std::byte* base);

/// Bytes up to the end of the last mask's run lengths.
std::size_t end_of_masks(const KernelArguments& arguments, const Shape& shape);
/// Detections from results that the host can read; without `masks` those are null. `parameters` is
/// the block that was in force.
std::vector<Detections> read_results(const KernelArguments& arguments, const Shape& shape,
                                     const std::byte* parameters, bool masks);

}  // namespace rfseg::cuda
