#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "output/results.h"

namespace rfseg {

/// Makes a PNG file of tightly packed 8-bit grey pixels.
using GreyPngEncoder =
    std::function<std::vector<uint8_t>(const uint8_t* pixels, int width, int height)>;

/// Whether a mask of the results in `results_path` may have this name, without folder.
bool is_dense_mask(const std::string& results_path, const std::string& name);
/// Their names for people: "results-NNNNNN-NNN.png", with the folder.
std::string dense_mask_pattern(const std::string& results_path);

/// Writes one 8-bit PNG (0 or 255, the picture's size) per instance next to the results file:
/// `OUT` without its extension, the number of the record from 0, the place of the detection, as in
/// "results-000012-003.png". Not thread-safe.
class DenseMaskWriter {
 public:
  DenseMaskWriter(const std::string& results_path, GreyPngEncoder encode);
  /// Writes the masks of the next record and names them in `record.mask_files`. Throws
  /// Error(kOutput) naming the file; each file is complete or absent.
  void write(ResultRecord& record);

 private:
  std::string prefix_;
  GreyPngEncoder encode_;
  int64_t records_ = 0;
};

}  // namespace rfseg
