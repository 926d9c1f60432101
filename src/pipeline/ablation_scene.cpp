#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "pipeline/ablation.h"
#include "rfseg/error.h"

namespace rfseg {

RecordedCase ablation_scene(int queries, int survivors, int height, int width) {
  constexpr int kClasses = 91, kGrid = 78;
  if (survivors > queries) {
    throw Error(ErrorCode::kUsage,
                fmt::format("a scene of {} queries cannot have {} survivors", queries, survivors));
  }
  std::mt19937 random(11);
  const auto uniform = [&](double low, double high) {
    return static_cast<float>(low + (high - low) * static_cast<double>(random()) / 4294967296.0);
  };
  RecordedCase scene;
  scene.boxes = Tensor({queries, 4});
  scene.logits = Tensor({queries, kClasses});
  scene.masks = Tensor({queries, kGrid, kGrid});
  for (float& v : scene.logits.data) v = uniform(-9, -5);
  for (int q = 0; q < queries; ++q) {
    if (q < survivors) {
      scene.logits.data[static_cast<std::size_t>(q) * kClasses + q % kClasses] = uniform(0.5, 4);
    }
    const float cy = uniform(0.1, 0.9), cx = uniform(0.1, 0.9);
    const float ry = uniform(0.03, 0.2), rx = uniform(0.03, 0.2);
    const float box[4] = {cx, cy, 2 * rx, 2 * ry};
    std::copy_n(box, 4, scene.boxes.data.data() + std::ptrdiff_t{4} * q);
    float* mask = scene.masks.data.data() + static_cast<std::ptrdiff_t>(q) * kGrid * kGrid;
    for (int row = 0; row < kGrid; ++row) {
      for (int column = 0; column < kGrid; ++column) {
        const float dy = ((static_cast<float>(row) + 0.5f) / kGrid - cy) / ry;
        const float dx = ((static_cast<float>(column) + 0.5f) / kGrid - cx) / rx;
        *mask++ = std::max(6 * (1 - dy * dy - dx * dx), -14.0f) + uniform(-0.3, 0.3);
      }
    }
  }
  CaseEntry& entry = scene.entry;
  entry.name = fmt::format("{} of {} queries, {}x{}", survivors, queries, height, width);
  entry.postprocess.num_select = queries;
  entry.postprocess.geometry = PreprocessGeometry::stretch(height, width, kGrid * 4, kGrid * 4);
  PostprocessSpec reference = entry.postprocess;
  reference.backend = Backend::kReference;
  entry.expected = postprocess(scene.outputs(), reference);
  return scene;
}

}  // namespace rfseg
