#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/coco_rle.h"
#include "rfseg/detections.h"

// Outer borders by border following (S. Suzuki, K. Abe: Topological structural analysis of
// digitized binary images by border following, 1985), for the outermost borders alone and
// 8-connected components, with runs of equal steps joined. Components inside a hole of another are
// not outermost.

namespace rfseg {
namespace {

// Labels of a pixel. kRightBorder: on a border whose right neighbour was found to be outside.
constexpr int8_t kBackground = 0;
constexpr int8_t kUnseen = 1;
constexpr int8_t kBorder = 2;
constexpr int8_t kRightBorder = -2;

/// Directions counter-clockwise in the picture, from east.
constexpr int kEast = 8;  // as a wrapped 0
constexpr int kWest = 4;
constexpr int kStepX[8] = {1, 1, 0, -1, -1, -1, 0, 1};
constexpr int kStepY[8] = {0, -1, -1, -1, 0, 1, 1, 1};

/// The foreground's bounding box with a frame of background around it.
class LabelImage {
 public:
  explicit LabelImage(const Rle& rle) {
    double box[4];
    rle_to_bbox(rle, box);
    x0_ = static_cast<int>(box[0]);
    y0_ = static_cast<int>(box[1]);
    width_ = static_cast<int>(box[2]);
    height_ = static_cast<int>(box[3]);
    stride_ = static_cast<std::ptrdiff_t>(width_) + 2;
    labels_.assign(static_cast<std::size_t>(stride_) * (static_cast<std::size_t>(height_) + 2),
                   kBackground);
    for (int d = 0; d < 8; ++d) offset_[d] = kStepY[d] * stride_ + kStepX[d];
    std::size_t position = 0;
    const std::size_t rows = static_cast<std::size_t>(rle.height);
    for (std::size_t i = 0; i < rle.counts.size(); ++i) {
      const std::size_t next = position + rle.counts[i];
      if (i % 2 == 1) fill(position, next, rows);
      position = next;
    }
  }

  std::vector<std::vector<float>> outer_borders() {
    std::vector<std::vector<float>> borders;
    for (int y = 0; y < height_; ++y) {
      int8_t* row = labels_.data() + (y + 1) * stride_ + 1;
      int8_t last_border = kBackground;  // label of the last border pixel passed in this row
      for (int x = 0; x < width_; ++x) {
        if (row[x] == kBackground) continue;
        if (row[x] == kUnseen && row[x - 1] == kBackground && last_border <= 0) {
          borders.push_back(follow(x, y));
        }
        if (row[x] != kUnseen) last_border = row[x];
      }
    }
    std::reverse(borders.begin(), borders.end());  // OpenCV lists the last found first
    return borders;
  }

 private:
  void fill(std::size_t from, std::size_t to, std::size_t rows) {
    while (from < to) {
      const std::size_t x = from / rows, y = from % rows;
      const std::size_t n = std::min(to - from, rows - y);
      int8_t* p = labels_.data() + (static_cast<std::ptrdiff_t>(y) - y0_ + 1) * stride_ +
                  (static_cast<std::ptrdiff_t>(x) - x0_ + 1);
      for (std::size_t k = 0; k < n; ++k, p += stride_) *p = kUnseen;
      from += n;
    }
  }

  std::vector<float> follow(int x, int y) {
    std::vector<float> points;
    const auto emit = [&] {
      points.push_back(static_cast<float>(x + x0_));
      points.push_back(static_cast<float>(y + y0_));
    };
    int8_t* const start = labels_.data() + (y + 1) * stride_ + (x + 1);
    int from = kWest;  // clockwise from the west, which is background
    do {
      from = (from - 1) & 7;
    } while (from != kWest && start[offset_[from]] == kBackground);
    if (from == kWest) {  // a component of one pixel
      *start = kRightBorder;
      emit();
      return points;
    }
    int8_t* const last = start + offset_[from];
    int8_t* current = start;
    int arrived = (from + 4) & 7;  // direction of the step that led to `current`
    while (true) {
      int d = from + 1;  // counter-clockwise from the pixel before
      while (current[offset_[d & 7]] == kBackground) ++d;
      if (d > kEast) {
        *current = kRightBorder;  // the east was looked at and is background
      } else if (*current == kUnseen) {
        *current = kBorder;
      }
      d &= 7;
      if (d != arrived) emit();
      arrived = d;
      int8_t* const next = current + offset_[d];
      if (next == start && current == last) return points;
      x += kStepX[d];
      y += kStepY[d];
      current = next;
      from = (d + 4) & 7;
    }
  }

  int x0_ = 0, y0_ = 0, width_ = 0, height_ = 0;
  std::ptrdiff_t stride_ = 0;
  std::ptrdiff_t offset_[8] = {};
  std::vector<int8_t> labels_;
};

}  // namespace

std::vector<std::vector<float>> Mask::polygons() const {
  const Rle rle = rle_from_string(counts, height, width);
  if (rle_area(rle) == 0) return {};
  return LabelImage(rle).outer_borders();
}

}  // namespace rfseg
