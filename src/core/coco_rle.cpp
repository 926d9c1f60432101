#include "core/coco_rle.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "rfseg/error.h"

namespace rfseg {
namespace {

/// Polygon coordinates beyond this would overflow the up-sampled grid.
constexpr double kMaxCoordinate = 1e8;
constexpr std::size_t kMostCrossings = std::size_t{1} << 26;  // 256 MiB
/// frPoly walks the border on a grid this many times finer than the pixels.
constexpr int kPolygonScale = 5;

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kInput, "run-length mask: " + message);
}

std::string size_text(int height, int width) {
  return std::to_string(height) + "x" + std::to_string(width) + " pixels";
}

uint64_t checked_pixels(int height, int width) {
  if (height < 0 || width < 0) fail("the size " + size_text(height, width) + " is negative");
  const int64_t pixels = int64_t{height} * width;
  if (pixels > kMostMaskPixels) {
    fail("the size " + size_text(height, width) + " is over the limit of 2^30 pixels");
  }
  return static_cast<uint64_t>(pixels);
}

[[noreturn]] void fail_sum(uint64_t sum, bool more, int height, int width) {
  fail("the runs cover " + std::string(more ? "more than the " : std::to_string(sum) + " of the ") +
       size_text(height, width));
}

/// Walks the foreground runs, as (first pixel, one past the last), empty ones left out.
template <class F>
void for_each_run(const Rle& rle, F&& f) {
  uint64_t position = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const uint64_t next = position + rle.counts[i];
    if ((i & 1) && next > position) f(position, next);
    position = next;
  }
}

/// Steps through two masks in stretches over which neither changes.
template <class F>
void walk_pair(const Rle& a, const Rle& b, F&& f) {
  std::size_t ia = 0, ib = 0;
  uint32_t left_a = 0, left_b = 0;
  while (true) {
    while (left_a == 0 && ia < a.counts.size()) left_a = a.counts[ia++];
    while (left_b == 0 && ib < b.counts.size()) left_b = b.counts[ib++];
    const uint32_t step = std::min(left_a, left_b);
    if (step == 0) return;
    f(step, (ia & 1) == 0, (ib & 1) == 0);  // an even number consumed: inside foreground
    left_a -= step;
    left_b -= step;
  }
}

void check_same_size(const Rle& a, const Rle& b) {
  if (a.height != b.height || a.width != b.width) {
    fail("masks of " + size_text(a.height, a.width) + " and " + size_text(b.height, b.width) +
         " cannot be combined; sizes must be equal");
  }
}

/// Appends runs and joins neighbours of one value.
class RunBuilder {
 public:
  void add(uint32_t count, bool value) {
    if (value == value_) {
      run_ += count;
    } else {
      counts_.push_back(run_);
      run_ = count;
      value_ = value;
    }
  }
  std::vector<uint32_t> finish() {
    counts_.push_back(run_);
    return std::move(counts_);
  }

 private:
  std::vector<uint32_t> counts_;
  uint32_t run_ = 0;
  bool value_ = false;
};

/// One edge of a polygon on the up-sampled grid, in the direction in which frPoly samples it: along
/// the longer axis, ascending.
struct Edge {
  int x0, y0, x1, y1;
  bool steep;
  int steps;     ///< samples are 0..steps
  double slope;  ///< of the shorter axis

  Edge(int xa, int ya, int xb, int yb) : x0(xa), y0(ya), x1(xb), y1(yb) {
    const int dx = std::abs(x1 - x0), dy = std::abs(y1 - y0);
    steep = dx < dy;
    steps = steep ? dy : dx;
    if (steep ? y0 > y1 : x0 > x1) {
      std::swap(x0, x1);
      std::swap(y0, y1);
    }
    slope = steps == 0 ? 0 : static_cast<double>(steep ? x1 - x0 : y1 - y0) / steps;
  }
  int u(int t) const { return steep ? static_cast<int>(x0 + slope * t + .5) : x0 + t; }
  int v(int t) const { return steep ? y0 + t : static_cast<int>(y0 + slope * t + .5); }

  /// The step t in 1..steps between whose samples t-1 and t the abscissa passes from one side of
  /// `limit` + 0.5 to the other, or 0. The samples' abscissae are monotone and move by at most one.
  int crossing(int limit) const {
    const int low = std::min(u(0), u(steps)), high = std::max(u(0), u(steps));
    if (low > limit || high <= limit) return 0;
    if (!steep) return limit - x0 + 1;
    const bool rising = u(0) <= limit;
    int before = 0, after = steps;  // u(before) is on the first side, u(after) on the other
    while (after - before > 1) {
      const int middle = before + (after - before) / 2;
      ((u(middle) <= limit) == rising ? before : after) = middle;
    }
    return after;
  }
};

}  // namespace

