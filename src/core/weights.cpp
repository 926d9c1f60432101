#include "core/weights.h"

#include <fmt/format.h>

#include "rfseg/error.h"

namespace rfseg {

Tensor WeightSource::read(const std::string& name, const Shape& expected) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    throw Error(ErrorCode::kModel, fmt::format("{}: tensor '{}' is missing (expected shape {})",
                                               origin(), name, to_string(expected)));
  }
  bool fits = info->shape.size() == expected.size();
  for (std::size_t i = 0; fits && i < expected.size(); ++i) {
    fits = i == 0 ? info->shape[i] >= expected[i] : info->shape[i] == expected[i];
  }
  if (!fits) {
    throw Error(ErrorCode::kModel,
                fmt::format("{}: tensor '{}' has shape {}, expected {}", origin(), name,
                            to_string(info->shape), to_string(expected)));
  }
  Tensor tensor = read(name);
  if (tensor.shape != expected) {
    tensor.shape = expected;
    tensor.data.resize(static_cast<std::size_t>(element_count(expected)));
  }
  return tensor;
}

}  // namespace rfseg
