#include "output/report_picture.h"

#include <algorithm>

namespace rfseg {
namespace {

/// Which source pixels [begin, end) an output pixel averages.
struct Window {
  int begin, end;
};

std::vector<Window> windows(int from, int to) {
  std::vector<Window> out(static_cast<std::size_t>(to));
  for (int i = 0; i < to; ++i) {
    const int begin = static_cast<int>(static_cast<int64_t>(i) * from / to);
    const int end = static_cast<int>(static_cast<int64_t>(i + 1) * from / to);
    out[i] = {begin, std::max(end, begin + 1)};
  }
  return out;
}

}  // namespace

Image shrink_image(const Image& image, int max_side) {
  const int longer = std::max(image.width, image.height);
  if (longer <= max_side) return image;
  const auto scaled = [&](int side) {
    return std::max(
        1, static_cast<int>((static_cast<int64_t>(side) * max_side + longer / 2) / longer));
  };
  Image out(scaled(image.width), scaled(image.height));
  const std::vector<Window> columns = windows(image.width, out.width);
  const std::vector<Window> rows = windows(image.height, out.height);
  std::vector<uint32_t> sums(static_cast<std::size_t>(image.width) * 3);
  for (int y = 0; y < out.height; ++y) {
    std::fill(sums.begin(), sums.end(), 0u);
    for (int sy = rows[y].begin; sy < rows[y].end; ++sy) {
      const uint8_t* row = image.pixels.data() + static_cast<std::size_t>(sy) * sums.size();
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += row[i];
    }
    for (int x = 0; x < out.width; ++x) {
      const auto [begin, end] = columns[x];
      const uint64_t count = static_cast<uint64_t>(end - begin) * (rows[y].end - rows[y].begin);
      for (int c = 0; c < 3; ++c) {
        uint64_t sum = count / 2;
        for (int sx = begin; sx < end; ++sx) sum += sums[static_cast<std::size_t>(sx) * 3 + c];
        out.pixels[(static_cast<std::size_t>(y) * out.width + x) * 3 + c] =
            static_cast<uint8_t>(sum / count);
      }
    }
  }
  return out;
}

Rle resample_mask(const Rle& mask, int height, int width) {
  if (mask.height == height && mask.width == width) return mask;
  Rle out{height, width, {}};
  if (mask.height == 0 || mask.width == 0) {
    out.counts.push_back(static_cast<uint32_t>(height) * static_cast<uint32_t>(width));
    return out;
  }
  const auto h = static_cast<uint64_t>(mask.height);
  /// The first output row whose centre lies at or below source row `y`.
  const auto first_row = [&](uint64_t y) {
    const uint64_t scaled = 2 * y * static_cast<uint64_t>(height);  // (2r + 1) * h >= scaled
    const uint64_t r = scaled <= h ? 0 : (scaled - h + 2 * h - 1) / (2 * h);
    return std::min(r, static_cast<uint64_t>(height));
  };
  std::size_t run = 0;
  uint64_t run_begin = 0;  // first pixel of run `run`
  uint32_t pending = 0;
  bool value = false;
  const auto emit = [&](uint64_t count, bool v) {
    if (count == 0) return;
    if (v != value) {
      out.counts.push_back(pending);
      pending = 0;
      value = v;
    }
    pending += static_cast<uint32_t>(count);
  };
  for (int x = 0; x < width; ++x) {
    const uint64_t source = (2 * static_cast<uint64_t>(x) + 1) * mask.width / (2 * width);
    const uint64_t begin = source * h, end = begin + h;
    while (run < mask.counts.size() && run_begin + mask.counts[run] <= begin) {
      run_begin += mask.counts[run++];
    }
    std::size_t i = run;
    uint64_t at = run_begin, row = 0;
    while (i < mask.counts.size() && at < end) {
      const uint64_t next = at + mask.counts[i];
      const uint64_t stop = first_row(std::min(next, end) - begin);
      if (stop > row) {
        emit(stop - row, i & 1);
        row = stop;
      }
      at = next;
      ++i;
    }
    emit(static_cast<uint64_t>(height) - row, false);
  }
  out.counts.push_back(pending);
  return out;
}

void append_base64(std::string& out, const std::vector<uint8_t>& bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  out.reserve(out.size() + (bytes.size() + 2) / 3 * 4);
  std::size_t i = 0;
  for (; i + 3 <= bytes.size(); i += 3) {
    const uint32_t v = static_cast<uint32_t>(bytes[i]) << 16 | bytes[i + 1] << 8 | bytes[i + 2];
    out += {kDigits[v >> 18], kDigits[v >> 12 & 63], kDigits[v >> 6 & 63], kDigits[v & 63]};
  }
  if (const std::size_t left = bytes.size() - i; left > 0) {
    const uint32_t v = static_cast<uint32_t>(bytes[i]) << 16 | (left == 2 ? bytes[i + 1] << 8 : 0);
    out += {kDigits[v >> 18], kDigits[v >> 12 & 63], left == 2 ? kDigits[v >> 6 & 63] : '=', '='};
  }
}

}  // namespace rfseg
