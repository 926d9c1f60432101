#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rfseg {

/// The same name without "./", "//" and "x/..", by its words alone.
std::string plain_image_name(const std::string& name);

/// COCO image ids by file name; both as plain_image_name.
class ImageIds {
 public:
  ImageIds() = default;
  explicit ImageIds(std::map<std::string, int64_t> by_name);

  bool empty() const { return by_name_.empty(); }
  /// The id of the name that is `file`, else of the longest one that `file` ends with (whole path
  /// components: "val/a.jpg" of "/data/val/a.jpg"), else of the only one that ends with `file`.
  /// Throws Error(kInput) naming the file where there is none, or where several end with it.
  int64_t of(const std::string& file) const;

 private:
  std::map<std::string, int64_t> by_name_;
  std::map<std::string, std::vector<std::string>> by_base_;  ///< longer names by their last part
};

}  // namespace rfseg
