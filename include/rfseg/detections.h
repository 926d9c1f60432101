#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rfseg/export.h"

namespace rfseg {

/// A binary mask as column-major run lengths (COCO): runs alternate background, foreground,
/// starting with background (a leading 0 when the first pixel is set). The last run is never empty:
/// a mask without a set pixel is `[height*width]`, a full one `[0, height*width]`.
struct RFSEG_API Mask {
  int height = 0;
  int width = 0;
  std::string counts;  ///< compressed COCO bytes, equal to pycocotools.mask.encode

  /// Row-major [height, width] uint8, 0 or 1. Throws Error(kInput) if `counts` does not describe
  /// exactly height*width pixels.
  std::vector<uint8_t> dense() const;
  /// Foreground pixels.
  uint64_t area() const;
  /// Outer contours as COCO polygons [x0,y0,x1,y1,...], as OpenCV's RETR_EXTERNAL with
  /// CHAIN_APPROX_SIMPLE finds them, every component.
  std::vector<std::vector<float>> polygons() const;
};

/// One detected object.
struct Detection {
  int class_id = 0;
  float score = 0;                   ///< sigmoid of the logit, 0..1
  float box_xyxy[4] = {};            ///< pixels of the picture, clipped to it
  int query = 0;                     ///< network query it came from
  std::shared_ptr<const Mask> mask;  ///< null without masks; shared by the classes of one query
};

/// The detections of one picture, by descending score, equal scores by ascending query*K + class.
struct Detections {
  int width = 0;   ///< picture, pixels
  int height = 0;  ///< picture, pixels
  std::vector<Detection> items;
};

}  // namespace rfseg
