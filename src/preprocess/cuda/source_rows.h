#pragma once

#include "preprocess/cuda/pixel.h"

// How source rows come into shared memory: a round is 16 rows, one a warp, as three channels of
// bytes. Fast readers hold some rounds in registers on the way, so that many loads are under way at
// once; a unit is 16 pixels.

namespace rfseg::cuda {

/// What all readers need of a tile.
struct TileInput {
  FrameRecord f;             ///< a copy, for what is always needed
  const FrameRecord* frame;  ///< for what is rarely needed
  const std::byte* parameters;
  int column, columns;  ///< first input of the window, and their number
  int row, rows;
  uint8_t* raw;  ///< [2 rounds][3 channels][16 rows][pitch]
  int pitch;

  RFSEG_DEVICE uint8_t* channel_row(int round, int channel, int row_in_round) const {
    return raw + (((round & 1) * 3 + channel) * kRound + row_in_round) * pitch;
  }
  RFSEG_DEVICE uint32_t pixel(int c, int r) const {
    return f.swapped != 0 ? input_pixel(*frame, parameters, row + r, column + c)
                          : input_pixel(*frame, parameters, column + c, row + r);
  }
};

RFSEG_DEVICE void store_words(uint8_t* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  *reinterpret_cast<Words4*>(to) = {{a, b, c, d}};
}

/// Pixels one by one: inputs [from, end) of the row that this warp takes in a round.
RFSEG_DEVICE void store_general(const TileInput& in, int round, int from, int end) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const int r = round * kRound + warp;
  if (r >= in.rows) return;
  for (int c = from + lane * 4; c < end; c += kWarp * 4) {
    uint32_t words[3] = {0, 0, 0};
    for (int i = 0; i < 4 && c + i < end; ++i) {
      const uint32_t p = in.pixel(c + i, r);
      words[0] |= (p & 255) << (8 * i);
      words[1] |= (p >> 8 & 255) << (8 * i);
      words[2] |= (p >> 16 & 255) << (8 * i);
    }
    for (int channel = 0; channel < 3; ++channel) {
      *reinterpret_cast<uint32_t*>(in.channel_row(round, channel, warp) + c - from) =
          words[channel];
    }
  }
}

class GeneralReader {
 public:
  static constexpr int kDepth = 1;
  RFSEG_DEVICE explicit GeneralReader(const TileInput& in) : in_(in) {}
  RFSEG_DEVICE void load(int, int) {}
  RFSEG_DEVICE void store(int, int round) const { store_general(in_, round, 0, in_.columns); }

 private:
  const TileInput& in_;
};

/// Three bytes a pixel; `shifted`: from any address, through the aligned words that hold them.
template <bool shifted, int units, int depth>
class InterleavedReader {
 public:
  static constexpr int kDepth = depth;
  RFSEG_DEVICE explicit InterleavedReader(const TileInput& in) : in_(in) {
    const FrameRecord& f = in.f;
    const int lane = thread_index() % kWarp;
    stride_ = f.strides[0];
    reversed_ = f.format == FrameFormat::kBgr;
    const int x = f.origin_x + in.column;
    next_ = f.planes[0] + (f.origin_y + in.row + thread_index() / kWarp) * stride_ +
            (x + lane * 16) * 3;
    // Whole units: inside the input and, where words reach past a unit's bytes, inside the picture.
    int first = 0, end = f.in_width - in.column;
    if (shifted &&
        ((reinterpret_cast<uintptr_t>(next_) | static_cast<uintptr_t>(stride_)) & 3) != 0) {
      if (x == 0) first = 1;
      end = end < f.width - 1 - x ? end : f.width - 1 - x;
    }
    for (int u = 0; u < units; ++u) {
      const int unit = lane + u * kWarp;
      whole_[u] = unit >= first && unit * 16 + 16 <= end && unit * 16 < in.columns;
      partial_[u] = !whole_[u] && unit * 16 < in.columns;
    }
  }

