#pragma once

#include <array>
#include <string>

namespace rfseg {

enum class IouType { kBbox, kSegm };

/// The twelve numbers of COCOeval.summarize, in its order: AP, AP50, AP75, AP small/medium/large,
/// AR at 1, 10, 100 detections, AR small/medium/large. -1 where a range holds no ground truth.
struct CocoSummary {
  std::array<double, 12> stats{};
  /// kSegm: results without a mask, whose boxes stood for one, and how many results there are.
  std::size_t boxes_as_masks = 0, results = 0;
  /// Pictures with annotations, and those of them for which there is no result at all.
  std::size_t annotated = 0, without_results = 0;
  /// The table that pycocotools prints.
  std::string table(IouType type) const;
};

/// COCO average precision and recall of a results array against ground truth, as pycocotools 2.0.8
/// computes them, to 1e-9: crowd regions, area ranges and maxDets included. Throws Error(kInput)
/// naming the file and the entry that is malformed.
CocoSummary evaluate_coco(const std::string& ground_truth_json, const std::string& results_json,
                          IouType type);

}  // namespace rfseg
