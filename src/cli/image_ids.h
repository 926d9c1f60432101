#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace rfseg::cli {

/// file_name -> id of the "images" of a COCO instances file. Throws Error(kInput) naming the file.
std::map<std::string, int64_t> read_image_ids(const std::string& path);

}  // namespace rfseg::cli
