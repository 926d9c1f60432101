#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/byte_source.h"
#include "core/weights.h"

namespace rfseg {

/// Elements that lie in the file: `shape` seen through `stride` (in elements, none negative) from
/// byte `offset` on. The whole extent has been checked to lie in its storage.
struct StridedPart {
  DType dtype = DType::kF32;
  Shape shape;
  Shape stride;
  uint64_t offset = 0;
};

/// A tensor made of one part, or of several joined along the first dimension (a projection that the
/// file stores as separate query, key and value matrices).
struct TensorRecord {
  std::string name;
  std::vector<StridedPart> parts;
};

/// Row-major strides of `shape`.
Shape contiguous_strides(const Shape& shape);

/// Number of elements of `shape`, or -1 if a dimension is negative or the number exceeds 2^31.
int64_t checked_element_count(const Shape& shape);

/// The number of elements from the first to the last that a view reaches, 0 for an empty view and
/// -1 if it is malformed or overflows.
int64_t view_extent(const Shape& shape, const Shape& stride);

/// The tensors of a checkpoint file, read on demand. Reading is thread-safe.
class TensorFile final : public WeightSource {
 public:
  TensorFile(std::shared_ptr<const ByteSource> file, std::vector<TensorRecord> records);

  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  const TensorInfo* find(const std::string& name) const override;
  Tensor read(const std::string& name) const override;
  const std::string& origin() const override { return file_->name(); }
  std::string fingerprint() const override;

  /// From now on the position table is presented with a grid of `grid` x `grid`, resampled when it
  /// is read and rounded to the file's element type, as rfdetr 1.6.5 and later do at load.
  void resample_positions(int grid);

  const ByteSource& file() const { return *file_; }

 private:
  void read_part(const TensorInfo& info, const StridedPart& part, float* out) const;

  std::shared_ptr<const ByteSource> file_;
  std::vector<TensorInfo> infos_;
  std::vector<TensorRecord> records_;
  std::unordered_map<std::string, std::size_t> by_name_;
  int stored_grid_ = 0;
  int position_grid_ = 0;
};

}  // namespace rfseg
