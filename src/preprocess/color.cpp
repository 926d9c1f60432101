#include "preprocess/color.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "preprocess/color_formula.h"
#include "rfseg/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define RFSEG_COLOR_X86 1
#endif

// The formula is in color_formula.h.

namespace rfseg {
namespace {

using Formula = YuvFormula;

constexpr Formula kCheck709 = make_yuv_formula(YuvMatrix::kBt709, YuvRange::kLimited, false);
static_assert(kCheck709.cy == 9539 && kCheck709.crv == 14686 && kCheck709.cgu == -1747 &&
              kCheck709.cgv == -4366 && kCheck709.cbu == 17305);
constexpr Formula kCheck601 = make_yuv_formula(YuvMatrix::kBt601, YuvRange::kFull, true);
static_assert(kCheck601.cy == 8168 && kCheck601.crv == 11452 && kCheck601.cgu == -2811 &&
              kCheck601.cgv == -5833 && kCheck601.cbu == 14474);

/// One row of a YUV picture: its luma row, and its chroma rows (`v` unused where interleaved).
struct YuvRow {
  const uint8_t* y;
  const uint8_t* u;
  const uint8_t* v;
};

int sample16(const uint8_t* row, int i) {
  return (row[2 * i] | (row[2 * i + 1] << 8)) >> 6;  // P010 keeps its 10 bits at the top
}

template <PixelFormat kFormat>
void yuv_row_plain(const YuvRow& row, int first, int width, const Formula& f, uint8_t* rgb) {
  for (int x = first; x < width; ++x) {
    const int c = x / 2;
    int y, u, v;
    if constexpr (kFormat == PixelFormat::kP010) {
      y = sample16(row.y, x), u = sample16(row.u, 2 * c), v = sample16(row.u, 2 * c + 1);
    } else if constexpr (kFormat == PixelFormat::kNv12) {
      y = row.y[x], u = row.u[2 * c], v = row.u[2 * c + 1];
    } else {
      y = row.y[x], u = row.u[c], v = row.v[c];
    }
    const Rgb pixel = yuv_to_rgb(y, u, v, f);
    rgb[3 * x] = static_cast<uint8_t>(pixel.r);
    rgb[3 * x + 1] = static_cast<uint8_t>(pixel.g);
    rgb[3 * x + 2] = static_cast<uint8_t>(pixel.b);
  }
}

#ifdef RFSEG_COLOR_X86
#define RFSEG_AVX2 __attribute__((target("avx2"), always_inline)) inline

// Two 16-bit numbers, as pmaddwd multiplies them.
RFSEG_AVX2 __m256i pair(int low, int high) {
  return _mm256_set1_epi32(static_cast<int>((static_cast<uint32_t>(low) & 0xffff) |
                                            (static_cast<uint32_t>(high) << 16)));
}

struct Channels16 {
  __m256i r, g, b;  // 16 pixels in 16-bit lanes, not yet clamped
};

// `y`, `u`, `v`: 16 pixels in 16-bit lanes with their zeros taken off. Unpacking and packing both
// work within 128-bit halves, so that the order of the pixels is kept.
RFSEG_AVX2 Channels16 convert16(__m256i y, __m256i u, __m256i v, const Formula& f) {
  const __m256i half = _mm256_set1_epi32(1 << (f.shift - 1));
  const __m128i shift = _mm_cvtsi32_si128(f.shift);
  const __m256i k_r = pair(f.cy, f.crv), k_b = pair(f.cy, f.cbu), k_gu = pair(f.cy, f.cgu);
  const __m256i k_gv = pair(f.cgv, 1 << (f.shift - 1)), one = _mm256_set1_epi16(1);
  const __m256i yv0 = _mm256_unpacklo_epi16(y, v), yv1 = _mm256_unpackhi_epi16(y, v);
  const __m256i yu0 = _mm256_unpacklo_epi16(y, u), yu1 = _mm256_unpackhi_epi16(y, u);
  const __m256i v0 = _mm256_unpacklo_epi16(v, one), v1 = _mm256_unpackhi_epi16(v, one);
  const __m256i r0 = _mm256_add_epi32(_mm256_madd_epi16(yv0, k_r), half);
  const __m256i r1 = _mm256_add_epi32(_mm256_madd_epi16(yv1, k_r), half);
  const __m256i b0 = _mm256_add_epi32(_mm256_madd_epi16(yu0, k_b), half);
  const __m256i b1 = _mm256_add_epi32(_mm256_madd_epi16(yu1, k_b), half);
  const __m256i g0 = _mm256_add_epi32(_mm256_madd_epi16(yu0, k_gu), _mm256_madd_epi16(v0, k_gv));
  const __m256i g1 = _mm256_add_epi32(_mm256_madd_epi16(yu1, k_gu), _mm256_madd_epi16(v1, k_gv));
  return {_mm256_packs_epi32(_mm256_sra_epi32(r0, shift), _mm256_sra_epi32(r1, shift)),
          _mm256_packs_epi32(_mm256_sra_epi32(g0, shift), _mm256_sra_epi32(g1, shift)),
          _mm256_packs_epi32(_mm256_sra_epi32(b0, shift), _mm256_sra_epi32(b1, shift))};
}

// Interleaves 32 pixels into 96 bytes. Within a 128-bit half, byte p of output block k holds
// channel (16k + p) % 3 of pixel (16k + p) / 3. As 3 has the inverse 11 modulo 16, one shuffle per
// channel (pixel i to byte (3i + channel) % 16) puts every byte in place for all three blocks,
// which are then blended from the channels.
RFSEG_AVX2 void store_rgb32(__m256i r, __m256i g, __m256i b, uint8_t* rgb) {
  const __m128i to_r = _mm_setr_epi8(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5);
  const __m128i to_g = _mm_setr_epi8(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10);
  const __m128i to_b = _mm_setr_epi8(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15);
  const __m128i mod_0 = _mm_setr_epi8(-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1);
  const __m128i mod_1 = _mm_setr_epi8(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0);
  const __m256i m0 = _mm256_broadcastsi128_si256(mod_0);
  const __m256i m1 = _mm256_broadcastsi128_si256(mod_1);
  r = _mm256_shuffle_epi8(r, _mm256_broadcastsi128_si256(to_r));
  g = _mm256_shuffle_epi8(g, _mm256_broadcastsi128_si256(to_g));
  b = _mm256_shuffle_epi8(b, _mm256_broadcastsi128_si256(to_b));
  // Block k starts at channel (16k) % 3 = k % 3.
  const __m256i k0 = _mm256_blendv_epi8(_mm256_blendv_epi8(b, g, m1), r, m0);
  const __m256i k1 = _mm256_blendv_epi8(_mm256_blendv_epi8(r, b, m1), g, m0);
  const __m256i k2 = _mm256_blendv_epi8(_mm256_blendv_epi8(g, r, m1), b, m0);
  auto* out = reinterpret_cast<__m256i*>(rgb);
  _mm256_storeu_si256(out, _mm256_permute2x128_si256(k0, k1, 0x20));
  _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(k2, k0, 0x30));
  _mm256_storeu_si256(out + 2, _mm256_permute2x128_si256(k1, k2, 0x31));
}

RFSEG_AVX2 __m256i clamp32(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
}

RFSEG_AVX2 __m128i load16(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
RFSEG_AVX2 __m256i load32(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Loads pixels [x, x + 16), x even, as 16-bit lanes; chroma samples are doubled.
template <PixelFormat kFormat>
RFSEG_AVX2 void load_pixels16(const YuvRow& row, int x, __m256i& y, __m256i& u, __m256i& v) {
  if constexpr (kFormat == PixelFormat::kP010) {
    const __m256i uv = _mm256_srli_epi16(load32(row.u + 2 * x), 6);
    y = _mm256_srli_epi16(load32(row.y + 2 * x), 6);
    u = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(uv, 0xa0), 0xa0);
    v = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(uv, 0xf5), 0xf5);
  } else {
    y = _mm256_cvtepu8_epi16(load16(row.y + x));
    if constexpr (kFormat == PixelFormat::kNv12) {
      const __m128i uv = load16(row.u + x);
      const __m128i even = _mm_setr_epi8(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
      u = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(uv, even));
      v = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(uv, _mm_add_epi8(even, _mm_set1_epi8(1))));
    } else {
      const __m128i u8 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row.u + x / 2));
      const __m128i v8 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row.v + x / 2));
      u = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(u8, u8));
      v = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(v8, v8));
    }
  }
}

