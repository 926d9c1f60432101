#pragma once

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "core/coco_rle.h"
#include "core/temporary_folder.h"
#include "rfseg/detections.h"

namespace rfseg {

using test::TemporaryFolder;

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A mask of `height` x `width` whose pixels in [x0,x1) x [y0,y1) are set.
inline std::shared_ptr<const Mask> box_mask(int height, int width, int x0, int y0, int x1, int y1) {
  std::vector<uint8_t> dense(static_cast<std::size_t>(height) * width);
  for (int y = y0; y < y1; ++y) {
    for (int x = x0; x < x1; ++x) dense[static_cast<std::size_t>(y) * width + x] = 1;
  }
  auto mask = std::make_shared<Mask>();
  mask->height = height;
  mask->width = width;
  mask->counts = rle_to_string(rle_encode(dense.data(), height, width));
  return mask;
}

inline Detection detection(int class_id, float score, float x0, float y0, float x1, float y1,
                           std::shared_ptr<const Mask> mask = nullptr) {
  Detection out;
  out.class_id = class_id;
  out.score = score;
  out.box_xyxy[0] = x0;
  out.box_xyxy[1] = y0;
  out.box_xyxy[2] = x1;
  out.box_xyxy[3] = y1;
  out.mask = std::move(mask);
  return out;
}

}  // namespace rfseg
