#pragma once

#include "preprocess/cuda/pixel.h"

// How source rows come into shared memory. A round is 16 rows, one a warp. What the products read
// are rows of pixels of three bytes; either pixels are put there one by one, or the rows' memory is
// copied to shared memory as it is, some rounds ahead. Where that is no row of pixels at an address
// that is a multiple of 16, it is made into one.

namespace rfseg::cuda {

using SlotBarriers = RowBarrier[kSlots];  ///< one for the rows of a round

/// What all readers need of a tile.
struct TileInput {
  const FrameRecord& f;      ///< a copy in shared memory
  const FrameRecord* frame;  ///< itself
  const std::byte* parameters;
  int column, columns;  ///< first input of the window, and their number
  int row, rows;
  int thread;       ///< thread_index(), not to be computed with ahead of the tile
  uint8_t* pixels;  ///< [2 rounds][16 rows][pitch]

  RFSEG_DEVICE uint8_t* pixel_row(int round, int row_in_round) const {
    return pixels + ((round & 1) * kRound + row_in_round) * f.pitch;
  }
  RFSEG_DEVICE uint32_t pixel(int c, int r) const {
    return f.swapped != 0 ? input_pixel(*frame, parameters, row + r, column + c)
                          : input_pixel(*frame, parameters, column + c, row + r);
  }
};

/// Keeps 4 pixels, given by channels.
RFSEG_DEVICE void keep_pixels(uint8_t* to, uint32_t red, uint32_t green, uint32_t blue) {
  const uint32_t low = permute_bytes(red, green, 0x5140);   // r0 g0 r1 g1
  const uint32_t high = permute_bytes(red, green, 0x7362);  // r2 g2 r3 g3
  uint32_t* const words = reinterpret_cast<uint32_t*>(to);
  words[0] = permute_bytes(low, blue, 0x2410);
  words[1] = permute_bytes(permute_bytes(low, blue, 0x0053), high, 0x5410);
  words[2] = permute_bytes(high, blue, 0x7326);
}

/// Pixels one by one, by a warp: inputs [from, end) of row r.
RFSEG_DEVICE void store_general(const TileInput& in, uint8_t* to, int r, int from, int end) {
  const int lane = in.thread % kWarp;
  if (r >= in.rows) return;
  RFSEG_NO_UNROLL
  for (int c = from + lane * 4; c < end; c += kWarp * 4) {
    uint32_t words[3] = {0, 0, 0};
    RFSEG_NO_UNROLL
    for (int i = 0; i < 4 && c + i < end; ++i) {
      const uint32_t p = in.pixel(c + i, r);
      words[0] |= (p & 255) << (8 * i);
      words[1] |= (p >> 8 & 255) << (8 * i);
      words[2] |= (p >> 16 & 255) << (8 * i);
    }
    keep_pixels(to + 3 * (c - from), words[0], words[1], words[2]);
  }
}

class GeneralReader {
 public:
  RFSEG_DEVICE GeneralReader(const TileInput& in, uint8_t*, SlotBarriers&, uint32_t phases)
      : in_(in), phases_(phases) {}
  RFSEG_DEVICE void start(int) {}
  RFSEG_DEVICE void store(int round) const {
    const int warp = in_.thread / kWarp;
    store_general(in_, in_.pixel_row(round, warp), round * kRound + warp, 0, in_.columns);
  }
  RFSEG_DEVICE uint32_t phases() const { return phases_; }

 private:
  const TileInput& in_;
  uint32_t phases_;
};

/// `count` words from shared memory at any address, from the aligned words that hold them.
template <int count>
RFSEG_DEVICE void shared_words(const uint8_t* p, uint32_t (&words)[count]) {
  const int past = static_cast<int>(reinterpret_cast<uintptr_t>(p) & 15);
  if (past == 0 && count % 4 == 0) {
    RFSEG_UNROLL
    for (int i = 0; i < count / 4; ++i) {
      const Words4 v = reinterpret_cast<const Words4*>(p)[i];
      RFSEG_UNROLL
      for (int k = 0; k < 4; ++k) words[4 * i + k] = v.w[k];
    }
    return;
  }
  const uint32_t* const aligned = reinterpret_cast<const uint32_t*>(p - past % 4);
  uint32_t next = aligned[0];
  RFSEG_UNROLL
  for (int i = 0; i < count; ++i) {
    const uint32_t low = next;
    next = aligned[i + 1];
    words[i] = shift_words(low, next, past % 4 * 8);
  }
}

class StagedReader {
 public:
  /// `raw`: [depth][16 rows][raw_pitch]; `phases`: a bit a barrier, those that the next wait is
  /// for.
  RFSEG_DEVICE StagedReader(const TileInput& in, uint8_t* raw, SlotBarriers& barriers,
                            uint32_t phases)
      : in_(in), barriers_(barriers), phases_(phases) {
    warp_ = warp_read(in.thread / kWarp, 0);  // known to be the same for all lanes
    raw_ = raw + warp_ * in.f.raw_pitch;
    x_ = in.f.origin_x + in.column;
    y_ = in.f.origin_y + in.row + warp_;
  }

