// Pillow's 8-bit resize with AVX2. Sums are exact integers, so any order gives the reference's
// bits. A weight of 22 bits is split into two numbers of 11 and 12 bits, which _mm256_madd_epi16
// multiplies with two pixels at a time. Four source rows go through the horizontal pass together
// and stay in a small ring until the vertical pass has used them.

#include <algorithm>
#include <cstring>

#include "core/tensor.h"
#include "preprocess/resize_kernels.h"
#include "preprocess/simd_normalize.h"
#include "preprocess/x86_target.h"

namespace rfseg {

#if RFSEG_X86_DISPATCH

namespace {

constexpr int kLowBits = 11;
constexpr int kRowsAtOnce = 4;

/// Weights of one axis for pairs of inputs (2p, 2p+1).
struct PairWeights {
  struct Span {
    int first_pair, pairs, offset;  ///< offset into `packed`, in pairs
  };
  std::vector<Span> spans;
  std::vector<int32_t> packed;  ///< [pair][low, high], each two int16: the even input's below
};

PairWeights make_pair_weights(const PilAxis& axis) {
  PairWeights result;
  result.spans.resize(axis.out);
  for (int i = 0; i < axis.out; ++i) {
    const int first = axis.first[i], end = first + axis.count[i];
    const int32_t* weights = axis.weights.data() + static_cast<std::size_t>(i) * axis.taps;
    auto& span = result.spans[i];
    span.first_pair = first / 2;
    span.pairs = (end + 1) / 2 - span.first_pair;
    span.offset = static_cast<int>(result.packed.size() / 2);
    for (int p = span.first_pair; p < span.first_pair + span.pairs; ++p) {
      const int32_t even = 2 * p >= first ? weights[2 * p - first] : 0;
      const int32_t odd = 2 * p + 1 < end ? weights[2 * p + 1 - first] : 0;
      const int32_t mask = (1 << kLowBits) - 1;
      result.packed.push_back((even & mask) | (odd & mask) << 16);
      result.packed.push_back((even >> kLowBits) | (odd >> kLowBits) << 16);
    }
  }
  return result;
}

/// Shuffles that widen pixels 0,1 and 2,3 of a 16-byte load to int16 pairs R0 R1 G0 G1 B0 B1 0 0.
struct WidenMasks {
  alignas(16) uint8_t low[16], high[16];
};

WidenMasks make_widen_masks(const ChannelOffsets& offset, int step) {
  WidenMasks masks;
  std::fill_n(masks.low, 16, uint8_t{0x80});
  std::fill_n(masks.high, 16, uint8_t{0x80});
  const int offsets[3] = {offset.r, offset.g, offset.b};
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 2; ++k) {
      masks.low[4 * c + 2 * k] = static_cast<uint8_t>(offsets[c] + k * step);
      masks.high[4 * c + 2 * k] = static_cast<uint8_t>(offsets[c] + (k + 2) * step);
    }
  }
  return masks;
}

/// Widens two rows: per pair of pixels 8 int16 of row `a`, then 8 of row `b`.
RFSEG_AVX2 void widen_rows(const uint8_t* a, const uint8_t* b, int width, int step,
                           const WidenMasks& masks, int16_t* out) {
  const __m256i low =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(masks.low)));
  const __m256i high =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(masks.high)));
  const int bytes = width * step;
  int at = 0;
  for (; at + 16 <= bytes; at += 4 * step, out += 32) {
    const __m256i pixels = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + at))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + at)), 1);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(pixels, low));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_shuffle_epi8(pixels, high));
  }
  for (; at < bytes; at += 4 * step, out += 32) {
    alignas(32) uint8_t tail[32] = {};
    const std::size_t rest = static_cast<std::size_t>(std::min(bytes - at, 4 * step));
    std::memcpy(tail, a + at, rest);
    std::memcpy(tail + 16, b + at, rest);
    const __m256i pixels = _mm256_load_si256(reinterpret_cast<const __m256i*>(tail));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(pixels, low));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_shuffle_epi8(pixels, high));
  }
}

RFSEG_AVX2 inline __m256i load256(const int16_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}

/// (low + (high << 11)) rounded to whole pixels.
RFSEG_AVX2 inline __m256i finish(__m256i low, __m256i high) {
  const __m256i half = _mm256_set1_epi32(1 << (kPilBits - 1));
  const __m256i sum = _mm256_add_epi32(low, _mm256_slli_epi32(high, kLowBits));
  return _mm256_srli_epi32(_mm256_add_epi32(sum, half), kPilBits);
}

/// Two rows of one output pixel, [row a: R G B x][row b: ...], as int16 pairs (a, b) per channel.
RFSEG_AVX2 inline void store_row_pair(int16_t* out, __m256i rows) {
  const __m128i a = _mm256_castsi256_si128(rows), b = _mm256_extracti128_si256(rows, 1);
  _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm_or_si128(a, _mm_slli_epi32(b, 16)));
}

