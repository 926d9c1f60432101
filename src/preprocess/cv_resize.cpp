#include "preprocess/cv_resize.h"

#include <algorithm>
#include <cmath>

namespace rfseg {
namespace {

constexpr int kChannels = 3;
constexpr float kOne = 2048;  // 11 bits

}  // namespace

CvAxis make_cv_axis(int in, int out, bool clamp_fraction) {
  CvAxis axis;
  axis.low.resize(out);
  axis.high.resize(out);
  axis.weight0.resize(out);
  axis.weight1.resize(out);
  const double inverse = static_cast<double>(out) / in;
  const double scale = 1.0 / inverse;
  for (int i = 0; i < out; ++i) {
    float fraction = static_cast<float>((i + 0.5) * scale - 0.5);
    int index = static_cast<int>(std::floor(fraction));
    fraction -= static_cast<float>(index);
    // Outside the picture the horizontal axis drops the fraction; the vertical one reads the edge
    // row twice, which is the same but for rounding.
    if (clamp_fraction && index < 0) fraction = 0, index = 0;
    if (clamp_fraction && index >= in - 1) fraction = 0, index = in - 1;
    axis.low[i] = std::clamp(index, 0, in - 1);
    axis.high[i] = std::clamp(index + 1, 0, in - 1);
    axis.weight0[i] = static_cast<int>(std::lrint((1.0f - fraction) * kOne));
    axis.weight1[i] = static_cast<int>(std::lrint(fraction * kOne));
  }
  return axis;
}

namespace {

void halve(const uint8_t* rgb, int width, uint8_t* out, int out_width, int out_height,
           std::size_t out_stride) {
  const std::size_t stride = static_cast<std::size_t>(width) * kChannels;
  for (int y = 0; y < out_height; ++y) {
    const uint8_t* row = rgb + 2 * y * stride;
    for (int x = 0; x < out_width * kChannels; ++x) {
      const uint8_t* p = row + (x / kChannels) * 2 * kChannels + x % kChannels;
      const int sum = p[0] + p[kChannels] + p[stride] + p[stride + kChannels];
      out[y * out_stride + x] = static_cast<uint8_t>((sum + 2) >> 2);
    }
  }
}

}  // namespace

void cv_resize_linear(const uint8_t* rgb, int width, int height, uint8_t* out, int out_width,
                      int out_height, std::size_t out_stride) {
  if (width == out_width && height == out_height) {
    const std::size_t row = static_cast<std::size_t>(width) * kChannels;
    for (int y = 0; y < height; ++y) std::copy_n(rgb + y * row, row, out + y * out_stride);
    return;
  }
  if (width == 2 * out_width && height == 2 * out_height) {
    halve(rgb, width, out, out_width, out_height, out_stride);
    return;
  }
  const CvAxis across = make_cv_axis(width, out_width, true);
  const CvAxis down = make_cv_axis(height, out_height, false);
  const std::size_t stride = static_cast<std::size_t>(width) * kChannels;
  const std::size_t row_length = static_cast<std::size_t>(out_width) * kChannels;
  std::vector<int> rows[2] = {std::vector<int>(row_length), std::vector<int>(row_length)};
  int held[2] = {-1, -1};  // row y is kept in rows[y % 2]
  for (int y = 0; y < out_height; ++y) {
    for (const int source : {down.low[y], down.high[y]}) {
      if (held[source % 2] == source) continue;
      held[source % 2] = source;
      const uint8_t* pixels = rgb + source * stride;
      int* row = rows[source % 2].data();
      for (int x = 0; x < out_width; ++x) {
        const uint8_t* low = pixels + across.low[x] * kChannels;
        const uint8_t* high = pixels + across.high[x] * kChannels;
        for (int c = 0; c < kChannels; ++c) {
          *row++ = low[c] * across.weight0[x] + high[c] * across.weight1[x];
        }
      }
    }
    const int* upper = rows[down.low[y] % 2].data();
    const int* lower = rows[down.high[y] % 2].data();
    const int w0 = down.weight0[y], w1 = down.weight1[y];
    uint8_t* target = out + y * out_stride;
    for (std::size_t x = 0; x < row_length; ++x) {
      const int sum = ((w0 * (upper[x] >> 4)) >> 16) + ((w1 * (lower[x] >> 4)) >> 16);
      target[x] = static_cast<uint8_t>((sum + 2) >> 2);
    }
  }
}

}  // namespace rfseg