  RFSEG_DEVICE uint32_t phases() const { return phases_; }

  /// Begins the copies of this warp's row of a round.
  RFSEG_DEVICE void start(int round) {
    warp_sync();  // the row that is overwritten has been made pixels
    RowBarrier& barrier = barriers_[fill_];
    uint8_t* const to = raw_ + fill_ * kRound * in_.f.raw_pitch;
    fill_ = fill_ + 1 < in_.f.depth ? fill_ + 1 : 0;
    if (round * kRound + warp_ >= in_.rows) {
      expect_row(barrier, 0);
      row_started(barrier);
      return;
    }
    const int y = y_ + round * kRound;
    // Computed twice rather than kept: the registers are the products'.
    uint32_t bytes = 0;
    RFSEG_NO_UNROLL
    for (int i = 0; i < in_.f.planes_used; ++i) bytes += segment(i, y).bytes;
    expect_row(barrier, bytes);
    RFSEG_NO_UNROLL
    for (int i = 0; i < in_.f.planes_used; ++i) {
      const Segment s = segment(i, y);
      uint8_t* const place = to + in_.f.segments[i];
      if (s.bytes > 0) copy_row(place + s.skipped, s.from, s.bytes, barrier);
      if (s.edge) copy_edges(s, place);
    }
    row_started(barrier);
  }

  /// Waits for it and makes it pixels.
  RFSEG_DEVICE void store(int round) {
    const int warp = in_.thread / kWarp, lane = in_.thread % kWarp;
    wait_row(barriers_[drain_], phases_ >> drain_ & 1);
    const uint8_t* const raw = raw_ + drain_ * kRound * in_.f.raw_pitch;
    phases_ ^= 1u << drain_;
    drain_ = drain_ + 1 < in_.f.depth ? drain_ + 1 : 0;
    if (round * kRound + warp >= in_.rows) return;
    const int y = y_ + round * kRound;
    const uint8_t* planes[3];
    RFSEG_UNROLL
    for (int i = 0; i < 3; ++i) planes[i] = raw + in_.f.segments[i] + (offset_in_row(i, y) & 15);
    uint8_t* const to = in_.pixel_row(round, warp);
    if (in_.f.format == FrameFormat::kRgb || in_.f.format == FrameFormat::kBgr) {
      RFSEG_NO_UNROLL
      for (int at = lane * 16; at < 3 * in_.columns; at += kWarp * 16) {
        Words4 words;
        shared_words(planes[0] + at, words.w);
        *reinterpret_cast<Words4*>(to + at) = words;
      }
      return;
    }
    RFSEG_NO_UNROLL
    for (int at = lane * 4; at < in_.columns; at += kWarp * 4) {
      uint32_t rgb[3];
      if (in_.f.format == FrameFormat::kRgba) {
        take_quads(planes[0] + at * 4, rgb);
      } else if (in_.f.format == FrameFormat::kGray) {
        uint32_t words[1];
        shared_words(planes[0] + at, words);
        rgb[0] = rgb[1] = rgb[2] = words[0];
      } else {
        take_yuv(planes, at, rgb);
      }
      keep_pixels(to + 3 * at, rgb[0], rgb[1], rgb[2]);
    }
  }

 private:
  /// The copy of a row of one plane: whole 16-byte pieces that lie in the plane's memory.
  struct Segment {
    const uint8_t* from;
    uint32_t bytes;
    int skipped;  ///< 0 or 16: bytes of the first piece, if it begins before the memory
    bool edge;    ///< a piece at either end reaches out of the memory
    const uint8_t* first;
    int needed;  ///< bytes from there
  };

  RFSEG_DEVICE uintptr_t offset_in_row(int plane, int y) const {
    const int row = plane == 0 ? y : y / 2;
    return reinterpret_cast<uintptr_t>(in_.f.planes[plane]) +
           static_cast<uintptr_t>(row * in_.f.strides[plane] + x_ * in_.f.unit_bytes[plane] / 16);
  }

