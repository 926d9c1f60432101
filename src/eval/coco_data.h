#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/coco_rle.h"
#include "eval/coco_eval.h"
#include "eval/json_entries.h"

// Ground truth and results in the form that matching wants: indices instead of ids, one entry per
// annotation of a known image and category, in file order.

namespace rfseg {

using Box = std::array<double, 4>;  ///< x, y, width, height in pixels

struct TruthEntry {
  int image = 0;     ///< index into GroundTruth::image_ids
  int category = 0;  ///< index into GroundTruth::category_ids
  int64_t id = 0;
  double area = 0;  ///< pixels
  bool crowd = false;
  Box box{};  ///< kBbox only
  Rle mask;   ///< kSegm only
};

struct GroundTruth {
  std::vector<int64_t> image_ids;               ///< ascending, without repeats
  std::vector<int64_t> category_ids;            ///< ascending, without repeats
  std::vector<std::array<int, 2>> image_sizes;  ///< height, width; -1 where the file has none
  std::vector<TruthEntry> entries;
};

struct ResultEntry {
  int image = 0;
  int category = 0;
  double score = 0;
  double area = 0;            ///< of the box where the results have boxes, else of the mask
  Box box{};                  ///< kBbox only
  int height = 0, width = 0;  ///< kSegm only, of the mask
  std::string counts;         ///< kSegm only, compressed and checked
};

/// Throws Error(kInput) naming file and entry. Annotations of images or categories that the file
/// does not list are left out, as pycocotools does.
GroundTruth load_ground_truth(JsonBytes& source, IouType type);

/// Throws Error(kInput) naming file and entry. Segmentations may be compressed or uncompressed run
/// lengths or polygons; where there are none, boxes stand for them, and the other way round.
/// Results of categories that the ground truth lacks are left out; of images that it lacks, an
/// error.
/// `boxes_as_masks` gets how many of them have a box only where masks are asked for.
std::vector<ResultEntry> load_results(JsonBytes& source, const GroundTruth& truth, IouType type,
                                      std::size_t* boxes_as_masks = nullptr);

/// The twelve numbers; see evaluate_coco.
CocoSummary evaluate(const GroundTruth& truth, const std::vector<ResultEntry>& results,
                     IouType type);

}  // namespace rfseg
