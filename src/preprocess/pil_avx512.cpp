// Pillow's 8-bit resize with AVX-512 VNNI, which multiplies and sums four unsigned pixels by four
// signed bytes. A weight of 22 bits is written as three signed base-256 digits; the three sums are
// exact, so the result has the reference's bits. The scheme is that of pil_avx2.cpp, with groups of
// four where that has pairs.

#include <algorithm>
#include <cstring>

#include "core/tensor.h"
#include "preprocess/resize_kernels.h"
#include "preprocess/simd_normalize.h"
#include "preprocess/x86_target.h"

namespace rfseg {

#if RFSEG_X86_DISPATCH

namespace {

/// Weights of one axis for groups of inputs 4q .. 4q+3.
struct QuadWeights {
  struct Span {
    int first_quad, quads, offset;  ///< offset into `packed`, in quads
  };
  std::vector<Span> spans;
  std::vector<int32_t> packed;  ///< [quad][digit 0, 1, 2], each four int8
};

QuadWeights make_quad_weights(const PilAxis& axis) {
  QuadWeights result;
  result.spans.resize(axis.out);
  for (int i = 0; i < axis.out; ++i) {
    const int first = axis.first[i], end = first + axis.count[i];
    const int32_t* weights = axis.weights.data() + static_cast<std::size_t>(i) * axis.taps;
    auto& span = result.spans[i];
    span.first_quad = first / 4;
    span.quads = (end + 3) / 4 - span.first_quad;
    span.offset = static_cast<int>(result.packed.size() / 3);
    for (int q = span.first_quad; q < span.first_quad + span.quads; ++q) {
      uint32_t digits[3] = {};
      for (int k = 0; k < 4; ++k) {
        const int tap = 4 * q + k;
        int32_t rest = tap >= first && tap < end ? weights[tap - first] : 0;
        for (int d = 0; d < 3; ++d) {
          const int32_t digit = ((rest + 128) & 255) - 128;
          rest = (rest - digit) >> 8;
          digits[d] |= static_cast<uint32_t>(digit & 255) << (8 * k);
        }
      }
      for (const uint32_t digit : digits) result.packed.push_back(static_cast<int32_t>(digit));
    }
  }
  return result;
}

RFSEG_AVX512 inline __m128i load128(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

/// Gathers four rows: per group of four pixels, per row, the bytes R0-R3 G0-G3 B0-B3 0-0.
RFSEG_AVX512 void group_rows(const uint8_t* const rows[4], int width, int step,
                             const ChannelOffsets& offset, uint8_t* out) {
  alignas(16) uint8_t order[16];
  std::fill_n(order, 16, uint8_t{0x80});
  const int offsets[3] = {offset.r, offset.g, offset.b};
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 4; ++k) order[4 * c + k] = static_cast<uint8_t>(offsets[c] + k * step);
  }
  const __m512i shuffle =
      _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(order)));
  const int bytes = width * step;
  int at = 0;
  for (; at + 16 <= bytes; at += 4 * step, out += 64) {
    __m512i pixels = _mm512_castsi128_si512(load128(rows[0] + at));
    pixels = _mm512_inserti32x4(pixels, load128(rows[1] + at), 1);
    pixels = _mm512_inserti32x4(pixels, load128(rows[2] + at), 2);
    pixels = _mm512_inserti32x4(pixels, load128(rows[3] + at), 3);
    _mm512_store_si512(out, _mm512_shuffle_epi8(pixels, shuffle));
  }
  for (; at < bytes; at += 4 * step, out += 64) {
    alignas(64) uint8_t tail[64] = {};
    const std::size_t rest = static_cast<std::size_t>(std::min(bytes - at, 4 * step));
    for (int r = 0; r < 4; ++r) std::memcpy(tail + 16 * r, rows[r] + at, rest);
    _mm512_store_si512(out, _mm512_shuffle_epi8(_mm512_load_si512(tail), shuffle));
  }
}

/// Digit sums to rounded bytes in int32 lanes, narrowed to 16 bytes.
RFSEG_AVX512 inline __m128i finish(__m512i sum0, __m512i sum1, __m512i sum2) {
  const __m512i half = _mm512_set1_epi32(1 << (kPilBits - 1));
  __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sum2, 8), sum1);
  sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), sum0);
  return _mm512_cvtepi32_epi8(_mm512_srli_epi32(_mm512_add_epi32(sum, half), kPilBits));
}

