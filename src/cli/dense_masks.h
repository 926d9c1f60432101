#pragma once

#include <map>
#include <string>

#include "output/results.h"

namespace rfseg::cli {

/// One 8-bit PNG (0 or 255) an instance, in the folder STEM-masks next to the results file
/// STEM.jsonl or STEM.json: NAME-000.png, for video NAME-f000012-000.png. Not thread-safe.
class DenseMaskFiles {
 public:
  explicit DenseMaskFiles(const std::string& results_path);
  /// Writes the masks and sets `record.mask_files`, relative to the results file.
  void write(ResultRecord& record);

 private:
  std::string parent_, folder_;
  std::map<std::string, std::string> names_;  // input -> name of its own
  std::map<std::string, int> taken_;
};

}  // namespace rfseg::cli
