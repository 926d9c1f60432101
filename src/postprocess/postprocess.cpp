#include "postprocess/postprocess.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "postprocess/backends.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "postprocess/mask_geometry.h"
#include "postprocess/rasterize.h"
#include "postprocess/selection.h"
#include "rfseg/error.h"

namespace rfseg {

void check_postprocess(const NetworkOutputs& outputs, const PostprocessSpec& spec,
                       const PreprocessGeometry& geometry, bool masks) {
  constexpr int64_t kMaxPairs = int64_t{1} << 31;
  constexpr int64_t kMaxCells = int64_t{1} << 28;
  if (outputs.queries < 0 || outputs.classes < 0 ||
      int64_t{outputs.queries} * outputs.classes >= kMaxPairs) {
    throw Error(ErrorCode::kInput,
                fmt::format("network outputs: {} queries of {} classes are not in 0..2^31 pairs",
                            outputs.queries, outputs.classes));
  }
  const bool any = outputs.queries > 0 && outputs.classes > 0;
  if (any && (outputs.boxes == nullptr || outputs.logits == nullptr)) {
    throw Error(ErrorCode::kInput, "network outputs: boxes and logits are needed");
  }
  if (masks && (outputs.mask_rows < 1 || outputs.mask_cols < 1 ||
                int64_t{outputs.mask_rows} * outputs.mask_cols > kMaxCells)) {
    throw Error(ErrorCode::kInput,
                fmt::format("network outputs: a mask of {}x{} cells is not in 1..2^28 cells",
                            outputs.mask_rows, outputs.mask_cols));
  }
  if (spec.num_select < 0 || spec.max_detections < 0) {
    throw Error(ErrorCode::kUsage,
                fmt::format("num_select {} and max_detections {} must not be negative",
                            spec.num_select, spec.max_detections));
  }
  bool number = !std::isnan(spec.threshold);
  for (const float threshold : spec.class_thresholds) number = number && !std::isnan(threshold);
  if (!number) throw Error(ErrorCode::kUsage, "a threshold is not a number");
  check_geometry(geometry, spec.like);
  if (masks) mask_geometry(geometry, spec.like, outputs.mask_rows, outputs.mask_cols);  // throws
}

namespace {

Detections run(const NetworkOutputs& outputs, const PostprocessSpec& spec, const Kernels* kernels) {
  const bool masks = outputs.masks != nullptr && spec.masks != MaskFormat::kNone;
  check_postprocess(outputs, spec, spec.geometry, masks);
  Detections detections;
  detections.width = spec.geometry.original_width;
  detections.height = spec.geometry.original_height;
  if (outputs.queries == 0 || outputs.classes == 0) return detections;

  const std::vector<Selected> selected =
      kernels == nullptr ? select_reference(outputs, spec) : select_fast(outputs, spec, *kernels);
  if (selected.empty()) return detections;

  const BoxAxis x = box_axis_x(spec.geometry, spec.like);
  const BoxAxis y = box_axis_y(spec.geometry, spec.like);
  std::unique_ptr<Rasterizer> rasterizer;
  std::vector<std::shared_ptr<const Mask>> by_query;
  if (masks) {
    const MaskGeometry geometry =
        mask_geometry(spec.geometry, spec.like, outputs.mask_rows, outputs.mask_cols);
    rasterizer = kernels == nullptr ? make_reference_rasterizer(geometry)
                                    : make_fast_rasterizer(geometry, *kernels);
    by_query.resize(static_cast<std::size_t>(outputs.queries));
  }
  detections.items.reserve(selected.size());
  for (const Selected& pair : selected) {
    Detection& item = detections.items.emplace_back();
    const std::size_t query = static_cast<std::size_t>(pair.query);
    item.class_id = pair.class_id;
    item.score = pair.score;
    item.query = pair.query;
    place_box(outputs.boxes + 4 * query, x, y, spec.like == Convention::kInference, item.box_xyxy);
    if (!masks) continue;
    if (by_query[query] == nullptr) {
      const std::size_t cells =
          static_cast<std::size_t>(outputs.mask_rows) * static_cast<std::size_t>(outputs.mask_cols);
      by_query[query] = std::make_shared<const Mask>((*rasterizer)(outputs.masks + query * cells));
    }
    item.mask = by_query[query];
  }
  return detections;
}

}  // namespace

Detections postprocess(const NetworkOutputs& outputs, const PostprocessSpec& spec) {
  if (spec.backend == Backend::kCuda) return postprocess_cuda(outputs, spec);
  return spec.backend == Backend::kReference ? run(outputs, spec, nullptr)
                                             : postprocess_with(outputs, spec, best_isa());
}

Detections postprocess_with(const NetworkOutputs& outputs, const PostprocessSpec& spec, Isa isa) {
  return run(outputs, spec, &kernels_for(isa));
}

}  // namespace rfseg
