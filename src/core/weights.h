#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace rfseg {

enum class DType { kF32, kF16, kBf16, kF64, kBool, kU8, kI8, kI16, kI32, kI64 };

/// A named tensor of a checkpoint, described without reading its data.
struct TensorInfo {
  std::string name;  ///< upstream (rfdetr) name, e.g. "class_embed.weight"
  DType dtype = DType::kF32;
  Shape shape;
};

/// Where an engine takes its weights from. Data is read on demand, so that a file of several
/// hundred megabytes is never held in memory beside the engine's own packed copy.
/// `read` is thread-safe.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Every tensor, in file order.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// The tensor of that name, or nullptr.
  virtual const TensorInfo* find(const std::string& name) const = 0;
  /// The whole tensor as float32 in C order. Throws Error(kModel) naming the file and the tensor if
  /// it does not exist, cannot be read or holds a NaN or infinity.
  virtual Tensor read(const std::string& name) const = 0;
  /// As `read`, and throws Error(kModel) naming the tensor, the expected and the found shape if
  /// they differ. A leading dimension of `expected` may be smaller than the file's: then its first
  /// rows are read (query tables hold one block of rows per training group).
  Tensor read(const std::string& name, const Shape& expected) const;
  /// Tells the file from others, also from later ones of its name, without reading all of it;
  /// empty: nothing does.
  virtual std::string fingerprint() const { return {}; }
  /// The file's name, for messages.
  virtual const std::string& origin() const = 0;
};

}  // namespace rfseg