  RFSEG_DEVICE void load(int slot, int round) {
    const bool here = round * kRound + thread_index() / kWarp < in_.rows;
    RFSEG_UNROLL
    for (int u = 0; u < units; ++u) {
      if (!here || !whole_[u]) continue;
      const uint8_t* const p = next_ + round * kRound * stride_ + u * kWarp * 48;
      if constexpr (shifted) {
        const int past = static_cast<int>(reinterpret_cast<uintptr_t>(p) & 3);
        const uint32_t* const words = reinterpret_cast<const uint32_t*>(p - past);
        RFSEG_UNROLL
        for (int i = 0; i < 12; ++i) words_[slot][u][i] = load_constant(words + i);
        words_[slot][u][kWords - 1] = past != 0 ? load_constant(words + 12) : 0;
      } else {
        RFSEG_UNROLL
        for (int i = 0; i < 3; ++i) {
          const Words4 v = load_constant(reinterpret_cast<const Words4*>(p) + i);
          RFSEG_UNROLL
          for (int k = 0; k < 4; ++k) words_[slot][u][4 * i + k] = v.w[k];
        }
      }
    }
  }

  RFSEG_DEVICE void store(int slot, int round) {
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    if (round * kRound + warp >= in_.rows) return;
    uint8_t* const red = in_.channel_row(round, reversed_ ? 2 : 0, warp) + lane * 16;
    uint8_t* const green = in_.channel_row(round, 1, warp) + lane * 16;
    uint8_t* const blue = in_.channel_row(round, reversed_ ? 0 : 2, warp) + lane * 16;
    RFSEG_UNROLL
    for (int u = 0; u < units; ++u) {
      if (partial_[u]) store_partial(round, lane + u * kWarp);
      if (!whole_[u]) continue;
      uint32_t(&w)[kWords] = words_[slot][u];
      if constexpr (shifted) {
        const uint8_t* const p = next_ + round * kRound * stride_ + u * kWarp * 48;
        const int bits = static_cast<int>(reinterpret_cast<uintptr_t>(p) & 3) * 8;
        RFSEG_UNROLL
        for (int i = 0; i < 12; ++i) w[i] = shift_words(w[i], w[i + 1], bits);
      }
      uint32_t r[4], g[4], b[4];
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint32_t x = w[3 * i], y = w[3 * i + 1], z = w[3 * i + 2];
        r[i] = permute_bytes(permute_bytes(x, y, 0x0630), z, 0x5210);
        g[i] = permute_bytes(permute_bytes(x, y, 0x0741), z, 0x6210);
        b[i] = permute_bytes(permute_bytes(x, y, 0x0052), z, 0x7410);
      }
      store_words(red + u * kWarp * 16, r[0], r[1], r[2], r[3]);
      store_words(green + u * kWarp * 16, g[0], g[1], g[2], g[3]);
      store_words(blue + u * kWarp * 16, b[0], b[1], b[2], b[3]);
    }
  }

 private:
  static constexpr int kWords = shifted ? 13 : 12;

  RFSEG_DEVICE void store_partial(int round, int unit) const {
    const int warp = thread_index() / kWarp;
    const uint8_t* const p =
        next_ + round * kRound * stride_ + (unit - thread_index() % kWarp) * 48;
    uint8_t* const to = in_.channel_row(round, 0, warp) + unit * 16;
    const int count = in_.columns - unit * 16 < 16 ? in_.columns - unit * 16 : 16;
    const int last = reversed_ ? 2 : 0;
    RFSEG_NO_UNROLL
    for (int i = 0; i < count * 3; ++i) {
      const int channel = i % 3;
      to[(channel == 1 ? 1 : channel ^ last) * kRound * in_.pitch + i / 3] = load_constant(p + i);
    }
  }

  const TileInput& in_;
  const uint8_t* next_;
  int64_t stride_;
  bool reversed_;
  bool whole_[units], partial_[units];
  uint32_t words_[depth][units][kWords];
};

