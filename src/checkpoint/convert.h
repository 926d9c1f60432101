#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weights.h"

namespace rfseg {

/// Bytes of one element.
std::size_t element_size(DType dtype);
/// "float32", "bfloat16", ...
const char* dtype_name(DType dtype);

/// `count` little-endian elements of `dtype` at `bytes` (any alignment) as float32. Exact for the
/// 16-bit and 32-bit floats; float64 and wide integers are rounded to nearest. Returns false if a
/// result is a NaN or infinity. Uses F16C where the processor has it.
bool convert_to_float(DType dtype, const void* bytes, std::size_t count, float* out);

/// Whether none of `values` is a NaN or infinity.
bool all_finite(const float* values, std::size_t count);

/// `value` rounded to what `dtype` (a float type) can hold.
float round_to(DType dtype, float value);

}  // namespace rfseg
