#include "output/overlay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/coco_rle.h"
#include "output/label_layout.h"
#include "output/mask_painter.h"
#include "output/results.h"
#include "output/text_painter.h"

namespace rfseg {
namespace {

using Color = std::array<uint8_t, 3>;

double relative_luminance(const Color& color) {
  const auto linear = [](uint8_t value) {
    const double v = value / 255.;
    return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
  };
  return 0.2126 * linear(color[0]) + 0.7152 * linear(color[1]) + 0.0722 * linear(color[2]);
}

/// Sizes in pixels for a picture of some size.
struct Sizes {
  int text, line, padding;

  Sizes(int width, int height) {
    const double side = std::sqrt(static_cast<double>(width) * height);
    text = std::clamp(static_cast<int>(std::lround(side * 0.018)), 11, 96);
    line = std::clamp(static_cast<int>(std::lround(side / 900)), 1, 6);
    padding = std::max(3, text / 3);
  }
};

void blend_pixel(uint8_t* pixel, const Color& color, int alpha) {
  for (int c = 0; c < 3; ++c) {
    pixel[c] = static_cast<uint8_t>((pixel[c] * (255 - alpha) + color[c] * alpha + 127) / 255);
  }
}

void fill_rect(Image& image, PixelRect rect, const Color& color, int alpha) {
  const int x1 = std::min(rect.x + rect.width, image.width);
  const int y1 = std::min(rect.y + rect.height, image.height);
  for (int y = std::max(rect.y, 0); y < y1; ++y) {
    for (int x = std::max(rect.x, 0); x < x1; ++x) {
      blend_pixel(&image.pixels[(static_cast<std::size_t>(y) * image.width + x) * 3], color, alpha);
    }
  }
}

/// The outline of a box, `line` * 2 pixels wide, drawn inside it.
void draw_box(Image& image, const float* box, const Color& color, int line) {
  const int x0 = static_cast<int>(std::lround(box[0])), y0 = static_cast<int>(std::lround(box[1]));
  const int x1 = static_cast<int>(std::lround(box[2])), y1 = static_cast<int>(std::lround(box[3]));
  const int width = x1 - x0, height = y1 - y0;
  const int edge = std::min({2 * line, (width + 1) / 2, (height + 1) / 2});
  fill_rect(image, {x0, y0, width, edge}, color, 240);
  fill_rect(image, {x0, y1 - edge, width, edge}, color, 240);
  fill_rect(image, {x0, y0 + edge, edge, height - 2 * edge}, color, 240);
  fill_rect(image, {x1 - edge, y0 + edge, edge, height - 2 * edge}, color, 240);
}

/// A plate with rounded corners; `rect` lies inside the picture.
void draw_plate(Image& image, const PixelRect& rect, const Color& color) {
  const double radius = std::min(rect.height, rect.width) / 4.;
  for (int y = 0; y < rect.height; ++y) {
    const double dy = std::max({radius - (y + 0.5), (y + 0.5) - (rect.height - radius), 0.});
    uint8_t* row = &image.pixels[(static_cast<std::size_t>(rect.y + y) * image.width + rect.x) * 3];
    for (int x = 0; x < rect.width; ++x) {
      const double dx = std::max({radius - (x + 0.5), (x + 0.5) - (rect.width - radius), 0.});
      double coverage = 1;
      if (dx > 0 && dy > 0) coverage = std::clamp(radius + 0.5 - std::hypot(dx, dy), 0., 1.);
      blend_pixel(row + x * 3, color, static_cast<int>(coverage * 235));
    }
  }
}

/// Middle column of the mask's first row, in which a label above the object touches it.
int peak_column(const Rle& mask, int first_row) {
  uint64_t position = 0;
  int64_t sum = 0, count = 0;
  const auto h = static_cast<uint64_t>(mask.height);
  for (std::size_t i = 0; i < mask.counts.size(); ++i) {
    if ((i & 1) && mask.counts[i] > 0 && static_cast<int>(position % h) == first_row) {
      sum += static_cast<int64_t>(position / h);
      ++count;
    }
    position += mask.counts[i];
  }
  return count > 0 ? static_cast<int>(sum / count) : -1;
}

std::string label_text(const Detection& detection, const std::vector<std::string>& class_names) {
  return fmt::format("{} {:.2f}", class_name(class_names, detection.class_id), detection.score);
}

}  // namespace

void draw_detections(Image& image, const Detections& detections,
                     const std::vector<std::string>& class_names) {
  if (image.empty()) return;
  const Sizes sizes(image.width, image.height);
  const auto& items = detections.items;
  MaskPainter masks;
  TextPainter& text = TextPainter::for_thread();
  text.set_size(sizes.text);
  const int label_height = text.ascent() + text.descent() / 2 + 2 * (sizes.padding * 2 / 3);

  std::vector<LabelRequest> labels(items.size());
  for (std::size_t i = items.size(); i-- > 0;) {  // the best score comes last, on top
    const Detection& item = items[i];
    const float* box = item.box_xyxy;
    LabelRequest& label = labels[i];
    label.object = {static_cast<int>(box[0]), static_cast<int>(box[1]),
                    static_cast<int>(box[2] - box[0]), static_cast<int>(box[3] - box[1])};
    label.peak_x = label.object.x;
    label.width = text.width(label_text(item, class_names)) + 2 * sizes.padding;
    label.height = label_height;
    const Color color = class_color(item.class_id);
    if (!item.mask) {
      draw_box(image, box, color, sizes.line);
      continue;
    }
    const Rle mask = rle_from_string(item.mask->counts, item.mask->height, item.mask->width);
    double extent[4];
    rle_to_bbox(mask, extent);
    if (extent[2] > 0) {
      label.object = {static_cast<int>(extent[0]), static_cast<int>(extent[1]),
                      static_cast<int>(extent[2]), static_cast<int>(extent[3])};
      label.peak_x = peak_column(mask, label.object.y);
    }
    masks.paint(image, mask, color, sizes.line);
  }

  const auto places = place_labels(labels, image.width, image.height);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!places[i]) continue;
    const Color color = class_color(items[i].class_id);
    const Color ink = relative_luminance(color) > 0.25 ? Color{16, 16, 20} : Color{255, 255, 255};
    draw_plate(image, *places[i], color);
    text.draw(image, places[i]->x + sizes.padding,
              places[i]->y + (places[i]->height + text.ascent()) / 2,
              label_text(items[i], class_names), ink);
  }
}

}  // namespace rfseg
