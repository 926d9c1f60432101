#include "output/overlay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "output/label_layout.h"
#include "output/mask_painter.h"
#include "output/text_painter.h"
#include "test_data.h"

namespace rfseg {
namespace {

using Color = std::array<uint8_t, 3>;

Image grey_image(int width, int height, uint8_t value = 100) {
  Image image(width, height);
  std::fill(image.pixels.begin(), image.pixels.end(), value);
  return image;
}

Color pixel(const Image& image, int x, int y) {
  const uint8_t* p = &image.pixels[(static_cast<std::size_t>(y) * image.width + x) * 3];
  return {p[0], p[1], p[2]};
}

/// The mask painter's formula in plain floating point: a box of 2r+1 applied twice both ways, then
/// fill and line by the blurred level.
Color expected_pixel(const std::vector<uint8_t>& mask, int width, int height, int x, int y, int r,
                     const Color& background, const Color& color) {
  double level = 0;
  const double n = 2 * r + 1;
  for (int dy = -2 * r; dy <= 2 * r; ++dy) {
    for (int dx = -2 * r; dx <= 2 * r; ++dx) {
      const int mx = x + dx, my = y + dy;
      if (mx < 0 || my < 0 || mx >= width || my >= height) continue;
      if (mask[static_cast<std::size_t>(my) * width + mx] == 0) continue;
      level += (n - std::abs(dx)) * (n - std::abs(dy)) / (n * n * n * n);
    }
  }
  const double line = 0.95 * std::clamp((0.42 - std::abs(level - 0.5)) / 0.2, 0., 1.);
  const double fill = 0.40 * std::clamp((level - 0.3) / 0.4, 0., 1.);
  Color out;
  for (int c = 0; c < 3; ++c) {
    const double filled = background[c] * (1 - fill) + color[c] * fill;
    out[c] = static_cast<uint8_t>(std::lround(filled * (1 - line) + color[c] * line));
  }
  return out;
}

TEST(MaskPainter, FillAndLineFollowTheFormula) {
  const int width = 61, height = 47;
  std::mt19937 random(3);
  for (int radius = 1; radius <= 6; ++radius) {
    std::vector<uint8_t> dense(static_cast<std::size_t>(width) * height);
    for (int blob = 0; blob < 4; ++blob) {  // some of them cut by the picture's edge
      const int cx = static_cast<int>(random() % width), cy = static_cast<int>(random() % height);
      const int size = 3 + static_cast<int>(random() % 14);
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          if (std::abs(x - cx) + std::abs(y - cy) <= size) dense[y * width + x] = 1;
        }
      }
    }
    Image image = grey_image(width, height, 60);
    const Color color = {240, 30, 120};
    MaskPainter().paint(image, rle_encode(dense.data(), height, width), color, radius);
    int worst = 0;
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const Color got = pixel(image, x, y);
        const Color want = expected_pixel(dense, width, height, x, y, radius, {60, 60, 60}, color);
        for (int c = 0; c < 3; ++c) worst = std::max(worst, std::abs(got[c] - want[c]));
      }
    }
    // Levels are rounded to 1/256, where the line's edge has a slope of 5.
    EXPECT_LE(worst, 6) << "radius " << radius;
  }
}

TEST(MaskPainter, EmptyAndFullMasks) {
  Image image = grey_image(20, 10);
  const Image before = image;
  std::vector<uint8_t> dense(200, 0);
  MaskPainter painter;
  painter.paint(image, rle_encode(dense.data(), 10, 20), {255, 0, 0}, 1);
  EXPECT_EQ(image.pixels, before.pixels);
  std::fill(dense.begin(), dense.end(), static_cast<uint8_t>(1));
  painter.paint(image, rle_encode(dense.data(), 10, 20), {255, 0, 0}, 1);
  EXPECT_EQ(pixel(image, 10, 5)[0], 162);  // 100 * 0.6 + 255 * 0.4
  EXPECT_EQ(pixel(image, 10, 5)[1], 60);
}

TEST(MaskPainter, MaskLargerThanThePictureIsClipped) {
  Image image = grey_image(20, 10);
  const std::vector<uint8_t> dense(40 * 30, 1);
  MaskPainter().paint(image, rle_encode(dense.data(), 30, 40), {255, 0, 0}, 6);
  EXPECT_EQ(image.pixels.size(), 20u * 10 * 3);
  EXPECT_NE(pixel(image, 19, 9), (Color{100, 100, 100}));
}

