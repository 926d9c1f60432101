#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/files.h"
#include "output/image_ids.h"
#include "rfseg/detections.h"
#include "rfseg/options.h"

namespace rfseg {

/// One picture's or frame's results with what the writers print beside them.
struct ResultRecord {
  std::string file;              ///< as the user gave it or the directory listed it
  std::optional<int64_t> frame;  ///< video only
  std::optional<double> time_s;  ///< video only
  Detections detections;
  /// MaskFormat::kDense only: the file of each detection's mask (DenseMaskWriter), beside the
  /// results; "" where there is none. Written as "mask_file".
  std::vector<std::string> mask_files;
};

/// Name of a class id; "class_N" where the list has none (too short, or an empty name).
std::string class_name(const std::vector<std::string>& names, int class_id);

/// One JSON line (without the newline), fields as docs/outputs.md: file, frame, time_s, width,
/// height, detections[class_id, class_name, score, box_xyxy, segmentation]. Scores and boxes are
/// the shortest decimals that read back to the same float32. Names that are not UTF-8 are escaped
/// so that the line is always valid JSON.
std::string to_json_line(const ResultRecord& record, const std::vector<std::string>& class_names,
                         MaskFormat masks);

/// Writes results in order; complete or absent. Not thread-safe.
class ResultWriter {
 public:
  virtual ~ResultWriter() = default;
  virtual void write(const ResultRecord& record) = 0;
  /// Closes the output; without it a file leaves nothing behind.
  virtual void finish() = 0;
};

/// JSON lines to `path` ("-" = stdout, flushed after every line).
std::unique_ptr<ResultWriter> create_jsonl_writer(const std::string& path,
                                                  std::vector<std::string> class_names,
                                                  MaskFormat masks);
/// A COCO results array to `path`. Where `image_ids` is empty ids count from 1 in result order and
/// the list goes to `path`.images.json. A file that `image_ids` lacks, and a second one with the
/// id of another, throws Error(kInput).
std::unique_ptr<ResultWriter> create_coco_writer(const std::string& path, ImageIds image_ids,
                                                 MaskFormat masks);

}  // namespace rfseg
