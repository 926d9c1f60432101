#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rfseg {

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace rfseg
