#include "output/mask_painter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rfseg {
namespace {

constexpr float kFillAlpha = 0.40f;
constexpr float kLineAlpha = 0.95f;

/// out[i] = in[i-r] + ... + in[i+r]. Both hold n values; what lies outside `in` counts as 0 and
/// must be 0 in `in` within r of its ends, so that the ends of `out` may be left at 0.
void box_sum(const uint8_t* __restrict in, uint8_t* __restrict out, int n, int r) {
  std::fill(out, out + n, static_cast<uint8_t>(0));
  for (int k = -r; k <= r; ++k) {
    const uint8_t* shifted = in + r + k;
    uint8_t* to = out + r;
    for (int i = 0; i < n - 2 * r; ++i) to[i] = static_cast<uint8_t>(to[i] + shifted[i]);
  }
}

/// to[i] += from[i].
template <class From>
void add_row(const From* __restrict from, uint16_t* __restrict to, int n) {
  for (int i = 0; i < n; ++i) to[i] = static_cast<uint16_t>(to[i] + from[i]);
}

/// pixels[i] = (pixels[i] * keep + add[i]) / 256.
void blend_bytes(uint8_t* __restrict pixels, uint16_t keep, const uint16_t* __restrict add, int n) {
  for (int i = 0; i < n; ++i) {
    // Sixteen bits hold the sum: keep <= 256 and add <= (256 - keep) * 255 + 127.
    const auto scaled = static_cast<uint16_t>(pixels[i] * keep);
    pixels[i] = static_cast<uint8_t>(static_cast<uint16_t>(scaled + add[i]) >> 8);
  }
}

/// The end of the values equal to `value` that begin at `x`, four at a time.
int end_of_run(const uint16_t* levels, int x, int count, uint16_t value) {
  const uint64_t four = value * uint64_t{0x0001000100010001};
  while (x + 4 <= count) {
    uint64_t next;
    std::memcpy(&next, levels + x, sizeof next);
    if (next != four) break;
    x += 4;
  }
  while (x < count && levels[x] == value) ++x;
  return x;
}

}  // namespace

void MaskPainter::rasterise(const Rle& mask) {
  // Each run flips its column at its first pixel and after its last; a running exclusive-or down
  // the rows then fills the columns, sixteen or more at a time.
  mask_.assign(static_cast<std::size_t>(columns_) * rows_, 0);
  uint64_t position = 0;
  const auto flip = [&](uint64_t x, uint64_t y) {
    const std::size_t row = static_cast<std::size_t>(static_cast<int64_t>(y) - top_);
    mask_[row * columns_ + static_cast<std::size_t>(static_cast<int64_t>(x) - left_)] ^= 1;
  };
  const auto h = static_cast<uint64_t>(mask.height);
  for (std::size_t i = 0; i < mask.counts.size(); ++i) {
    uint64_t begin = position;
    position += mask.counts[i];
    if (!(i & 1)) continue;
    while (begin < position) {  // a run may go on in the next column
      const uint64_t x = begin / h, y = begin % h;
      const uint64_t end = std::min(position, (x + 1) * h);
      flip(x, y);
      flip(x, y + (end - begin));  // there is a margin below
      begin = end;
    }
  }
  for (int y = 1; y < rows_; ++y) {
    const uint8_t* __restrict above = mask_.data() + static_cast<std::size_t>(y - 1) * columns_;
    uint8_t* __restrict row = mask_.data() + static_cast<std::size_t>(y) * columns_;
    for (int x = 0, n = columns_; x < n; ++x) row[x] ^= above[x];
  }
}

