#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "rfseg/detections.h"
#include "rfseg/options.h"

namespace rfseg {

/// Raw network outputs of one picture, borrowed, float32, C order.
struct NetworkOutputs {
  const float* boxes = nullptr;   ///< [Q, 4] cx,cy,w,h normalised
  const float* logits = nullptr;  ///< [Q, K]
  const float* masks = nullptr;   ///< [Q, mask_rows, mask_cols] logits, or nullptr
  int queries = 0, classes = 0, mask_rows = 0, mask_cols = 0;
};

/// How raw outputs become detections. Defaults follow rfdetr 1.11.2.
struct PostprocessSpec {
  Convention like = Convention::kRfdetr;
  float threshold = 0.5f;               ///< strict `>`; negative keeps all that were selected
  std::vector<float> class_thresholds;  ///< by output class id, empty = `threshold` for all
  std::vector<int>
      class_map;  ///< logit column -> output class id, -1 drops; shorter = -1; empty = identity
  int num_select = 300;  ///< pairs taken from all Q x K by score before anything is dropped
  int max_detections = 300;
  MaskFormat masks = MaskFormat::kRle;  ///< kNone skips mask work; the others all give Mask (RLE)
  Backend backend =
      Backend::kAuto;   ///< kReference: dense resize then encode; kCpu: runs straight from
                        ///< cells; kCuda: the same on a GPU, Error(kDevice) without
  int cuda_device = 0;  ///< which GPU, for kCuda
  PreprocessGeometry geometry;
};

/// Selection, boxes and masks of one picture.
/// Selection: the first num_select of all (query, class) pairs by descending sigmoid score, ties by
/// lower query*K + class; then class map, threshold, max_detections. A NaN logit is never selected.
/// Masks: bilinear in float32 exactly as torch's CUDA kernels round (plain two-tap for rfdetr,
/// antialiased for inference), then `> 0`; a pixel one of whose taps is NaN is background. Each
/// surviving query is rasterised once. Thread-safe; works on the calling thread alone; memory is
/// that of the answer plus one mask. All backends give the same bytes. (kCuda: calls wait for each
/// other; see cuda/cuda_postprocessor.h for outputs that are on the GPU already.)
Detections postprocess(const NetworkOutputs& outputs, const PostprocessSpec& spec);

}  // namespace rfseg
