#include "cli/image_ids.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json_input.h"
#include "output/image_ids.h"
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
      const auto name = image.at("file_name").get<std::string>();
      if (name.empty()) {
        throw Error(ErrorCode::kInput,
                    fmt::format("{}: images[]: the file_name of id {} is empty", path, id.dump()));
      }
      const auto [known, is_new] = ids.emplace(plain_image_name(name), id.get<int64_t>());
      if (!is_new && known->second != id.get<int64_t>()) {
        throw Error(ErrorCode::kInput, fmt::format("{}: images[]: '{}' has the ids {} and {}", path,
                                                   name, known->second, id.dump()));
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: no COCO instances file (an object with images[].file_name and "
                            "images[].id is expected): {}",
                            path, json_problem(error.what())));
  }
  if (ids.empty()) throw Error(ErrorCode::kInput, path + ": names no image");
  return ids;
}

}  // namespace rfseg::cli