template <PixelFormat kFormat>
__attribute__((target("avx2"))) void yuv_row_avx2(const YuvRow& row, int width, const Formula& f,
                                                  uint8_t* rgb) {
  const __m256i y_zero = _mm256_set1_epi16(static_cast<int16_t>(f.y_zero));
  const __m256i c_zero = _mm256_set1_epi16(static_cast<int16_t>(f.c_zero));
  int x = 0;
  for (; x + 32 <= width; x += 32) {
    Channels16 c[2];
    for (int i = 0; i < 2; ++i) {
      __m256i y, u, v;
      load_pixels16<kFormat>(row, x + 16 * i, y, u, v);
      c[i] = convert16(_mm256_sub_epi16(y, y_zero), _mm256_sub_epi16(u, c_zero),
                       _mm256_sub_epi16(v, c_zero), f);
    }
    store_rgb32(clamp32(c[0].r, c[1].r), clamp32(c[0].g, c[1].g), clamp32(c[0].b, c[1].b),
                rgb + 3 * x);
  }
  yuv_row_plain<kFormat>(row, x, width, f, rgb);
}

// Moves `group` pixels of `in_bytes` to 3 bytes each with one shuffle; a 16-byte load and store are
// used while both stay inside the rows.
__attribute__((target("ssse3"))) int shuffle_row(const uint8_t* in, int in_bytes, int group,
                                                 __m128i order, int width, uint8_t* rgb) {
  int x = 0;
  for (; x * in_bytes + 16 <= width * in_bytes && 3 * x + 16 <= 3 * width; x += group) {
    const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + x * in_bytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rgb + 3 * x), _mm_shuffle_epi8(pixels, order));
  }
  return x;
}
#endif