/// Four grouped rows to one row of `mid`: per output pixel 4 channels x 4 rows of bytes.
RFSEG_AVX512 void narrow_rows(const uint8_t* grouped, const QuadWeights& weights, uint8_t* mid) {
  const __m128i transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (const auto& span : weights.spans) {
    const int32_t* w = weights.packed.data() + static_cast<std::ptrdiff_t>(span.offset) * 3;
    const uint8_t* source = grouped + static_cast<std::ptrdiff_t>(span.first_quad) * 64;
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0;
    for (int k = 0; k < span.quads; ++k, w += 3, source += 64) {
      const __m512i pixels = _mm512_load_si512(source);
      sum0 = _mm512_dpbusd_epi32(sum0, pixels, _mm512_set1_epi32(w[0]));
      sum1 = _mm512_dpbusd_epi32(sum1, pixels, _mm512_set1_epi32(w[1]));
      sum2 = _mm512_dpbusd_epi32(sum2, pixels, _mm512_set1_epi32(w[2]));
    }
    const __m128i bytes = _mm_shuffle_epi8(finish(sum0, sum1, sum2), transpose);
    _mm_store_si128(reinterpret_cast<__m128i*>(mid), bytes);
    mid += 16;
  }
}

}  // namespace

RFSEG_AVX512 void pil_resize_avx512(RgbRows& rows, const PilAxis& horizontal,
                                    const PilAxis& vertical, const Normalization& norm,
                                    float* out) {
  const QuadWeights across = make_quad_weights(horizontal);
  const QuadWeights down = make_quad_weights(vertical);
  const int width = rows.width(), height = rows.height(), step = rows.bytes_per_pixel();
  const ChannelOffsets offset = channel_offsets(rows.format());

  // A row of `mid` is padded to whole blocks of 8 pixels, 16 bytes each.
  const std::size_t mid_row = static_cast<std::size_t>((horizontal.out + 7) & ~7) * 16;
  int slots = 1;  // of four rows
  for (const auto& span : down.spans) slots = std::max(slots, span.quads);
  AlignedVector<uint8_t> mid(mid_row * slots, 0);
  AlignedVector<uint8_t> grouped(static_cast<std::size_t>((width + 3) / 4) * 64);

  const std::size_t plane = static_cast<std::size_t>(horizontal.out) * vertical.out;
  int ready = 0;  // groups of rows that have been narrowed
  for (int y = 0; y < vertical.out; ++y) {
    const auto& span = down.spans[y];
    ready = std::max(ready, span.first_quad);
    for (; ready < span.first_quad + span.quads; ++ready) {
      const uint8_t* source[4];
      for (int r = 0; r < 4; ++r) {
        const int row = 4 * ready + r;  // rows past the end have weight 0
        source[r] = row < height ? rows.row(row) : source[0];
      }
      group_rows(source, width, step, offset, grouped.data());
      narrow_rows(grouped.data(), across,
                  mid.data() + static_cast<std::size_t>(ready % slots) * mid_row);
    }

    const int32_t* weights = down.packed.data() + static_cast<std::ptrdiff_t>(span.offset) * 3;
    float* row = out + static_cast<std::size_t>(y) * horizontal.out;
    for (int x = 0; x < horizontal.out; x += 8) {
      __m512i sum[2][3];
      for (auto& block : sum) block[0] = block[1] = block[2] = _mm512_setzero_si512();
      for (int k = 0; k < span.quads; ++k) {
        const uint8_t* source =
            mid.data() + static_cast<std::size_t>((span.first_quad + k) % slots) * mid_row + x * 16;
        const __m512i w0 = _mm512_set1_epi32(weights[3 * k]);
        const __m512i w1 = _mm512_set1_epi32(weights[3 * k + 1]);
        const __m512i w2 = _mm512_set1_epi32(weights[3 * k + 2]);
        for (int i = 0; i < 2; ++i) {
          const __m512i pixels = _mm512_load_si512(source + 64 * i);
          sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], pixels, w0);
          sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], pixels, w1);
          sum[i][2] = _mm512_dpbusd_epi32(sum[i][2], pixels, w2);
        }
      }
      const __m256i packed =
          _mm256_inserti128_si256(_mm256_castsi128_si256(finish(sum[0][0], sum[0][1], sum[0][2])),
                                  finish(sum[1][0], sum[1][1], sum[1][2]), 1);
      simd::store_pixels(row + x, plane, packed, horizontal.out - x, norm);
    }
  }
}

bool cpu_has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

#else

void pil_resize_avx512(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                       const Normalization& norm, float* out) {
  pil_resize_reference(rows, horizontal, vertical, norm, out);
}

bool cpu_has_avx512_vnni() { return false; }

#endif

}  // namespace rfseg