Rle rle_encode(const uint8_t* mask, int height, int width) {
  checked_pixels(height, width);
  // Columns are gathered in blocks, so that each cache line of the row-major mask is read once.
  constexpr int kBlock = 64;
  std::vector<uint8_t> block(static_cast<std::size_t>(kBlock) * height);
  RunBuilder runs;
  for (int x0 = 0; x0 < width; x0 += kBlock) {
    const int columns = std::min(kBlock, width - x0);
    for (int y = 0; y < height; ++y) {
      const uint8_t* row = mask + static_cast<std::size_t>(y) * width + x0;
      for (int x = 0; x < columns; ++x) {
        block[static_cast<std::size_t>(x) * height + y] = row[x] != 0;
      }
    }
    const uint8_t* p = block.data();
    const uint8_t* const end = p + static_cast<std::size_t>(columns) * height;
    while (p != end) {
      const uint8_t* const stop = std::find(p, end, static_cast<uint8_t>(*p ^ 1));
      runs.add(static_cast<uint32_t>(stop - p), *p != 0);
      p = stop;
    }
  }
  return {height, width, runs.finish()};
}

std::vector<uint8_t> rle_decode(const Rle& rle) {
  const uint64_t pixels = checked_pixels(rle.height, rle.width);
  uint64_t sum = 0;
  for (uint32_t count : rle.counts) sum += count;
  if (sum != pixels) fail_sum(sum, sum > pixels, rle.height, rle.width);
  std::vector<uint8_t> mask(pixels);
  for_each_run(rle, [&](uint64_t begin, uint64_t end) {
    uint64_t x = begin / rle.height, y = begin % rle.height;
    for (uint64_t i = begin; i < end; ++i) {
      mask[y * rle.width + x] = 1;
      if (++y == static_cast<uint64_t>(rle.height)) {
        y = 0;
        ++x;
      }
    }
  });
  return mask;
}

void rle_append_string(const uint32_t* counts, std::size_t n, std::string& out) {
  for (std::size_t i = 0; i < n; ++i) {
    int64_t x = counts[i];
    if (i > 2) x -= counts[i - 2];
    bool more = true;
    while (more) {
      int c = static_cast<int>(x & 0x1f);
      x >>= 5;
      more = (c & 0x10) ? x != -1 : x != 0;
      if (more) c |= 0x20;
      out.push_back(static_cast<char>(c + 48));
    }
  }
}

std::string rle_to_string(const Rle& rle) {
  std::string out;
  out.reserve(rle.counts.size() * 2);
  rle_append_string(rle.counts.data(), rle.counts.size(), out);
  return out;
}

Rle rle_from_string(std::string_view bytes, int height, int width) {
  const uint64_t pixels = checked_pixels(height, width);
  Rle rle{height, width, {}};
  rle.counts.reserve(bytes.size());
  uint64_t sum = 0;
  std::size_t p = 0;
  while (p < bytes.size()) {
    int64_t x = 0;
    int shift = 0;
    for (bool more = true; more; ++p, shift += 5) {
      if (p == bytes.size()) fail("the counts end within a number");
      const int c = static_cast<unsigned char>(bytes[p]) - 48;
      if (c < 0 || c > 63) {
        fail("byte " + std::to_string(p) + " of the counts is not one of '0' to 'o'");
      }
      if (shift > 30) fail("a number in the counts is longer than 7 bytes");
      x |= static_cast<int64_t>(c & 0x1f) << shift;
      more = (c & 0x20) != 0;
      if (!more && (c & 0x10)) x -= int64_t{1} << (shift + 5);
    }
    if (rle.counts.size() > 2) x += rle.counts[rle.counts.size() - 2];
    if (x < 0) fail("run " + std::to_string(rle.counts.size()) + " is negative");
    sum += static_cast<uint64_t>(x);
    if (sum > pixels) fail_sum(sum, true, height, width);
    rle.counts.push_back(static_cast<uint32_t>(x));
  }
  if (sum != pixels) fail_sum(sum, false, height, width);
  return rle;
}

Rle rle_from_counts(const std::vector<int64_t>& counts, int height, int width) {
  const uint64_t pixels = checked_pixels(height, width);
  Rle rle{height, width, {}};
  rle.counts.reserve(counts.size());
  uint64_t sum = 0;
  for (int64_t count : counts) {
    if (count < 0) fail("run " + std::to_string(rle.counts.size()) + " is negative");
    if (static_cast<uint64_t>(count) > pixels - sum) fail_sum(sum, true, height, width);
    sum += static_cast<uint64_t>(count);
    rle.counts.push_back(static_cast<uint32_t>(count));
  }
  if (sum != pixels) fail_sum(sum, false, height, width);
  return rle;
}

