#include "checkpoint/convert.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/half.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RFSEG_X86_DISPATCH 1
#include <immintrin.h>
#endif

namespace rfseg {
namespace {

static_assert(std::endian::native == std::endian::little,
              "checkpoint data is little-endian and copied as it is");

template <class T>
void convert_as(const void* bytes, std::size_t count, float* out) {
  const auto* p = static_cast<const unsigned char*>(bytes);
  for (std::size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, p + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

uint16_t load_u16(const unsigned char* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

void convert_bfloat16(const unsigned char* p, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(load_u16(p + 2 * i)) << 16;
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

void convert_half_plain(const unsigned char* p, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = half_to_float(load_u16(p + 2 * i));
}

#ifdef RFSEG_X86_DISPATCH
__attribute__((target("avx,f16c"))) void convert_half_f16c(const unsigned char* p,
                                                           std::size_t count, float* out) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half));
  }
  convert_half_plain(p + 2 * i, count - i, out + i);
}
#endif

void convert_half(const unsigned char* p, std::size_t count, float* out) {
#ifdef RFSEG_X86_DISPATCH
  // Every processor with AVX2 has F16C, which not all compilers can ask for.
  static const bool has_f16c = __builtin_cpu_supports("avx2");
  if (has_f16c) return convert_half_f16c(p, count, out);
#endif
  convert_half_plain(p, count, out);
}

float round_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return std::isfinite(value) ? std::bit_cast<float>(rounded & 0xffff0000u) : value;
}

}  // namespace

std::size_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
    case DType::kI16:
      return 2;
    case DType::kBool:
    case DType::kU8:
    case DType::kI8:
      break;
  }
  return 1;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBf16:
      return "bfloat16";
    case DType::kF64:
      return "float64";
    case DType::kBool:
      return "bool";
    case DType::kU8:
      return "uint8";
    case DType::kI8:
      return "int8";
    case DType::kI16:
      return "int16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
  }
  return "unknown";
}

bool all_finite(const float* values, std::size_t count) {
  // Adding one exponent step to an all-ones exponent carries into the sign bit: no branches, so
  // that the compiler can use vectors.
  uint32_t carry = 0;
  for (std::size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    carry |= (bits & 0x7f800000u) + 0x00800000u;
  }
  return (carry & 0x80000000u) == 0;
}

bool convert_to_float(DType dtype, const void* bytes, std::size_t count, float* out) {
  const auto* p = static_cast<const unsigned char*>(bytes);
  switch (dtype) {
    case DType::kF32:
      if (bytes != out) std::memcpy(out, bytes, count * sizeof(float));
      break;
    case DType::kF16:
      convert_half(p, count, out);
      break;
    case DType::kBf16:
      convert_bfloat16(p, count, out);
      break;
    case DType::kF64:
      convert_as<double>(bytes, count, out);
      break;
    case DType::kBool:
      for (std::size_t i = 0; i < count; ++i) out[i] = p[i] != 0 ? 1.0f : 0.0f;
      return true;
    case DType::kU8:
      convert_as<uint8_t>(bytes, count, out);
      return true;
    case DType::kI8:
      convert_as<int8_t>(bytes, count, out);
      return true;
    case DType::kI16:
      convert_as<int16_t>(bytes, count, out);
      return true;
    case DType::kI32:
      convert_as<int32_t>(bytes, count, out);
      return true;
    case DType::kI64:
      convert_as<int64_t>(bytes, count, out);
      return true;
  }
  return all_finite(out, count);
}

float round_to(DType dtype, float value) {
  if (dtype == DType::kF16) return half_to_float(float_to_half(value));
  if (dtype == DType::kBf16) return round_to_bfloat16(value);
  return value;
}

}  // namespace rfseg