TEST(LabelLayout, LabelsDoNotOverlapAndStayInside) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const int width = 200 + static_cast<int>(random() % 1000);
    const int height = 150 + static_cast<int>(random() % 700);
    std::vector<LabelRequest> requests(1 + random() % 80);
    for (LabelRequest& request : requests) {
      request.object = {static_cast<int>(random() % width), static_cast<int>(random() % height),
                        static_cast<int>(random() % 200), static_cast<int>(random() % 200)};
      request.peak_x = request.object.x;
      request.width = 40 + static_cast<int>(random() % 100);
      request.height = 18;
    }
    const auto places = place_labels(requests, width, height);
    ASSERT_EQ(places.size(), requests.size());
    std::size_t placed = 0;
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (!places[i]) continue;
      ++placed;
      EXPECT_GE(places[i]->x, 0);
      EXPECT_GE(places[i]->y, 0);
      EXPECT_LE(places[i]->x + places[i]->width, width);
      EXPECT_LE(places[i]->y + places[i]->height, height);
      for (std::size_t j = 0; j < i; ++j) {
        EXPECT_FALSE(places[j] && places[i]->overlaps(*places[j]));
      }
    }
    EXPECT_GE(placed, std::min<std::size_t>(requests.size(), 8));
  }
}

TEST(LabelLayout, FirstChoiceIsAboveTheObject) {
  const auto places = place_labels({{{50, 60, 40, 40}, 70, 30, 12}}, 200, 200);
  ASSERT_TRUE(places[0]);
  EXPECT_EQ(places[0]->x, 55);  // centred on the peak
  EXPECT_EQ(places[0]->y, 48);
  EXPECT_FALSE(place_labels({{{0, 0, 5, 5}, 0, 30, 12}}, 20, 20)[0]);  // larger than the picture
}

TEST(TextPainter, MeasuresAndDrawsInsideThePicture) {
  TextPainter& text = TextPainter::for_thread();
  text.set_size(20);
  EXPECT_GT(text.width("mmm"), text.width("iii"));
  EXPECT_EQ(text.width(""), 0);
  EXPECT_GT(text.ascent(), 10);
  Image image = grey_image(100, 40, 0);
  text.draw(image, 10, 30, "Ag", {255, 255, 255});
  int inked = 0;
  for (int y = 0; y < 40; ++y) {
    for (int x = 0; x < 100; ++x) {
      if (pixel(image, x, y)[0] == 0) continue;
      ++inked;
      EXPECT_GE(x, 9);
      EXPECT_LE(x, 10 + text.width("Ag"));
      EXPECT_GE(y, 30 - text.ascent() - 1);
      EXPECT_LT(y, 30 + text.descent());
    }
  }
  EXPECT_GT(inked, 60);
  text.draw(image, -30, 5, "cut off on every side \xff 猫 ß Ж", {255, 0, 0});
  text.draw(image, 90, 45, "WWWW", {255, 0, 0});
}

