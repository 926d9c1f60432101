// The two float resizes with AVX2 and FMA, operation for operation as float_reference.cpp.

#include <algorithm>
#include <cstring>

#include "core/tensor.h"
#include "preprocess/resize_kernels.h"
#include "preprocess/simd_normalize.h"
#include "preprocess/x86_target.h"

namespace rfseg {

#if RFSEG_X86_DISPATCH

namespace {

/// Shuffle that turns four pixels of a 16-byte load into R,G,B,0 quadruples.
struct PackMask {
  alignas(16) uint8_t order[16];
};

PackMask make_pack_mask(const ChannelOffsets& offset, int step) {
  PackMask mask;
  std::fill_n(mask.order, 16, uint8_t{0x80});
  const int offsets[3] = {offset.r, offset.g, offset.b};
  for (int k = 0; k < 4; ++k) {
    for (int c = 0; c < 3; ++c) {
      mask.order[4 * k + c] = static_cast<uint8_t>(offsets[c] + k * step);
    }
  }
  return mask;
}

/// A row as packed R,G,B,0 bytes, one uint32 a pixel; `out` has room for a multiple of 4 pixels.
RFSEG_AVX2 void pack_row(const uint8_t* row, int width, int step, const PackMask& mask,
                         uint32_t* out) {
  const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(mask.order));
  const int bytes = width * step;
  int at = 0;
  for (; at + 16 <= bytes; at += 4 * step, out += 4) {
    const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + at));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(pixels, order));
  }
  for (; at < bytes; at += 4 * step, out += 4) {
    alignas(16) uint8_t tail[16] = {};
    std::memcpy(tail, row + at, static_cast<std::size_t>(std::min(bytes - at, 4 * step)));
    const __m128i pixels = _mm_load_si128(reinterpret_cast<const __m128i*>(tail));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(pixels, order));
  }
}

RFSEG_AVX2 inline __m256i gather(const uint32_t* row, __m256i index) {
  return _mm256_i32gather_epi32(reinterpret_cast<const int*>(row), index, 4);
}

/// w0 * a + w1 * b with the first product fused.
RFSEG_AVX2 inline __m256 blend(__m256 w0, __m256 a, __m256 w1, __m256 b) {
  return _mm256_fmadd_ps(w0, a, _mm256_mul_ps(w1, b));
}

/// One pixel, R,G,B,x, as x/255; see simd::unit_channel.
RFSEG_AVX2 inline __m256 unit_pixels(__m256i bytes32) {
  const __m256 x = _mm256_cvtepi32_ps(bytes32);
  const __m256 reciprocal = _mm256_set1_ps(1.0f / 255.0f);
  const __m256 quotient = _mm256_mul_ps(x, reciprocal);
  const __m256 rest = _mm256_fnmadd_ps(quotient, _mm256_set1_ps(255.0f), x);
  return _mm256_fmadd_ps(rest, reciprocal, quotient);
}

}  // namespace

RFSEG_AVX2 void bilinear_resize_avx2(RgbRows& rows, const BilinearAxis& horizontal,
                                     const BilinearAxis& vertical, const Normalization& norm,
                                     float* out) {
  const int step = rows.bytes_per_pixel(), width = rows.width();
  const PackMask mask = make_pack_mask(channel_offsets(rows.format()), step);
  const std::size_t padded = static_cast<std::size_t>((width + 3) & ~3);
  AlignedVector<uint32_t> packed[2] = {AlignedVector<uint32_t>(padded),
                                       AlignedVector<uint32_t>(padded)};
  int held[2] = {-1, -1};  // source rows in `packed`; row y is kept in packed[y % 2]

  const std::size_t plane = static_cast<std::size_t>(horizontal.out) * vertical.out;
  for (int y = 0; y < vertical.out; ++y) {
    const int wanted[2] = {vertical.low[y], vertical.high[y]};
    for (const int source : wanted) {
      if (held[source % 2] == source) continue;
      pack_row(rows.row(source), width, step, mask, packed[source % 2].data());
      held[source % 2] = source;
    }
    const uint32_t* upper = packed[wanted[0] % 2].data();
    const uint32_t* lower = packed[wanted[1] % 2].data();
    const __m256 y0 = _mm256_set1_ps(vertical.weight0[y]), y1 = _mm256_set1_ps(vertical.weight1[y]);
    float* row = out + static_cast<std::size_t>(y) * horizontal.out;
    for (int x = 0; x < horizontal.out; x += 8) {
      const int count = horizontal.out - x;
      const bool whole = count >= 8;
      const __m256i lanes = simd::lane_mask(count);
      const __m256i low = _mm256_maskload_epi32(horizontal.low.data() + x, lanes);
      const __m256i high = _mm256_maskload_epi32(horizontal.high.data() + x, lanes);
      const __m256 x0 = _mm256_maskload_ps(horizontal.weight0.data() + x, lanes);
      const __m256 x1 = _mm256_maskload_ps(horizontal.weight1.data() + x, lanes);
      const __m256i p00 = gather(upper, low), p01 = gather(upper, high);
      const __m256i p10 = gather(lower, low), p11 = gather(lower, high);
      for (int c = 0; c < 3; ++c) {
        const __m256 a =
            blend(x0, simd::unit_channel(p00, 8 * c), x1, simd::unit_channel(p01, 8 * c));
        const __m256 b =
            blend(x0, simd::unit_channel(p10, 8 * c), x1, simd::unit_channel(p11, 8 * c));
        simd::store_normalized(row + c * plane + x, blend(y0, a, y1, b), norm.mean[c], norm.std[c],
                               lanes, whole);
      }
    }
  }
}

