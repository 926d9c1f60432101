// The vertical pass of Pillow's 8-bit resize alone, with AVX2; arithmetic as in pil_avx2.cpp.

#include <algorithm>
#include <cstring>

#include "core/tensor.h"
#include "preprocess/resize_kernels.h"
#include "preprocess/x86_target.h"

#if RFSEG_X86_DISPATCH
#include <immintrin.h>
#endif

namespace rfseg {

#if RFSEG_X86_DISPATCH

namespace {

constexpr int kLowBits = 11;

RFSEG_AVX2 inline __m256i finish(__m256i low, __m256i high) {
  const __m256i half = _mm256_set1_epi32(1 << (kPilBits - 1));
  const __m256i sum = _mm256_add_epi32(low, _mm256_slli_epi32(high, kLowBits));
  return _mm256_srli_epi32(_mm256_add_epi32(sum, half), kPilBits);
}

/// 16 columns of `count` rows summed with their packed weights, as bytes.
RFSEG_AVX2 inline __m128i sum_columns(const uint8_t* const* rows, int count, const int32_t* packed,
                                      int at) {
  __m256i low0 = _mm256_setzero_si256(), high0 = low0, low1 = low0, high1 = low0;
  for (int k = 0; k < count; k += 2) {
    // An odd count ends with a pair whose second weight is 0.
    const uint8_t* second = rows[std::min(k + 1, count - 1)];
    const __m256i a =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[k] + at)));
    const __m256i b =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(second + at)));
    const __m256i ab0 = _mm256_unpacklo_epi16(a, b), ab1 = _mm256_unpackhi_epi16(a, b);
    const __m256i wl = _mm256_set1_epi32(packed[k]), wh = _mm256_set1_epi32(packed[k + 1]);
    low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(ab0, wl));
    high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(ab0, wh));
    low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(ab1, wl));
    high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(ab1, wh));
  }
  const __m256i words = _mm256_packs_epi32(finish(low0, high0), finish(low1, high1));
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

}  // namespace

RFSEG_AVX2 void pil_vertical_avx2(RgbRows& rows, const PilAxis& vertical, uint8_t* out) {
  const int length = rows.width() * rows.bytes_per_pixel();
  // Source rows are copied once, so that they stay valid and can be read in whole vectors.
  const std::size_t padded = (static_cast<std::size_t>(length) + 15) & ~std::size_t{15};
  const std::size_t slots =
      static_cast<std::size_t>(*std::max_element(vertical.count.begin(), vertical.count.end()));
  AlignedVector<uint8_t> ring(padded * slots, 0);
  std::vector<const uint8_t*> source(slots);
  std::vector<int32_t> packed(slots + 1);  // [pair][low, high], each two int16
  int ready = 0;
  for (int y = 0; y < vertical.out; ++y, out += length) {
    const int first = vertical.first[y], count = vertical.count[y];
    for (ready = std::max(ready, first); ready < first + count; ++ready) {
      std::memcpy(ring.data() + padded * (static_cast<std::size_t>(ready) % slots), rows.row(ready),
                  static_cast<std::size_t>(length));
    }
    const int32_t* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
    for (int k = 0; k < count; ++k) {
      source[k] = ring.data() + padded * (static_cast<std::size_t>(first + k) % slots);
    }
    for (int k = 0; k < count; k += 2) {
      const int32_t even = weights[k], odd = k + 1 < count ? weights[k + 1] : 0;
      const int32_t mask = (1 << kLowBits) - 1;
      packed[k] = (even & mask) | (odd & mask) << 16;
      packed[k + 1] = (even >> kLowBits) | (odd >> kLowBits) << 16;
    }
    for (int at = 0; at < length; at += 16) {
      const __m128i bytes = sum_columns(source.data(), count, packed.data(), at);
      if (at + 16 <= length) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), bytes);
      } else {
        alignas(16) uint8_t tail[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(tail), bytes);
        std::memcpy(out + at, tail, static_cast<std::size_t>(length - at));
      }
    }
  }
}

#else

void pil_vertical_avx2(RgbRows& rows, const PilAxis& vertical, uint8_t* out) {
  pil_vertical_reference(rows, vertical, out);
}

#endif

}  // namespace rfseg
