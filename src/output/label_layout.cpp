#include "output/label_layout.h"

#include <algorithm>
#include <cstdlib>

namespace rfseg {
namespace {

/// How many label heights away from its object a label may go.
constexpr int kMaxSteps = 6;

class Layout {
 public:
  Layout(int width, int height) : width_(width), height_(height) {}

  std::optional<PixelRect> place(const LabelRequest& request) {
    if (request.width > width_ || request.height > height_) return std::nullopt;
    const PixelRect& object = request.object;
    const int right = object.x + object.width - request.width;
    const int bottom = object.y + object.height;
    const int above = object.y - request.height;
    const int peak = std::clamp(request.peak_x - request.width / 2, std::min(object.x, right),
                                std::max(object.x, right));
    const int middle = object.x + (object.width - request.width) / 2;
    const int half = object.y + (object.height - request.height) / 2;
    const int preferred[][2] = {
        {peak, above},        {object.x, above},  {right, above}, {peak, object.y},
        {object.x, object.y}, {right, object.y},  {middle, half}, {middle, bottom - request.height},
        {middle, bottom},     {object.x, bottom}, {right, bottom}};
    for (const auto& [x, y] : preferred) {
      if (const auto rect = try_at(x, y, request)) return rect;
    }
    for (int ring = 1; ring <= kMaxSteps; ++ring) {
      for (int dy = -ring; dy <= ring; ++dy) {
        const int step = std::abs(dy) == ring ? 1 : 2 * ring;  // the ring's outline alone
        for (int dx = -ring; dx <= ring; dx += step) {
          const int x = peak + dx * (request.width / 2 + 1);
          if (const auto rect = try_at(x, above + dy * (request.height + 1), request)) return rect;
        }
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<PixelRect> try_at(int x, int y, const LabelRequest& request) {
    const PixelRect rect{std::clamp(x, 0, width_ - request.width),
                         std::clamp(y, 0, height_ - request.height), request.width, request.height};
    for (const PixelRect& other : taken_) {
      if (rect.overlaps(other)) return std::nullopt;
    }
    taken_.push_back(rect);
    return rect;
  }

  int width_, height_;
  std::vector<PixelRect> taken_;
};

}  // namespace

std::vector<std::optional<PixelRect>> place_labels(const std::vector<LabelRequest>& requests,
                                                   int width, int height) {
  Layout layout(width, height);
  std::vector<std::optional<PixelRect>> places;
  for (const LabelRequest& request : requests) places.push_back(layout.place(request));
  return places;
}

}  // namespace rfseg