/// CIE 1976 L*a*b* under D65.
std::array<double, 3> lab(const Color& color) {
  double linear[3];
  for (int c = 0; c < 3; ++c) {
    const double v = color[c] / 255.;
    linear[c] = v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
  }
  const auto f = [](double t) {
    return t > 216. / 24389 ? std::cbrt(t) : (24389. / 27 * t + 16) / 116;
  };
  const auto& [r, g, b] = linear;
  const double x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
  const double y = f(0.2126729 * r + 0.7151522 * g + 0.0721750 * b);
  const double z = f((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883);
  return {116 * y - 16, 500 * (x - y), 200 * (y - z)};
}

double color_difference(int a, int b) {
  const auto first = lab(class_color(a)), second = lab(class_color(b));
  return std::hypot(first[0] - second[0], first[1] - second[1], first[2] - second[2]);
}

TEST(Overlay, ColoursAreFixed) {
  // Pinned: they must not change between versions.
  EXPECT_EQ(class_color(0), (Color{82, 169, 254}));
  EXPECT_EQ(class_color(1), (Color{233, 81, 71}));
  EXPECT_EQ(class_color(2), (Color{81, 218, 167}));
  EXPECT_EQ(class_color(90), (Color{8, 182, 175}));
  // Ids past the table, and a negative one that should never come, have a colour too.
  EXPECT_EQ(class_color(96), class_color(0));
  class_color(-1);
  class_color(std::numeric_limits<int>::max());
}

TEST(Overlay, ColoursOfClassesThatAppearTogetherAreFarApart) {
  for (int a = 0; a < 96; ++a) {
    for (int b = 0; b < a; ++b)
      EXPECT_GT(color_difference(a, b), a < 12 ? 34 : 14) << a << " " << b;
  }
  const auto instances =
      nlohmann::json::parse(read_text(RFSEG_SOURCE_DIR "/assets/demo/instances.json"));
  std::map<int64_t, std::set<int>> pictures;
  std::set<int> all;
  for (const auto& entry : instances["annotations"]) {
    pictures[entry["image_id"].get<int64_t>()].insert(entry["category_id"].get<int>());
    all.insert(entry["category_id"].get<int>());
  }
  EXPECT_EQ(all.size(), 48u);
  for (const int a : all) {
    for (const int b : all) {
      if (b >= a) continue;
      EXPECT_GT(color_difference(a, b), b == 1 ? 34 : 16) << a << " and " << b;
    }
  }
  std::size_t pairs = 0;
  for (const auto& [id, classes] : pictures) {
    for (const int a : classes) {
      for (const int b : classes) {
        if (b >= a) continue;
        EXPECT_GT(color_difference(a, b), 37) << a << " and " << b << " in picture " << id;
        ++pairs;
      }
    }
  }
  EXPECT_GT(pairs, 200u);
}

Detections two_squares() {
  Detections found;
  found.width = 320;
  found.height = 240;
  found.items = {detection(1, 0.9f, 100, 100, 200, 200, box_mask(240, 320, 100, 100, 200, 200)),
                 detection(2, 0.5f, 100, 100, 200, 200, box_mask(240, 320, 100, 100, 200, 200))};
  return found;
}

TEST(Overlay, BestScoreIsDrawnLast) {
  Image image = grey_image(320, 240);
  draw_detections(image, two_squares(), {});
  const Color under = class_color(2), over = class_color(1);
  // Near the lower right corner of the masks, where no label is.
  const Color got = pixel(image, 190, 190);
  for (int c = 0; c < 3; ++c) {
    const double first = 100 * 0.6 + under[c] * 0.4;
    EXPECT_NEAR(got[c], first * 0.6 + over[c] * 0.4, 3);
  }
  EXPECT_EQ(pixel(image, 250, 220), (Color{100, 100, 100}));
  for (int c = 0; c < 3; ++c) EXPECT_NEAR(pixel(image, 200, 190)[c], over[c], 12);  // the outline
}

TEST(Overlay, BoxesStandInForMasks) {
  Detections found = two_squares();
  for (Detection& item : found.items) item.mask = nullptr;
  Image image = grey_image(320, 240);
  draw_detections(image, found, {});
  EXPECT_EQ(pixel(image, 150, 180), (Color{100, 100, 100}));
  for (int c = 0; c < 3; ++c) EXPECT_NEAR(pixel(image, 199, 180)[c], class_color(1)[c], 12);
}

TEST(Overlay, SameBytesEveryTimeAndOnEveryThread) {
  std::vector<Image> images(4, grey_image(320, 240));
  std::vector<std::thread> threads;
  for (Image& image : images) {
    threads.emplace_back([&image] {
      draw_detections(image, two_squares(), {"", "person", "cat"});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Image& image : images) EXPECT_EQ(image.pixels, images[0].pixels);
  EXPECT_NE(images[0].pixels, grey_image(320, 240).pixels);
}

TEST(Overlay, OddSizesAndCrowds) {
  std::mt19937 random(2);
  for (const auto& [width, height] :
       {std::pair(1, 1), std::pair(2, 300), std::pair(300, 2), std::pair(33, 31),
        std::pair(640, 480), std::pair(4000, 50)}) {
    Detections found;
    found.width = width;
    found.height = height;
    for (int i = 0; i < 60; ++i) {
      int x[2] = {static_cast<int>(random() % (width + 1)),
                  static_cast<int>(random() % (width + 1))};
      int y[2] = {static_cast<int>(random() % (height + 1)),
                  static_cast<int>(random() % (height + 1))};
      std::sort(x, x + 2);
      std::sort(y, y + 2);
      auto mask = i % 3 == 0 ? nullptr : box_mask(height, width, x[0], y[0], x[1], y[1]);
      found.items.push_back(detection(i, 0.5f, static_cast<float>(x[0]), static_cast<float>(y[0]),
                                      static_cast<float>(x[1]), static_cast<float>(y[1]), mask));
    }
    Image image = grey_image(width, height);
    draw_detections(image, found, {"a class with a long name"});
    EXPECT_EQ(image.width, width);
    draw_detections(image, {}, {});
  }
  Image empty;
  draw_detections(empty, {}, {});
  EXPECT_TRUE(empty.empty());
}

}  // namespace
}  // namespace rfseg
