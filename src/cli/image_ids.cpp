#include "cli/image_ids.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "rfseg/error.h"

namespace rfseg::cli {

std::map<std::string, int64_t> read_image_ids(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path);
  std::map<std::string, int64_t> ids;
  try {
    const nlohmann::json json = nlohmann::json::parse(bytes.begin(), bytes.end());
    for (const nlohmann::json& image : json.at("images")) {
      const nlohmann::json& id = image.at("id");
      if (!id.is_number_integer()) {
        throw Error(
            ErrorCode::kInput,
            fmt::format("{}: images[].id: {} is no whole number of 64 bits", path, id.dump()));
      }
      ids[image.at("file_name").get<std::string>()] = id.get<int64_t>();
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: no COCO instances file (an object with images[].file_name and "
                            "images[].id is expected): {}",
                            path, error.what()));
  }
  if (ids.empty()) throw Error(ErrorCode::kInput, path + ": names no image");
  return ids;
}

}  // namespace rfseg::cli
