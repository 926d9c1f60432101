#include <cmath>

#include "preprocess/resize_kernels.h"

namespace rfseg {
namespace {

/// The rows as float32 x/255, interleaved R, G, B: [height, width, 3].
std::vector<float> unit_pixels(RgbRows& rows) {
  const ChannelOffsets offset = channel_offsets(rows.format());
  const int step = rows.bytes_per_pixel();
  std::vector<float> pixels(static_cast<std::size_t>(rows.height()) * rows.width() * 3);
  float* next = pixels.data();
  for (int y = 0; y < rows.height(); ++y) {
    const uint8_t* source = rows.row(y);
    for (int x = 0; x < rows.width(); ++x, source += step) {
      *next++ = static_cast<float>(source[offset.r]) / 255.0f;
      *next++ = static_cast<float>(source[offset.g]) / 255.0f;
      *next++ = static_cast<float>(source[offset.b]) / 255.0f;
    }
  }
  return pixels;
}

}  // namespace

void bilinear_resize_reference(RgbRows& rows, const BilinearAxis& horizontal,
                               const BilinearAxis& vertical, const Normalization& norm,
                               float* out) {
  const std::vector<float> pixels = unit_pixels(rows);
  const std::size_t row_length = static_cast<std::size_t>(rows.width()) * 3;
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < vertical.out; ++y) {
      const float* upper = pixels.data() + vertical.low[y] * row_length + c;
      const float* lower = pixels.data() + vertical.high[y] * row_length + c;
      const float y0 = vertical.weight0[y], y1 = vertical.weight1[y];
      for (int x = 0; x < horizontal.out; ++x) {
        const int low = horizontal.low[x] * 3, high = horizontal.high[x] * 3;
        const float x0 = horizontal.weight0[x], x1 = horizontal.weight1[x];
        const float a = std::fma(x0, upper[low], x1 * upper[high]);
        const float b = std::fma(x0, lower[low], x1 * lower[high]);
        *out++ = (std::fma(y0, a, y1 * b) - norm.mean[c]) / norm.std[c];
      }
    }
  }
}

void antialias_resize_reference(RgbRows& rows, const AntialiasAxis& horizontal,
                                const AntialiasAxis& vertical, const Normalization& norm,
                                float* out) {
  const std::vector<float> pixels = unit_pixels(rows);
  const std::size_t row_length = static_cast<std::size_t>(rows.width()) * 3;
  const std::size_t narrow_length = static_cast<std::size_t>(horizontal.out) * 3;
  std::vector<float> narrow(narrow_length * rows.height());  // [height, horizontal.out, 3]
  for (int y = 0; y < rows.height(); ++y) {
    for (int x = 0; x < horizontal.out; ++x) {
      const float* weights =
          horizontal.weights.data() + static_cast<std::size_t>(x) * horizontal.taps;
      for (int c = 0; c < 3; ++c) {
        const float* pixel = pixels.data() + y * row_length + horizontal.first[x] * 3 + c;
        float sum = pixel[0] * weights[0];
        for (int j = 1; j < horizontal.count[x]; ++j) {
          sum = std::fma(pixel[j * 3], weights[j], sum);
        }
        narrow[y * narrow_length + x * 3 + c] = sum;
      }
    }
  }
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < vertical.out; ++y) {
      const float* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
      for (int x = 0; x < horizontal.out; ++x) {
        const float* pixel = narrow.data() + vertical.first[y] * narrow_length + x * 3 + c;
        float sum = pixel[0] * weights[0];
        for (int j = 1; j < vertical.count[y]; ++j) {
          sum = std::fma(pixel[j * narrow_length], weights[j], sum);
        }
        *out++ = (sum - norm.mean[c]) / norm.std[c];
      }
    }
  }
}

}  // namespace rfseg
