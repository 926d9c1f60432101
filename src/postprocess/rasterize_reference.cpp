#include <cmath>
#include <vector>

#include "core/coco_rle.h"
#include "postprocess/rasterize.h"

namespace rfseg {
namespace {

/// The taps of one pixel and how their values are summed.
struct Taps {
  int first = 0, second = 0;  ///< `second` for the plain formula
  std::vector<float> weights;
};

std::vector<Taps> axis_taps(const AxisMap& map) {
  std::vector<Taps> axis;
  for (int pixel = map.begin; pixel < map.end; ++pixel) {
    Taps taps;
    if (map.sampling == Sampling::kIdentity) {
      taps.first = pixel - map.origin;
      taps.weights = {1.0f};
    } else if (map.sampling == Sampling::kPlain) {
      const PlainTaps plain = plain_taps(map, pixel);
      taps.first = plain.i0;
      taps.second = plain.i1;
      taps.weights = {plain.w0, plain.w1};
    } else {
      const AntialiasTaps window = antialias_taps(map, pixel);
      taps.first = window.lo;
      float sum = 0;
      for (int j = 0; j < window.hi - window.lo; ++j) {
        taps.weights.push_back(window.weight(j));
        sum += taps.weights.back();
      }
      for (float& w : taps.weights) w = w / sum;
    }
    axis.push_back(std::move(taps));
  }
  return axis;
}

/// One resampled value of samples `stride` apart.
float sample(const Taps& taps, bool plain, const float* values, std::ptrdiff_t stride) {
  const auto& w = taps.weights;
  if (plain)
    return plain_blend(w[0], values[taps.first * stride], w[1], values[taps.second * stride]);
  float t = values[taps.first * stride] * w[0];
  for (std::size_t j = 1; j < w.size(); ++j) {
    t = std::fma(values[(taps.first + static_cast<std::ptrdiff_t>(j)) * stride], w[j], t);
  }
  return t;
}

class ReferenceRasterizer final : public Rasterizer {
 public:
  explicit ReferenceRasterizer(const MaskGeometry& geometry)
      : geometry_(geometry), x_(axis_taps(geometry.x)), y_(axis_taps(geometry.y)) {}

  Mask operator()(const float* logits) override {
    const GridView grid = geometry_.source(logits, padded_);
    const bool plain = geometry_.x.sampling == Sampling::kPlain;
    // x first, for every row of cells; then y.
    const std::size_t columns = x_.size();
    std::vector<float> rows(static_cast<std::size_t>(grid.rows) * columns);
    for (int row = 0; row < grid.rows; ++row) {
      for (std::size_t k = 0; k < columns; ++k) {
        rows[row * columns + k] = sample(x_[k], plain, grid.data + row * grid.stride, 1);
      }
    }
    std::vector<uint8_t> pixels(static_cast<std::size_t>(geometry_.height) * geometry_.width);
    for (std::size_t j = 0; j < y_.size(); ++j) {
      uint8_t* out = pixels.data() +
                     (static_cast<std::size_t>(geometry_.y.begin) + j) * geometry_.width +
                     geometry_.x.begin;
      for (std::size_t k = 0; k < columns; ++k) {
        const float value =
            sample(y_[j], plain, rows.data() + k, static_cast<std::ptrdiff_t>(columns));
        out[k] = value > 0.0f ? 1 : 0;  // a NaN is not
      }
    }
    return {geometry_.height, geometry_.width,
            rle_to_string(rle_encode(pixels.data(), geometry_.height, geometry_.width))};
  }

 private:
  MaskGeometry geometry_;
  std::vector<Taps> x_, y_;
  std::vector<float> padded_;
};

}  // namespace

std::unique_ptr<Rasterizer> make_reference_rasterizer(const MaskGeometry& geometry) {
  return std::make_unique<ReferenceRasterizer>(geometry);
}

}  // namespace rfseg
