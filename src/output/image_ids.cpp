#include "output/image_ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "rfseg/error.h"

namespace rfseg {
namespace {

bool is_url(const std::string& name) { return name.find("://") != std::string::npos; }

/// Where the query of a URL begins, else the end.
std::size_t path_end(const std::string& name) {
  return is_url(name) ? std::min(name.size(), name.find_first_of("?#")) : name.size();
}

std::string base_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

bool ends_with_path(std::string_view path, std::string_view end) {
  return path.ends_with(end) &&
         (path.size() == end.size() || path[path.size() - end.size() - 1] == '/');
}

}  // namespace

std::string plain_image_name(const std::string& name) {
  const std::size_t begin = is_url(name) ? name.find("://") + 3 : 0;
  const std::size_t end = std::max(begin, path_end(name));
  const std::filesystem::path path(name.substr(begin, end - begin));
  return name.substr(0, begin) + path.lexically_normal().string() + name.substr(end);
}

ImageIds::ImageIds(std::map<std::string, int64_t> by_name) {
  for (const auto& [name, id] : by_name) by_name_.emplace(plain_image_name(name), id);
  for (const auto& [name, id] : by_name_) {
    if (name.find('/') != std::string::npos) by_base_[base_name(name)].push_back(name);
  }
}

int64_t ImageIds::of(const std::string& file) const {
  const std::string name = plain_image_name(file);
  if (const auto exact = by_name_.find(name); exact != by_name_.end()) return exact->second;
  const std::string path = name.substr(0, path_end(name));
  for (std::size_t at = 0; at <= path.size();) {
    const auto found = by_name_.find(path.substr(at));
    if (found != by_name_.end()) return found->second;
    const std::size_t slash = path.find('/', at);
    if (slash == std::string::npos) break;
    at = slash + 1;
  }
  const auto longer = by_base_.find(base_name(path));
  std::vector<std::string> names;
  if (longer != by_base_.end()) {
    std::copy_if(longer->second.begin(), longer->second.end(), std::back_inserter(names),
                 [&](const std::string& known) {
                   return ends_with_path(std::string_view(known).substr(0, path_end(known)), path);
                 });
  }
  if (names.size() == 1) return by_name_.at(names.front());
  if (names.empty()) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: the image ids name no such file (looked for this name and for the "
                            "ends of its path, down to '{}')",
                            file, base_name(path)));
  }
  throw Error(ErrorCode::kInput,
              fmt::format("{}: the image ids name {} such files, '{}' and '{}' among them; give "
                          "more of the path",
                          file, names.size(), names[0], names[1]));
}

}  // namespace rfseg
