#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "output/results.h"
#include "rfseg/image.h"

namespace rfseg {

struct ReportOptions {
  std::string title;                                       ///< model name and what was run
  std::vector<std::pair<std::string, std::string>> facts;  ///< label, value: model, device, ...
  std::string notice;  ///< a plain statement shown first; may be empty
  std::vector<std::string> class_names;
  /// Makes a JPEG file of an RGB picture at a quality of 1..100. Required.
  std::function<std::vector<uint8_t>(const ImageView& rgb, int quality)> encode_jpeg;
  /// Past it pictures become thumbnails, then are left out and counted.
  uint64_t max_bytes = 64u << 20;
};

/// One self-contained HTML page that works offline: pictures with masks that switch on and off per
/// instance, scores, timings. Complete or absent. Not thread-safe.
class ReportWriter {
 public:
  virtual ~ReportWriter() = default;
  /// `milliseconds` names what took how long for this picture.
  virtual void add(const Image& image, const ResultRecord& record,
                   const std::vector<std::pair<std::string, double>>& milliseconds) = 0;
  /// `incomplete`: why the page does not show all; empty where it does.
  virtual void finish(const std::string& incomplete = {}) = 0;
};
std::unique_ptr<ReportWriter> create_report(const std::string& path, ReportOptions options);

}  // namespace rfseg
