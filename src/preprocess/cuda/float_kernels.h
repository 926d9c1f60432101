#pragma once

#include "preprocess/cuda/pixel.h"
#include "preprocess/cuda/tensor_writer.h"

// The resizes in float32, in PyTorch's order of operations (float_axis.h). A warp has a row of 32
// outputs, a block 16 such rows.

namespace rfseg::cuda {

constexpr int kFloatGroup = 112;  ///< source rows between two vertical sums

struct AntialiasShared {
  float narrow[kFloatGroup][3][kFloatTileColumns];  ///< after the first pass
};

/// Where a tile of 32 x 16 outputs lies.
struct FloatTile {
  const FrameRecord* frame;
  int index, column, row;

  RFSEG_DEVICE FloatTile(const PreprocessArguments& a, int tile) {
    index = 0;
    if (tile >= a.tiles_per_frame) {
      index = tile / a.tiles_per_frame;
      tile -= index * a.tiles_per_frame;
    }
    frame = reinterpret_cast<const FrameRecord*>(a.parameters + a.frames) + index;
    int down = static_cast<int>(static_cast<float>(tile) * a.across_reciprocal);
    if (down * a.tiles_across > tile) --down;
    if ((down + 1) * a.tiles_across <= tile) ++down;
    column = (tile - down * a.tiles_across) * kFloatTileColumns + thread_index() % kWarp;
    row = down * kFloatTileRows;
  }
};

RFSEG_DEVICE float channel_of(uint32_t pixel, int channel) {
  return unit_of_byte(pixel >> (8 * channel) & 255);
}

template <bool half>
RFSEG_DEVICE void write_pixel(const PreprocessArguments& a, const FloatTile& tile, int row,
                              const float (&values)[3]) {
  const BatchHeader& header = *reinterpret_cast<const BatchHeader*>(a.parameters);
  const TensorWriter<half> writer{header.tensor};
  const int64_t plane = static_cast<int64_t>(a.height) * a.width;
  const int64_t at = tile.index * 3 * plane + static_cast<int64_t>(row) * a.width + tile.column;
  for (int channel = 0; channel < 3; ++channel) {
    writer.one(at + channel * plane,
               (values[channel] - header.mean[channel]) / header.std[channel]);
  }
}

/// Output i of make_bilinear_axis(in, out).
RFSEG_DEVICE BilinearTaps bilinear_taps(int in, int out, int i) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float place = fused(scale, static_cast<float>(i) + 0.5f, -0.5f);
  const float position = place > 0.0f ? place : 0.0f;
  BilinearTaps taps;
  taps.low = static_cast<int>(position);
  if (taps.low > in - 1) taps.low = in - 1;
  taps.high = taps.low + (taps.low < in - 1 ? 1 : 0);
  taps.weight1 = position - static_cast<float>(taps.low);
  taps.weight0 = 1.0f - taps.weight1;
  return taps;
}

template <bool half>
RFSEG_DEVICE void bilinear_kernel(const PreprocessArguments& a) {
  const int tiles = a.batch * a.tiles_per_frame;
  for (int number = block_x(); number < tiles; number += grid_x()) {
    const FloatTile tile(a, number);
    const int row = tile.row + thread_index() / kWarp;
    if (tile.column >= a.width || row >= a.height) continue;
    const FrameRecord& f = *tile.frame;
    const BilinearTaps x = bilinear_taps(f.in_width, a.width, tile.column);
    const BilinearTaps y = bilinear_taps(f.in_height, a.height, row);
    uint32_t pixels[4];
    if (is_direct(f)) {
      // All loads of the four pixels before the first use.
      with_format(f.format, [&](auto format) {
        Rgb p[4];
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          p[i] = picture_pixel<decltype(format)::value>(
              f, f.origin_x + (i % 2 == 0 ? x.low : x.high), f.origin_y + (i < 2 ? y.low : y.high));
        }
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) pixels[i] = pack(p[i]);
      });
    } else {
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        pixels[i] =
            input_pixel(f, a.parameters, i % 2 == 0 ? x.low : x.high, i < 2 ? y.low : y.high);
      }
    }
    float values[3];
    RFSEG_UNROLL
    for (int c = 0; c < 3; ++c) {
      const float upper =
          fused(x.weight0, channel_of(pixels[0], c), x.weight1 * channel_of(pixels[1], c));
      const float lower =
          fused(x.weight0, channel_of(pixels[2], c), x.weight1 * channel_of(pixels[3], c));
      values[c] = fused(y.weight0, upper, y.weight1 * lower);
    }
    write_pixel<half>(a, tile, row, values);
  }
}

