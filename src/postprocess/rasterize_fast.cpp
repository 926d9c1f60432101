#include <algorithm>
#include <cmath>
#include <vector>

#include "core/coco_rle.h"
#include "postprocess/rasterize.h"

namespace rfseg {
namespace {

/// Owns the arrays of an AxisTable.
class AxisStorage {
 public:
  AxisStorage(const AxisMap& map, const Kernels& kernels) {
    table_.map = map;
    const std::size_t n = static_cast<std::size_t>(std::max(0, map.end - map.begin));
    const std::size_t padded = n + 1 + kAxisPadding;
    const bool plain = map.sampling == Sampling::kPlain;
    integers_.resize(static_cast<std::size_t>(map.cells) + 1 + n * (plain ? 1 : 3));
    table_.start = integers_.data();
    table_.cell = table_.start + map.cells + 1;
    if (!plain) {
      table_.max_taps = 2 * static_cast<int>(std::ceil(std::max(1.0f, map.scale))) + 2;
      table_.first = table_.cell + n;
      table_.count = table_.first + n;
    }
    floats_.resize(2 * padded + n * static_cast<std::size_t>(table_.max_taps));
    table_.w0 = floats_.data() + 1;
    table_.w1 = table_.w0 + padded;
    table_.weights = plain ? nullptr : floats_.data() + 2 * padded;
    kernels.fill_axis(table_);
  }
  AxisStorage(const AxisStorage&) = delete;
  AxisStorage& operator=(const AxisStorage&) = delete;
  const AxisTable& table() const { return table_; }

 private:
  AxisTable table_;
  std::vector<int32_t> integers_;
  std::vector<float> floats_;
};

class FastRasterizer final : public Rasterizer {
 public:
  FastRasterizer(const MaskGeometry& geometry, const Kernels& kernels)
      : geometry_(geometry), kernels_(kernels), x_(geometry.x, kernels), y_(geometry.y, kernels) {
    const std::size_t rows = static_cast<std::size_t>(geometry.y.cells);
    scratch_.padded_columns = (geometry.x.cells + 15) / 16 * 16;
    scratch_.bit_words = (geometry.y.cells + 31) / 32;
    bits_.resize(static_cast<std::size_t>(scratch_.padded_columns) * scratch_.bit_words);
    lists_.resize(kColumnBlock * (rows + 3));
    column_.resize(rows + 1);
    signs_.resize(static_cast<std::size_t>(geometry.height));
    scratch_.column_bits = bits_.data();
    scratch_.lists = lists_.data();
    scratch_.column = column_.data();
    scratch_.signs = signs_.data();
    toggles_.owner = &positions_;
    reserve_toggles(toggles_, 1024);
  }

  Mask operator()(const float* logits) override {
    toggles_.size = 0;
    const GridView grid = geometry_.source(logits, padded_);
    kernels_.rasterize(grid, x_.table(), y_.table(), scratch_, toggles_);
    Mask mask{geometry_.height, geometry_.width, {}};
    const uint32_t pixels =
        static_cast<uint32_t>(geometry_.height) * static_cast<uint32_t>(geometry_.width);
    // Toggles become run lengths in place; a last one at the end of the picture closes no run.
    std::size_t n = toggles_.size;
    if (n == 0 || toggles_.data[n - 1] != pixels) {
      reserve_toggles(toggles_, 1);
      toggles_.data[n++] = pixels;
    }
    uint32_t previous = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const uint32_t position = toggles_.data[i];
      toggles_.data[i] = position - previous;
      previous = position;
    }
    text_.clear();
    rle_append_string(toggles_.data, n, text_);
    mask.counts.assign(text_);
    return mask;
  }

 private:
  MaskGeometry geometry_;
  const Kernels& kernels_;
  AxisStorage x_, y_;
  RasterScratch scratch_;
  std::vector<uint32_t> bits_;
  std::vector<int32_t> lists_;
  std::vector<float> column_;
  std::vector<uint8_t> signs_;
  std::vector<float> padded_;
  std::vector<uint32_t> positions_;
  Toggles toggles_;
  std::string text_;
};

}  // namespace

std::unique_ptr<Rasterizer> make_fast_rasterizer(const MaskGeometry& geometry,
                                                 const Kernels& kernels) {
  return std::make_unique<FastRasterizer>(geometry, kernels);
}

}  // namespace rfseg
