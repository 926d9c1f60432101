#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace rfseg {

/// Reads a NumPy .npy file (format 1 to 3) of float32, float16 or float64, little-endian, C or
/// Fortran order, as float32 in C order. Throws Error(kInput) naming the file and what is accepted.
Tensor read_npy(const std::string& path);
/// The same from bytes; `name` is for messages.
Tensor parse_npy(const uint8_t* data, std::size_t size, const std::string& name);

/// Reads int32 or int64 as int32 (out-of-range values throw).
struct IntArray {
  Shape shape;
  std::vector<int32_t> data;
};
IntArray read_npy_int(const std::string& path);

/// Reads uint8.
struct ByteArray {
  Shape shape;
  std::vector<uint8_t> data;
};
ByteArray read_npy_bytes(const std::string& path);

/// Writes float32, int32 or uint8, format 1.0, C order; complete or absent (core/files.h).
void write_npy(const std::string& path, const float* data, const Shape& shape);
void write_npy(const std::string& path, const int32_t* data, const Shape& shape);
void write_npy(const std::string& path, const uint8_t* data, const Shape& shape);
/// Writes float16, rounded to nearest even.
void write_npy_half(const std::string& path, const float* data, const Shape& shape);

}  // namespace rfseg
