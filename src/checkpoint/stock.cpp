// The published RF-DETR sizes. Source: roboflow/rf-detr 1.11.2, rfdetr/config.py.

#include <fmt/format.h>

#include "checkpoint/checkpoint.h"
#include "core/nearest_word.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

struct Stock {
  const char* name;
  int resolution, patch, pos_grid, windows;
  bool base_encoder;  // ViT-B, else ViT-S
  bool even_taps;     // 3, 6, 9, 12, else 2, 5, 8, 11
  int dec_layers, queries, dim, points;
  bool seg;
};

constexpr Stock kStock[] = {
    {"nano", 384, 16, 24, 2, false, true, 2, 300, 256, 2, false},
    {"small", 512, 16, 32, 2, false, true, 3, 300, 256, 2, false},
    {"medium", 576, 16, 36, 2, false, true, 4, 300, 256, 2, false},
    {"base", 560, 14, 37, 4, false, false, 3, 300, 256, 2, false},
    {"large", 704, 16, 44, 2, false, true, 4, 300, 256, 2, false},
    {"large-deprecated", 560, 14, 37, 4, true, false, 3, 300, 384, 4, false},
    {"xlarge", 700, 20, 35, 1, true, true, 5, 300, 512, 4, false},
    {"2xlarge", 880, 20, 44, 2, true, true, 5, 300, 512, 4, false},
    {"seg-preview", 432, 12, 36, 2, false, true, 4, 200, 256, 2, true},
    {"seg-nano", 312, 12, 26, 1, false, true, 4, 100, 256, 2, true},
    {"seg-small", 384, 12, 32, 2, false, true, 4, 100, 256, 2, true},
    {"seg-medium", 432, 12, 36, 2, false, true, 5, 200, 256, 2, true},
    {"seg-large", 504, 12, 42, 2, false, true, 5, 200, 256, 2, true},
    {"seg-xlarge", 624, 12, 52, 2, false, true, 6, 300, 256, 2, true},
    {"seg-2xlarge", 768, 12, 64, 2, false, true, 6, 300, 256, 2, true},
};

}  // namespace

const std::vector<std::string>& stock_variants() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Stock& stock : kStock) all.emplace_back(stock.name);
    return all;
  }();
  return names;
}

ModelConfig stock_config(const std::string& variant) {
  for (const Stock& stock : kStock) {
    if (variant != stock.name) continue;
    ModelConfig config;
    config.variant = stock.name;
    config.height = config.width = stock.resolution;
    config.patch = stock.patch;
    config.pos_grid = stock.pos_grid;
    config.windows = stock.windows;
    config.enc_dim = stock.base_encoder ? 768 : 384;
    config.enc_heads = config.enc_dim / 64;
    config.taps = stock.even_taps ? std::vector<int>{3, 6, 9, 12} : std::vector<int>{2, 5, 8, 11};
    config.enc_layers = config.taps.back();
    config.dec_layers = stock.dec_layers;
    config.queries = config.num_select = stock.queries;
    config.dim = stock.dim;
    config.sa_heads = stock.dim / 32;
    config.ca_heads = stock.dim / 16;
    config.points = stock.points;
    const bool two_levels = variant == "large-deprecated";
    config.levels =
        two_levels ? std::vector<Level>{Level::kP3, Level::kP5} : std::vector<Level>{Level::kP4};
    config.seg = stock.seg;
    config.logits = 91;
    config.class_names = coco_class_names();
    return config;
  }
  throw Error(ErrorCode::kUsage, fmt::format("unknown variant '{}'{}; accepted: {}", variant,
                                             did_you_mean(variant, stock_variants()),
                                             fmt::join(stock_variants(), ", ")));
}

const std::vector<std::string>& coco_class_names() {
  // Ids 12, 26, 29, 30, 45, 66, 68, 69, 71 and 83 were never used.
  static const std::vector<std::string> names = {"",
                                                 "person",
                                                 "bicycle",
                                                 "car",
                                                 "motorcycle",
                                                 "airplane",
                                                 "bus",
                                                 "train",
                                                 "truck",
                                                 "boat",
                                                 "traffic light",
                                                 "fire hydrant",
                                                 "",
                                                 "stop sign",
                                                 "parking meter",
                                                 "bench",
                                                 "bird",
                                                 "cat",
                                                 "dog",
                                                 "horse",
                                                 "sheep",
                                                 "cow",
                                                 "elephant",
                                                 "bear",
                                                 "zebra",
                                                 "giraffe",
                                                 "",
                                                 "backpack",
                                                 "umbrella",
                                                 "",
                                                 "",
                                                 "handbag",
                                                 "tie",
                                                 "suitcase",
                                                 "frisbee",
                                                 "skis",
                                                 "snowboard",
                                                 "sports ball",
                                                 "kite",
                                                 "baseball bat",
                                                 "baseball glove",
                                                 "skateboard",
                                                 "surfboard",
                                                 "tennis racket",
                                                 "bottle",
                                                 "",
                                                 "wine glass",
                                                 "cup",
                                                 "fork",
                                                 "knife",
                                                 "spoon",
                                                 "bowl",
                                                 "banana",
                                                 "apple",
                                                 "sandwich",
                                                 "orange",
                                                 "broccoli",
                                                 "carrot",
                                                 "hot dog",
                                                 "pizza",
                                                 "donut",
                                                 "cake",
                                                 "chair",
                                                 "couch",
                                                 "potted plant",
                                                 "bed",
                                                 "",
                                                 "dining table",
                                                 "",
                                                 "",
                                                 "toilet",
                                                 "",
                                                 "tv",
                                                 "laptop",
                                                 "mouse",
                                                 "remote",
                                                 "keyboard",
                                                 "cell phone",
                                                 "microwave",
                                                 "oven",
                                                 "toaster",
                                                 "sink",
                                                 "refrigerator",
                                                 "",
                                                 "book",
                                                 "clock",
                                                 "vase",
                                                 "scissors",
                                                 "teddy bear",
                                                 "hair drier",
                                                 "toothbrush"};
  return names;
}

}  // namespace rfseg
