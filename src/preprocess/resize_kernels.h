#pragma once

#include <array>

#include "preprocess/float_axis.h"
#include "preprocess/pil_axis.h"
#include "preprocess/rgb_rows.h"

// The resizes behind preprocess(): each reads the rows of a picture, resizes, and writes normalised
// float32 planes R, G, B of vertical.out x horizontal.out. Every function of one group gives the
// same bits.

namespace rfseg {

/// (x/255 - mean)/std in float32, each operation rounded.
struct Normalization {
  std::array<float, 3> mean, std;
};

// Pillow's resize on uint8, rounded to uint8 after the horizontal and again after the vertical
// pass.
void pil_resize_reference(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                          const Normalization& norm, float* out);
void pil_resize_avx2(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                     const Normalization& norm, float* out);
void pil_resize_avx512(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                       const Normalization& norm, float* out);

/// The vertical pass alone, for the order of Pillow 13: rows.height() rows of
/// rows.width() * rows.bytes_per_pixel() bytes to vertical.out such rows, tightly packed.
void pil_vertical_reference(RgbRows& rows, const PilAxis& vertical, uint8_t* out);
void pil_vertical_avx2(RgbRows& rows, const PilAxis& vertical, uint8_t* out);

// uint8 -> float32 / 255 -> two taps an axis -> normalised.
void bilinear_resize_reference(RgbRows& rows, const BilinearAxis& horizontal,
                               const BilinearAxis& vertical, const Normalization& norm, float* out);
void bilinear_resize_avx2(RgbRows& rows, const BilinearAxis& horizontal,
                          const BilinearAxis& vertical, const Normalization& norm, float* out);

// uint8 -> float32 / 255 -> triangle filter, x first, then y -> normalised.
void antialias_resize_reference(RgbRows& rows, const AntialiasAxis& horizontal,
                                const AntialiasAxis& vertical, const Normalization& norm,
                                float* out);
void antialias_resize_avx2(RgbRows& rows, const AntialiasAxis& horizontal,
                           const AntialiasAxis& vertical, const Normalization& norm, float* out);

/// What this processor can run; false on other architectures.
bool cpu_has_avx2_fma();
bool cpu_has_avx512_vnni();

}  // namespace rfseg