void MaskPainter::blur_rows(int row_begin, int row_end) {
  line_.resize(columns_);
  for (int y = row_begin; y < row_end; ++y) {
    uint8_t* row = mask_.data() + static_cast<std::size_t>(y) * columns_;
    box_sum(row, line_.data(), columns_, radius_);
    box_sum(line_.data(), row, columns_, radius_);
  }
  once_.assign(static_cast<std::size_t>(columns_) * rows_, 0);
  for (int y = radius_; y < rows_ - radius_; ++y) {
    uint16_t* out = once_.data() + static_cast<std::size_t>(y) * columns_;
    for (int k = -radius_; k <= radius_; ++k) {
      add_row(mask_.data() + static_cast<std::size_t>(y + k) * columns_, out, columns_);
    }
  }
}

void MaskPainter::blend_row(uint8_t* pixels, const uint16_t* levels, int count) {
  const uint32_t scale = (256u << 16) / full_;
  const Blend& inside = blends_[256];
  int x = 0;
  while (x < count) {
    if (levels[x] == 0) {
      x = end_of_run(levels, x, count, 0);
    } else if (levels[x] == full_) {
      const int end = end_of_run(levels, x, count, levels[x]);
      blend_bytes(pixels + x * 3, inside.keep, fill_.data(), (end - x) * 3);
      x = end;
    } else {
      const Blend& blend = blends_[(levels[x] * scale) >> 16];
      uint8_t* p = pixels + x * 3;
      for (int c = 0; c < 3; ++c) {
        p[c] = static_cast<uint8_t>((p[c] * blend.keep + blend.add[c]) >> 8);
      }
      ++x;
    }
  }
}

void MaskPainter::paint(Image& image, const Rle& mask, std::array<uint8_t, 3> color, int radius) {
  double box[4];
  rle_to_bbox(mask, box);
  if (box[2] <= 0) return;
  radius_ = std::clamp(radius, 1, 6);
  const int reach = 2 * radius_, margin = reach + radius_ + 1;
  left_ = static_cast<int>(box[0]) - margin;
  top_ = static_cast<int>(box[1]) - margin;
  columns_ = static_cast<int>(box[2]) + 2 * margin;
  rows_ = static_cast<int>(box[3]) + 2 * margin;
  const uint32_t side = static_cast<uint32_t>(2 * radius_ + 1);
  full_ = side * side * side * side;

  for (int i = 0; i <= 256; ++i) {
    // The blurred mask is 1/2 on the border and 0 or 1 at `reach` from it.
    const float level = static_cast<float>(i) / 256;
    const float line = kLineAlpha * std::clamp((0.42f - std::abs(level - 0.5f)) / 0.2f, 0.f, 1.f);
    const float fill = kFillAlpha * std::clamp((level - 0.3f) / 0.4f, 0.f, 1.f);
    Blend& blend = blends_[i];
    const float keep = (1 - fill) * (1 - line);
    blend.keep = static_cast<uint16_t>(std::lround(keep * 256));
    for (int c = 0; c < 3; ++c) {
      blend.add[c] = static_cast<uint16_t>(color[c] * (256 - blend.keep) + 127);
    }
  }
  rasterise(mask);
  blur_rows(radius_, rows_ - radius_);
  fill_.resize(static_cast<std::size_t>(columns_) * 3);
  for (std::size_t i = 0; i < fill_.size(); ++i) fill_[i] = blends_[256].add[i % 3];

  levels_.resize(columns_);
  const int x0 = std::max(0, -left_), x1 = std::min(columns_, image.width - left_);
  const int y0 = std::max(2 * radius_, -top_);
  const int y1 = std::min(rows_ - 2 * radius_, image.height - top_);
  for (int y = y0; y < y1 && x0 < x1; ++y) {
    std::fill(levels_.begin(), levels_.end(), static_cast<uint16_t>(0));
    for (int k = -radius_; k <= radius_; ++k) {
      add_row(once_.data() + static_cast<std::size_t>(y + k) * columns_, levels_.data(), columns_);
    }
    uint8_t* pixels =
        image.pixels.data() + (static_cast<std::size_t>(top_ + y) * image.width + left_ + x0) * 3;
    blend_row(pixels, levels_.data() + x0, x1 - x0);
  }
}

}  // namespace rfseg