namespace {

/// Two packed rows as floats x/255: per pixel R,G,B,0 of row `a`, then of row `b`.
RFSEG_AVX2 void unit_rows(const uint32_t* a, const uint32_t* b, int width, float* out) {
  for (int x = 0; x < width; ++x, out += 8) {
    const __m128i pair =
        _mm_insert_epi32(_mm_cvtsi32_si128(static_cast<int>(a[x])), static_cast<int>(b[x]), 1);
    _mm256_store_ps(out, unit_pixels(_mm256_cvtepu8_epi32(pair)));
  }
}

/// Horizontal pass over two rows to two rows of `mid`, 4 floats a pixel.
RFSEG_AVX2 void narrow_rows(const float* wide, const AntialiasAxis& axis, float* mid0,
                            float* mid1) {
  for (int x = 0; x < axis.out; ++x) {
    const float* weights = axis.weights.data() + static_cast<std::size_t>(x) * axis.taps;
    const float* source = wide + static_cast<std::ptrdiff_t>(axis.first[x]) * 8;
    __m256 sum = _mm256_mul_ps(_mm256_load_ps(source), _mm256_set1_ps(weights[0]));
    for (int j = 1; j < axis.count[x]; ++j) {
      sum = _mm256_fmadd_ps(_mm256_load_ps(source + j * 8), _mm256_set1_ps(weights[j]), sum);
    }
    _mm_store_ps(mid0 + 4 * x, _mm256_castps256_ps128(sum));
    _mm_store_ps(mid1 + 4 * x, _mm256_extractf128_ps(sum, 1));
  }
}

}  // namespace

RFSEG_AVX2 void antialias_resize_avx2(RgbRows& rows, const AntialiasAxis& horizontal,
                                      const AntialiasAxis& vertical, const Normalization& norm,
                                      float* out) {
  const int step = rows.bytes_per_pixel(), width = rows.width(), height = rows.height();
  const PackMask mask = make_pack_mask(channel_offsets(rows.format()), step);
  const std::size_t padded = static_cast<std::size_t>((width + 3) & ~3);
  AlignedVector<uint32_t> packed0(padded), packed1(padded);
  AlignedVector<float> wide(padded * 8);

  const std::size_t mid_row = static_cast<std::size_t>((horizontal.out + 3) & ~3) * 4;
  const int longest = *std::max_element(vertical.count.begin(), vertical.count.end());
  const int slots = (longest + 2) & ~1;  // rows; an even and the next odd row are never split
  AlignedVector<float> mid(mid_row * slots, 0.0f);

  const std::size_t plane = static_cast<std::size_t>(horizontal.out) * vertical.out;
  int ready = 0;  // rows that have been narrowed
  for (int y = 0; y < vertical.out; ++y) {
    const int first = vertical.first[y], count = vertical.count[y];
    if (ready < first) ready = first & ~1;
    for (; ready < first + count; ready += 2) {
      pack_row(rows.row(ready), width, step, mask, packed0.data());
      const int second = std::min(ready + 1, height - 1);
      pack_row(rows.row(second), width, step, mask, packed1.data());
      unit_rows(packed0.data(), packed1.data(), width, wide.data());
      float* target = mid.data() + static_cast<std::size_t>(ready % slots) * mid_row;
      narrow_rows(wide.data(), horizontal, target, target + mid_row);
    }

    const float* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
    float* row = out + static_cast<std::size_t>(y) * horizontal.out;
    for (int x = 0; x < horizontal.out; x += 4) {
      __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
      for (int j = 0; j < count; ++j) {
        const float* source =
            mid.data() + static_cast<std::size_t>((first + j) % slots) * mid_row + 4 * x;
        const __m256 weight = _mm256_set1_ps(weights[j]);
        for (int i = 0; i < 2; ++i) {
          const __m256 value = _mm256_load_ps(source + 8 * i);
          sum[i] = j == 0 ? _mm256_mul_ps(value, weight) : _mm256_fmadd_ps(value, weight, sum[i]);
        }
      }
      __m128 p0 = _mm256_castps256_ps128(sum[0]), p1 = _mm256_extractf128_ps(sum[0], 1);
      __m128 p2 = _mm256_castps256_ps128(sum[1]), p3 = _mm256_extractf128_ps(sum[1], 1);
      _MM_TRANSPOSE4_PS(p0, p1, p2, p3);  // now planes R, G, B
      const __m128 channels[3] = {p0, p1, p2};
      const int pixels = std::min(4, horizontal.out - x);
      for (int c = 0; c < 3; ++c) {
        const __m128 value = _mm_div_ps(_mm_sub_ps(channels[c], _mm_set1_ps(norm.mean[c])),
                                        _mm_set1_ps(norm.std[c]));
        alignas(16) float values[4];
        _mm_store_ps(values, value);
        std::memcpy(row + c * plane + x, values, pixels * sizeof(float));
      }
    }
  }
}

#else

void bilinear_resize_avx2(RgbRows& rows, const BilinearAxis& horizontal,
                          const BilinearAxis& vertical, const Normalization& norm, float* out) {
  bilinear_resize_reference(rows, horizontal, vertical, norm, out);
}

void antialias_resize_avx2(RgbRows& rows, const AntialiasAxis& horizontal,
                           const AntialiasAxis& vertical, const Normalization& norm, float* out) {
  antialias_resize_reference(rows, horizontal, vertical, norm, out);
}

#endif

}  // namespace rfseg