uint64_t rle_area(const Rle& rle) {
  uint64_t area = 0;
  for (std::size_t i = 1; i < rle.counts.size(); i += 2) area += rle.counts[i];
  return area;
}

void rle_to_bbox(const Rle& rle, double bbox[4]) {
  bbox[0] = bbox[1] = bbox[2] = bbox[3] = 0;
  if (rle.height <= 0) return;
  const uint64_t h = static_cast<uint64_t>(rle.height);
  uint64_t x0 = UINT64_MAX, y0 = UINT64_MAX, x1 = 0, y1 = 0;
  for_each_run(rle, [&](uint64_t begin, uint64_t end) {
    const uint64_t last = end - 1;
    const uint64_t first_x = begin / h, last_x = last / h;
    x0 = std::min(x0, first_x);
    x1 = std::max(x1, last_x);
    // A run that goes on in the next column touches the last row of one and the first of the other.
    y0 = std::min(y0, first_x == last_x ? begin % h : 0);
    y1 = std::max(y1, first_x == last_x ? last % h : h - 1);
  });
  if (x0 == UINT64_MAX) return;
  bbox[0] = static_cast<double>(x0);
  bbox[1] = static_cast<double>(y0);
  bbox[2] = static_cast<double>(x1 - x0 + 1);
  bbox[3] = static_cast<double>(y1 - y0 + 1);
}

Rle rle_merge(const std::vector<Rle>& masks, bool intersect) {
  if (masks.empty()) return {0, 0, {0}};
  Rle merged = masks[0];
  for (std::size_t i = 1; i < masks.size(); ++i) {
    check_same_size(merged, masks[i]);
    RunBuilder runs;
    walk_pair(merged, masks[i],
              [&](uint32_t step, bool a, bool b) { runs.add(step, intersect ? a && b : a || b); });
    merged.counts = runs.finish();
  }
  return merged;
}

double rle_iou(const Rle& a, const Rle& b, bool crowd) {
  check_same_size(a, b);
  uint64_t both = 0, any = 0;
  walk_pair(a, b, [&](uint32_t step, bool in_a, bool in_b) {
    if (in_a && in_b) both += step;
    if (in_a || in_b) any += step;
  });
  if (both == 0) return 0;
  return static_cast<double>(both) / static_cast<double>(crowd ? rle_area(a) : any);
}

Rle rle_from_polygon(const std::vector<double>& xy, int height, int width) {
  const uint64_t pixels = checked_pixels(height, width);
  const std::size_t points = xy.size() / 2;
  for (double value : xy) {
    if (!(std::abs(value) <= kMaxCoordinate)) fail("a polygon coordinate is not within +-1e8");
  }
  const auto grid = [&](std::size_t i) { return static_cast<int>(kPolygonScale * xy[i] + .5); };

  // The fill changes where the border crosses the middle of a pixel column: between the abscissae
  // 5n+2 and 5n+3 of the fine grid. Only those samples of the border are computed, which bounds the
  // work by the edges and the width however far outside the polygon goes.
  std::vector<uint32_t> changes;
  for (std::size_t i = 0; i < points; ++i) {
    const std::size_t j = i + 1 == points ? 0 : i + 1;
    const Edge edge(grid(2 * i), grid(2 * i + 1), grid(2 * j), grid(2 * j + 1));
    const int low = std::min(edge.x0, edge.x1), high = std::max(edge.x0, edge.x1);
    const int first = std::max(0, (low - 2) / kPolygonScale - 1);
    const int last = std::min(width - 1, high / kPolygonScale);
    for (int column = first; column <= last; ++column) {
      const int t = edge.crossing(column * kPolygonScale + 2);
      if (t == 0) continue;
      double y = (std::min(edge.v(t - 1), edge.v(t)) + .5) / kPolygonScale - .5;
      y = std::ceil(std::clamp(y, 0., static_cast<double>(height)));
      if (changes.size() == kMostCrossings) {
        fail("the edges of a polygon cross more than " + std::to_string(kMostCrossings) +
             " pixel columns");
      }
      changes.push_back(static_cast<uint32_t>(column) * static_cast<uint32_t>(height) +
                        static_cast<uint32_t>(y));
    }
  }
  std::sort(changes.begin(), changes.end());

  RunBuilder runs;
  uint32_t position = 0;
  bool value = false;
  for (uint32_t change : changes) {
    if (change > position) runs.add(change - position, value);
    position = change;
    value = !value;
  }
  if (pixels > position) runs.add(static_cast<uint32_t>(pixels) - position, value);
  return {height, width, runs.finish()};
}

}  // namespace rfseg