/// The weighted sum of a row's inputs, in order; `pixel(k)` is packed.
template <class Pixel>
RFSEG_DEVICE void sum_row(int count, const float* weights, Pixel&& pixel, float (&sums)[3]) {
  for (int k = 0; k < count; ++k) {
    const uint32_t p = pixel(k);
    const float w = load_constant(weights + k);
    RFSEG_UNROLL
    for (int c = 0; c < 3; ++c) {
      sums[c] = k == 0 ? channel_of(p, c) * w : fused(channel_of(p, c), w, sums[c]);
    }
  }
}

template <bool half>
RFSEG_DEVICE void antialias_kernel(const PreprocessArguments& a, AntialiasShared& shared) {
  const int tiles = a.batch * a.tiles_per_frame;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  for (int number = block_x(); number < tiles; number += grid_x()) {
    const FloatTile tile(a, number);
    const FrameRecord& f = *tile.frame;
    const RowWindow window = reinterpret_cast<const RowWindow*>(
        a.parameters + a.rows)[tile.index * a.row_windows + tile.row / kFloatTileRows];
    const bool direct = is_direct(f);
    const bool in_width = tile.column < a.width;
    const int row = tile.row + warp;
    // Ranges of all outputs, then their weights.
    const auto range = [&](uint32_t table, int i) {
      return reinterpret_cast<const TapRange*>(a.parameters + table)[i];
    };
    const auto weights = [&](uint32_t table, int out, int taps, int i) {
      return reinterpret_cast<const float*>(a.parameters + table +
                                            static_cast<uint32_t>(out) * sizeof(TapRange)) +
             static_cast<int64_t>(i) * taps;
    };
    TapRange across{0, 0}, down{0, 0};
    const float *across_weights = nullptr, *down_weights = nullptr;
    if (in_width) {
      across = range(f.column_table, tile.column);
      across_weights = weights(f.column_table, a.width, f.column_taps, tile.column);
    }
    if (row < a.height) {
      down = range(f.row_table, row);
      down_weights = weights(f.row_table, a.height, f.row_taps, row);
    }
    float values[3] = {0, 0, 0};
    for (int first = 0; first < window.count; first += kFloatGroup) {
      const int rows = window.count - first < kFloatGroup ? window.count - first : kFloatGroup;
      block_sync();
      for (int r = warp; r < rows; r += kWarps) {
        if (!in_width) continue;
        float sums[3] = {0, 0, 0};
        const int y = window.first + first + r;
        if (direct) {
          with_format(f.format, [&](auto format) {
            sum_row(
                across.count, across_weights,
                [&](int k) {
                  return pack(picture_pixel<decltype(format)::value>(
                      f, f.origin_x + across.first + k, f.origin_y + y));
                },
                sums);
          });
        } else {
          sum_row(
              across.count, across_weights,
              [&](int k) { return input_pixel(f, a.parameters, across.first + k, y); }, sums);
        }
        for (int c = 0; c < 3; ++c) shared.narrow[r][c][lane] = sums[c];
      }
      block_sync();
      // The taps of this thread's output among these rows, in order.
      const int offset = down.first - window.first - first;
      const int low = offset < 0 ? -offset : 0;
      for (int k = low; k < down.count && offset + k < rows; ++k) {
        const float w = load_constant(down_weights + k);
        for (int c = 0; c < 3; ++c) {
          const float v = shared.narrow[offset + k][c][lane];
          values[c] = k == 0 ? v * w : fused(v, w, values[c]);
        }
      }
    }
    if (in_width && row < a.height) write_pixel<half>(a, tile, row, values);
  }
}

}  // namespace rfseg::cuda