  RFSEG_DEVICE Segment segment(int plane, int y) const {
    Segment s;
    const uintptr_t first = offset_in_row(plane, y);
    const int columns = plane == 0 ? in_.columns : (in_.columns + 1) & ~1;
    s.needed = columns * in_.f.unit_bytes[plane] / 16;
    s.first = reinterpret_cast<const uint8_t*>(first);
    uintptr_t from = first & ~uintptr_t{15};
    uintptr_t end = (first + static_cast<uintptr_t>(s.needed) + 15) & ~uintptr_t{15};
    s.edge = from < in_.f.memory[plane][0] || end > in_.f.memory[plane][1];
    s.skipped = 0;
    if (s.edge) {
      if (from < in_.f.memory[plane][0]) from += 16, s.skipped = 16;
      if (end > in_.f.memory[plane][1]) end -= 16;
    }
    s.from = reinterpret_cast<const uint8_t*>(from);
    s.bytes = end > from ? static_cast<uint32_t>(end - from) : 0;
    return s;
  }

  /// What whole pieces did not cover, byte by byte.
  RFSEG_DEVICE void copy_edges(const Segment& s, uint8_t* place) const {
    const int lane = in_.thread % kWarp;
    const int past = static_cast<int>(reinterpret_cast<uintptr_t>(s.first) & 15);
    const int copied = s.skipped + static_cast<int>(s.bytes);  // from the first piece's begin
    const int head = s.skipped > 0 ? 16 - past : 0;
    const int tail = copied - past > head ? copied - past : head;
    RFSEG_NO_UNROLL
    for (int i = lane; i < head && i < s.needed; i += kWarp) {
      place[past + i] = load_constant(s.first + i);
    }
    RFSEG_NO_UNROLL
    for (int i = tail + lane; i < s.needed; i += kWarp) {
      place[past + i] = load_constant(s.first + i);
    }
    row_accessed();
  }

  /// 4 pixels of four bytes.
  RFSEG_DEVICE static void take_quads(const uint8_t* p, uint32_t (&rgb)[3]) {
    uint32_t w[4];
    shared_words(p, w);
    RFSEG_UNROLL
    for (int channel = 0; channel < 3; ++channel) {
      const uint32_t digits = static_cast<uint32_t>((4 + channel) << 4 | channel);
      rgb[channel] = permute_bytes(permute_bytes(w[0], w[1], digits),
                                   permute_bytes(w[2], w[3], digits), 0x5410);
    }
  }

  /// 4 pixels, two pairs of chroma.
  RFSEG_DEVICE void take_yuv(const uint8_t* const (&planes)[3], int at, uint32_t (&rgb)[3]) const {
    int32_t y[4], u[2], v[2];
    if (in_.f.format == FrameFormat::kP010) {
      uint32_t luma[2], chroma[2];
      shared_words(planes[0] + at * 2, luma);
      shared_words(planes[1] + at * 2, chroma);
      RFSEG_UNROLL
      for (int k = 0; k < 2; ++k) {
        y[2 * k] = static_cast<int32_t>(luma[k] >> 6 & 1023);
        y[2 * k + 1] = static_cast<int32_t>(luma[k] >> 22);
        u[k] = static_cast<int32_t>(chroma[k] >> 6 & 1023);
        v[k] = static_cast<int32_t>(chroma[k] >> 22);
      }
    } else {
      uint32_t luma[1];
      shared_words(planes[0] + at, luma);
      RFSEG_UNROLL
      for (int k = 0; k < 4; ++k) y[k] = static_cast<int32_t>(luma[0] >> (8 * k) & 255);
      if (in_.f.format == FrameFormat::kNv12) {
        uint32_t chroma[1];
        shared_words(planes[1] + at, chroma);
        RFSEG_UNROLL
        for (int k = 0; k < 2; ++k) {
          u[k] = static_cast<int32_t>(chroma[0] >> (16 * k) & 255);
          v[k] = static_cast<int32_t>(chroma[0] >> (16 * k + 8) & 255);
        }
      } else {
        RFSEG_UNROLL
        for (int k = 0; k < 2; ++k) {
          u[k] = planes[1][at / 2 + k];
          v[k] = planes[2][at / 2 + k];
        }
      }
    }
    const YuvFormula formula = in_.f.yuv;
    rgb[0] = rgb[1] = rgb[2] = 0;
    RFSEG_UNROLL
    for (int k = 0; k < 4; ++k) {
      const Rgb p = yuv_to_rgb(y[k], u[k / 2], v[k / 2], formula);
      rgb[0] |= static_cast<uint32_t>(p.r) << (8 * k);
      rgb[1] |= static_cast<uint32_t>(p.g) << (8 * k);
      rgb[2] |= static_cast<uint32_t>(p.b) << (8 * k);
    }
  }

  const TileInput& in_;
  SlotBarriers& barriers_;
  uint32_t phases_;
  uint8_t* raw_;
  int warp_, x_, y_;
  int fill_ = 0, drain_ = 0;
};

}  // namespace rfseg::cuda