/// Two pairs of widened rows to two rows of `mid`: per output pixel 4 channels x (row a, row b).
RFSEG_AVX2 void narrow_rows(const int16_t* wide0, const int16_t* wide1, const PairWeights& weights,
                            int16_t* mid0, int16_t* mid1) {
  for (const auto& span : weights.spans) {
    const int32_t* w = weights.packed.data() + static_cast<std::ptrdiff_t>(span.offset) * 2;
    const int16_t* p0 = wide0 + static_cast<std::ptrdiff_t>(span.first_pair) * 16;
    const int16_t* p1 = wide1 + static_cast<std::ptrdiff_t>(span.first_pair) * 16;
    __m256i low0 = _mm256_setzero_si256(), high0 = low0, low1 = low0, high1 = low0;
    for (int k = 0; k < span.pairs; ++k, w += 2, p0 += 16, p1 += 16) {
      const __m256i wl = _mm256_set1_epi32(w[0]), wh = _mm256_set1_epi32(w[1]);
      const __m256i x0 = load256(p0), x1 = load256(p1);
      low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(x0, wl));
      high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(x0, wh));
      low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(x1, wl));
      high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(x1, wh));
    }
    store_row_pair(mid0, finish(low0, high0));
    store_row_pair(mid1, finish(low1, high1));
    mid0 += 8;
    mid1 += 8;
  }
}

/// The packed R,G,B,x bytes of 8 pixels held as int32 pairs of pixels.
RFSEG_AVX2 inline __m256i pack_pixels(__m256i p01, __m256i p23, __m256i p45, __m256i p67) {
  const __m256i low = _mm256_packs_epi32(p01, p23);      // 0 2 | 1 3
  const __m256i high = _mm256_packs_epi32(p45, p67);     // 4 6 | 5 7
  const __m256i bytes = _mm256_packus_epi16(low, high);  // 0 2 4 6 | 1 3 5 7
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

RFSEG_AVX2 void pil_resize_avx2(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                                const Normalization& norm, float* out) {
  const PairWeights across = make_pair_weights(horizontal);
  const PairWeights down = make_pair_weights(vertical);
  const int width = rows.width(), height = rows.height(), step = rows.bytes_per_pixel();
  const WidenMasks masks = make_widen_masks(channel_offsets(rows.format()), step);

  // A row of `mid` is padded to whole blocks of 8 pixels, 8 int16 each.
  const int padded = (horizontal.out + 7) & ~7;
  const std::size_t mid_row = static_cast<std::size_t>(padded) * 8;
  int longest = 0;
  for (const auto& span : down.spans) longest = std::max(longest, span.pairs);
  const int slots = (longest + 2 + 1) & ~1;  // of row pairs; groups of two pairs are never split
  AlignedVector<int16_t> mid(mid_row * slots, 0);
  const std::size_t wide_row = static_cast<std::size_t>((width + 3) / 4) * 32;
  AlignedVector<int16_t> wide(wide_row * 2);

  const std::size_t plane = static_cast<std::size_t>(horizontal.out) * vertical.out;
  int ready = 0;  // row pairs that have been narrowed
  for (int y = 0; y < vertical.out; ++y) {
    const auto& span = down.spans[y];
    if (ready < span.first_pair) ready = span.first_pair & ~1;  // rows that nothing needs
    while (ready < span.first_pair + span.pairs) {
      for (int half = 0; half < kRowsAtOnce / 2; ++half) {
        const int first = std::min(2 * (ready + half), height - 1);
        // Rows past the end have weight 0. Both rows of a pair are in one band of `rows`.
        const uint8_t* a = rows.row(first);
        const uint8_t* b = first + 1 < height ? rows.row(first + 1) : a;
        widen_rows(a, b, width, step, masks, wide.data() + half * wide_row);
      }
      int16_t* target = mid.data() + static_cast<std::size_t>(ready % slots) * mid_row;
      narrow_rows(wide.data(), wide.data() + wide_row, across, target, target + mid_row);
      ready += kRowsAtOnce / 2;
    }

    const int32_t* weights = down.packed.data() + static_cast<std::ptrdiff_t>(span.offset) * 2;
    float* row = out + static_cast<std::size_t>(y) * horizontal.out;
    for (int x = 0; x < horizontal.out; x += 8) {
      __m256i low[4], high[4];
      for (int i = 0; i < 4; ++i) low[i] = high[i] = _mm256_setzero_si256();
      for (int k = 0; k < span.pairs; ++k) {
        const int16_t* source =
            mid.data() + static_cast<std::size_t>((span.first_pair + k) % slots) * mid_row + x * 8;
        const __m256i wl = _mm256_set1_epi32(weights[2 * k]);
        const __m256i wh = _mm256_set1_epi32(weights[2 * k + 1]);
        for (int i = 0; i < 4; ++i) {
          const __m256i pixels = load256(source + 16 * i);
          low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pixels, wl));
          high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pixels, wh));
        }
      }
      const __m256i packed = pack_pixels(finish(low[0], high[0]), finish(low[1], high[1]),
                                         finish(low[2], high[2]), finish(low[3], high[3]));
      simd::store_pixels(row + x, plane, packed, horizontal.out - x, norm);
    }
  }
}

bool cpu_has_avx2_fma() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#else

void pil_resize_avx2(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                     const Normalization& norm, float* out) {
  pil_resize_reference(rows, horizontal, vertical, norm, out);
}

bool cpu_has_avx2_fma() { return false; }

#endif

}  // namespace rfseg