template <PixelFormat kFormat>
void yuv_row(const YuvRow& row, int width, const Formula& f, uint8_t* rgb) {
#ifdef RFSEG_COLOR_X86
  if (__builtin_cpu_supports("avx2")) return yuv_row_avx2<kFormat>(row, width, f, rgb);
#endif
  yuv_row_plain<kFormat>(row, 0, width, f, rgb);
}

template <PixelFormat kFormat>
void convert_yuv(const ImageView& image, uint8_t* rgb) {
  const Formula f = make_yuv_formula(image.matrix, image.range, kFormat == PixelFormat::kP010);
  for (int y = 0; y < image.height; ++y) {
    YuvRow row{};
    row.y = image.planes[0] + y * image.strides[0];
    row.u = image.planes[1] + (y / 2) * image.strides[1];
    if (kFormat == PixelFormat::kI420) row.v = image.planes[2] + (y / 2) * image.strides[2];
    yuv_row<kFormat>(row, image.width, f, rgb + static_cast<std::ptrdiff_t>(y) * image.width * 3);
  }
}

/// Interleaved pixels: `r`, `g`, `b` are the offsets of the channels within a pixel.
void interleaved_row(const uint8_t* in, int in_bytes, int r, int g, int b, int width,
                     uint8_t* rgb) {
  int x = 0;
#ifdef RFSEG_COLOR_X86
  if (__builtin_cpu_supports("ssse3")) {
    // Pixels whose input and output both fit into 16 bytes; the bytes past them are overwritten by
    // the next group.
    const int group = in_bytes == 4 ? 4 : 5;
    alignas(16) int8_t order[16];
    for (int p = 0; p < 16; ++p) {
      const int channel = p % 3 == 0 ? r : p % 3 == 1 ? g : b;
      const int from = p / 3 * in_bytes + channel;
      order[p] = static_cast<int8_t>(p < 3 * group && from < 16 ? from : -1);
    }
    const __m128i shuffle = _mm_load_si128(reinterpret_cast<const __m128i*>(order));
    x = shuffle_row(in, in_bytes, group, shuffle, width, rgb);
  }
#endif
  for (; x < width; ++x) {
    rgb[3 * x] = in[x * in_bytes + r];
    rgb[3 * x + 1] = in[x * in_bytes + g];
    rgb[3 * x + 2] = in[x * in_bytes + b];
  }
}

void convert_interleaved(const ImageView& image, int in_bytes, int r, int g, int b, uint8_t* rgb) {
  for (int y = 0; y < image.height; ++y) {
    interleaved_row(image.planes[0] + y * image.strides[0], in_bytes, r, g, b, image.width,
                    rgb + static_cast<std::ptrdiff_t>(y) * image.width * 3);
  }
}

int plane_count(PixelFormat format) {
  switch (format) {
    case PixelFormat::kI420:
      return 3;
    case PixelFormat::kNv12:
    case PixelFormat::kP010:
      return 2;
    default:
      return 1;
  }
}

}  // namespace

void convert_to_rgb(const ImageView& image, uint8_t* rgb) {
  if (image.width <= 0 || image.height <= 0) {
    throw Error(ErrorCode::kInput, "an image of " + std::to_string(image.width) + "x" +
                                       std::to_string(image.height) +
                                       " pixels; both sides must be at least 1");
  }
  for (int i = 0; i < plane_count(image.format); ++i) {
    if (image.planes[i] == nullptr) {
      throw Error(ErrorCode::kInput, "plane " + std::to_string(i) + " of an image is missing");
    }
  }
  switch (image.format) {
    case PixelFormat::kRgb8:
      for (int y = 0; y < image.height; ++y) {
        std::memcpy(rgb + static_cast<std::ptrdiff_t>(y) * image.width * 3,
                    image.planes[0] + y * image.strides[0],
                    static_cast<std::size_t>(image.width) * 3);
      }
      return;
    case PixelFormat::kBgr8:
      return convert_interleaved(image, 3, 2, 1, 0, rgb);
    case PixelFormat::kRgba8:
      return convert_interleaved(image, 4, 0, 1, 2, rgb);
    case PixelFormat::kGray8:
      return convert_interleaved(image, 1, 0, 0, 0, rgb);
    case PixelFormat::kI420:
      return convert_yuv<PixelFormat::kI420>(image, rgb);
    case PixelFormat::kNv12:
      return convert_yuv<PixelFormat::kNv12>(image, rgb);
    case PixelFormat::kP010:
      return convert_yuv<PixelFormat::kP010>(image, rgb);
  }
  throw Error(ErrorCode::kInternal, "unknown pixel format");
}

}  // namespace rfseg
