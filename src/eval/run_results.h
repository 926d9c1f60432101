#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "eval/json_entries.h"

namespace rfseg {

/// One detection of a run's results.
struct RunDetection {
  int64_t class_id = 0;
  std::string class_name;  ///< empty where the results have ids only
  double score = 0;
  std::array<double, 4> box_xyxy{};     ///< pixels
  bool has_mask = false;                ///< the rest is of the mask
  int mask_height = 0, mask_width = 0;  ///< pixels
  std::string counts;                   ///< compressed COCO run lengths, checked against the size
};

/// The results of one picture or frame.
struct RunPicture {
  std::string file;
  std::optional<int64_t> frame;  ///< video only
  std::vector<RunDetection> detections;
  int width = 0, height = 0;  ///< pixels; 0 where the results do not say
};

/// What one run of the program found.
struct RunResults {
  std::string name;   ///< for messages
  bool coco = false;  ///< a COCO array: pictures without a detection are not listed, and pictures
                      ///< are named "image ID"
  std::vector<RunPicture> pictures;  ///< in file order; COCO: by the first entry of each
};

/// Reads JSON lines as `predict` writes them, or a COCO results array, whichever it is. Polygons
/// become run lengths. Throws Error(kInput) naming the file, the line or entry, and the member that
/// is malformed.
RunResults read_run(JsonBytes& source);

}  // namespace rfseg
