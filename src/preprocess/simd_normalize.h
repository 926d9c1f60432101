#pragma once

#include "preprocess/resize_kernels.h"
#include "preprocess/x86_target.h"

#if RFSEG_X86_DISPATCH
#include <immintrin.h>

namespace rfseg::simd {

/// Normalises up to 8 pixels of one plane; `unit` is x/255. Writes the first `count`.
RFSEG_AVX2 inline void store_normalized(float* out, __m256 unit, float mean, float std,
                                        __m256i mask, bool whole) {
  const __m256 value =
      _mm256_div_ps(_mm256_sub_ps(unit, _mm256_set1_ps(mean)), _mm256_set1_ps(std));
  if (whole) {
    _mm256_storeu_ps(out, value);
  } else {
    _mm256_maskstore_ps(out, mask, value);
  }
}

/// Lanes 0 .. count-1 set.
RFSEG_AVX2 inline __m256i lane_mask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/// Channel `shift`/8 of 8 packed pixels as x/255. The quotient of a byte and 255 is reached with
/// one correction step, which gives the correctly rounded value for all 256 bytes (tested).
RFSEG_AVX2 inline __m256 unit_channel(__m256i pixels, int shift) {
  const __m256i value = _mm256_and_si256(_mm256_srli_epi32(pixels, shift), _mm256_set1_epi32(255));
  const __m256 x = _mm256_cvtepi32_ps(value);
  const __m256 reciprocal = _mm256_set1_ps(1.0f / 255.0f);
  const __m256 quotient = _mm256_mul_ps(x, reciprocal);
  const __m256 rest = _mm256_fnmadd_ps(quotient, _mm256_set1_ps(255.0f), x);
  return _mm256_fmadd_ps(rest, reciprocal, quotient);
}

/// Normalises `count` (1 to 8) packed R,G,B,x pixels into the three planes.
RFSEG_AVX2 inline void store_pixels(float* out, std::size_t plane, __m256i pixels, int count,
                                    const Normalization& norm) {
  const bool whole = count >= 8;
  const __m256i mask = lane_mask(count);
  for (int c = 0; c < 3; ++c) {
    store_normalized(out + c * plane, unit_channel(pixels, 8 * c), norm.mean[c], norm.std[c], mask,
                     whole);
  }
}

}  // namespace rfseg::simd
#endif