/// NV12 whose rows and chroma rows lie at multiples of 16.
template <int units, int depth>
class PairedReader {
 public:
  static constexpr int kDepth = depth;
  RFSEG_DEVICE explicit PairedReader(const TileInput& in) : in_(in) {
    const FrameRecord& f = in.f;
    const int lane = thread_index() % kWarp;
    x_ = f.origin_x + in.column + lane * 16;
    y_ = f.origin_y + in.row + thread_index() / kWarp;
    for (int u = 0; u < units; ++u) {
      const int at = (lane + u * kWarp) * 16;
      whole_[u] = in.column + at + 16 <= f.in_width && at < in.columns;
      partial_[u] = !whole_[u] && at < in.columns;
    }
  }

  RFSEG_DEVICE void load(int slot, int round) {
    const FrameRecord& f = in_.f;
    const bool here = round * kRound + thread_index() / kWarp < in_.rows;
    const int y = y_ + round * kRound;
    RFSEG_UNROLL
    for (int u = 0; u < units; ++u) {
      if (!here || !whole_[u]) continue;
      const int x = x_ + u * kWarp * 16;
      luma_[slot][u] =
          load_constant(reinterpret_cast<const Words4*>(f.planes[0] + y * f.strides[0] + x));
      chroma_[slot][u] =
          load_constant(reinterpret_cast<const Words4*>(f.planes[1] + y / 2 * f.strides[1] + x));
    }
  }

  RFSEG_DEVICE void store(int slot, int round) {
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    if (round * kRound + warp >= in_.rows) return;
    const YuvFormula formula = in_.f.yuv;
    RFSEG_UNROLL
    for (int u = 0; u < units; ++u) {
      if (partial_[u]) store_partial(round, lane + u * kWarp);
      if (!whole_[u]) continue;
      Words4 r, g, b;
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        r.w[i] = g.w[i] = b.w[i] = 0;
        RFSEG_UNROLL
        for (int k = 0; k < 4; ++k) {
          const int32_t y = static_cast<int32_t>(luma_[slot][u].w[i] >> (8 * k) & 255);
          const uint32_t uv = chroma_[slot][u].w[i] >> (16 * (k / 2));
          const Rgb p = yuv_to_rgb(y, static_cast<int32_t>(uv & 255),
                                   static_cast<int32_t>(uv >> 8 & 255), formula);
          r.w[i] |= static_cast<uint32_t>(p.r) << (8 * k);
          g.w[i] |= static_cast<uint32_t>(p.g) << (8 * k);
          b.w[i] |= static_cast<uint32_t>(p.b) << (8 * k);
        }
      }
      const int at = (lane + u * kWarp) * 16;
      *reinterpret_cast<Words4*>(in_.channel_row(round, 0, warp) + at) = r;
      *reinterpret_cast<Words4*>(in_.channel_row(round, 1, warp) + at) = g;
      *reinterpret_cast<Words4*>(in_.channel_row(round, 2, warp) + at) = b;
    }
  }

 private:
  RFSEG_DEVICE void store_partial(int round, int unit) const {
    const FrameRecord& f = in_.f;
    const int warp = thread_index() / kWarp;
    uint8_t* const to = in_.channel_row(round, 0, warp) + unit * 16;
    const int count = in_.columns - unit * 16 < 16 ? in_.columns - unit * 16 : 16;
    const int x = x_ + (unit - thread_index() % kWarp) * 16, y = y_ + round * kRound;
    const uint8_t* const luma = f.planes[0] + y * f.strides[0] + x;
    const uint8_t* const chroma = f.planes[1] + y / 2 * f.strides[1] + x;
    RFSEG_NO_UNROLL
    for (int i = 0; i < count; ++i) {
      const Rgb p = yuv_to_rgb(load_constant(luma + i), load_constant(chroma + (i & ~1)),
                               load_constant(chroma + (i | 1)), f.yuv);
      to[i] = static_cast<uint8_t>(p.r);
      to[kRound * in_.pitch + i] = static_cast<uint8_t>(p.g);
      to[2 * kRound * in_.pitch + i] = static_cast<uint8_t>(p.b);
    }
  }

  const TileInput& in_;
  int x_, y_;
  bool whole_[units], partial_[units];
  Words4 luma_[depth][units], chroma_[depth][units];
};

}  // namespace rfseg::cuda
