#include "core/coco_rle.h"
#include "rfseg/detections.h"

namespace rfseg {

std::vector<uint8_t> Mask::dense() const {
  return rle_decode(rle_from_string(counts, height, width));
}

uint64_t Mask::area() const { return rle_area(rle_from_string(counts, height, width)); }

}  // namespace rfseg
