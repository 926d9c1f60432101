#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/coco_rle.h"
#include "rfseg/image.h"

namespace rfseg {

/// Paints a mask as a translucent fill with a soft-edged outline. The work is proportional to the
/// mask's bounding box. Keeps its buffers between calls.
class MaskPainter {
 public:
  /// `radius` 1..6: the outline is about 2 * radius pixels wide, centred on the mask's border. What
  /// lies outside the picture is left out.
  void paint(Image& image, const Rle& mask, std::array<uint8_t, 3> color, int radius);

 private:
  void rasterise(const Rle& mask);
  void blur_rows(int row_begin, int row_end);
  void blend_row(uint8_t* pixels, const uint16_t* levels, int count);

  /// keep * background + add, /256, for each level of the blurred mask.
  struct Blend {
    uint16_t keep;
    uint16_t add[3];
  };

  int radius_ = 1;
  int left_ = 0, top_ = 0;      ///< picture coordinates of the buffers' first pixel
  int columns_ = 0, rows_ = 0;  ///< of the buffers: the bounding box with a margin
  std::vector<uint8_t> mask_;   ///< 0 or 1, then blurred along rows, 0..(2r+1)^2
  std::vector<uint8_t> line_;
  std::vector<uint16_t> once_;    ///< blurred along columns once
  std::vector<uint16_t> levels_;  ///< one row blurred twice both ways, 0..(2r+1)^4
  std::vector<uint16_t> fill_;    ///< `add` of the inside, repeated
  std::array<Blend, 257> blends_{};
  uint32_t full_ = 1;  ///< the level of the inside
};

}  // namespace rfseg
