#include <algorithm>

#include "preprocess/resize_kernels.h"

namespace rfseg {
namespace {

uint8_t round_and_clip(int32_t sum) {
  const int32_t value = (sum + (1 << (kPilBits - 1))) >> kPilBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

}  // namespace

void pil_resize_reference(RgbRows& rows, const PilAxis& horizontal, const PilAxis& vertical,
                          const Normalization& norm, float* out) {
  const int height = rows.height();
  const ChannelOffsets channels = channel_offsets(rows.format());
  const int offsets[3] = {channels.r, channels.g, channels.b};
  const int step = rows.bytes_per_pixel();
  const std::size_t row_bytes = static_cast<std::size_t>(horizontal.out) * 3;

  std::vector<uint8_t> narrow(row_bytes * height);  // [height, horizontal.out, 3]
  for (int y = 0; y < height; ++y) {
    const uint8_t* source = rows.row(y);
    for (int x = 0; x < horizontal.out; ++x) {
      const int32_t* weights =
          horizontal.weights.data() + static_cast<std::size_t>(x) * horizontal.taps;
      for (int c = 0; c < 3; ++c) {
        const uint8_t* pixel = source + horizontal.first[x] * step + offsets[c];
        int32_t sum = 0;
        for (int k = 0; k < horizontal.count[x]; ++k) sum += weights[k] * pixel[k * step];
        narrow[y * row_bytes + x * 3 + c] = round_and_clip(sum);
      }
    }
  }

  const std::size_t plane = static_cast<std::size_t>(horizontal.out) * vertical.out;
  for (int y = 0; y < vertical.out; ++y) {
    const int32_t* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
    for (int x = 0; x < horizontal.out; ++x) {
      for (int c = 0; c < 3; ++c) {
        const uint8_t* pixel = narrow.data() + vertical.first[y] * row_bytes + x * 3 + c;
        int32_t sum = 0;
        for (int k = 0; k < vertical.count[y]; ++k) sum += weights[k] * pixel[k * row_bytes];
        const float unit = static_cast<float>(round_and_clip(sum)) / 255.0f;
        out[c * plane + static_cast<std::size_t>(y) * horizontal.out + x] =
            (unit - norm.mean[c]) / norm.std[c];
      }
    }
  }
}

void pil_vertical_reference(RgbRows& rows, const PilAxis& vertical, uint8_t* out) {
  const int length = rows.width() * rows.bytes_per_pixel();
  std::vector<int32_t> sums(length);
  for (int y = 0; y < vertical.out; ++y, out += length) {
    const int32_t* weights = vertical.weights.data() + static_cast<std::size_t>(y) * vertical.taps;
    std::fill(sums.begin(), sums.end(), 0);
    for (int k = 0; k < vertical.count[y]; ++k) {
      const uint8_t* source = rows.row(vertical.first[y] + k);
      for (int x = 0; x < length; ++x) sums[x] += weights[k] * source[x];
    }
    for (int x = 0; x < length; ++x) out[x] = round_and_clip(sums[x]);
  }
}

}  // namespace rfseg
