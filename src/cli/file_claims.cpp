#include "cli/file_claims.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace fs = std::filesystem;
namespace {

bool is_stdout(const std::string& path) {
  return path == "-" || path == "/dev/stdout" || path == "/dev/fd/1" || path == "/proc/self/fd/1";
}

// Streams that the caller has opened are the caller's affair, and /dev/null keeps nothing.
bool is_no_file(const std::string& path) {
  if (path.empty() || path.starts_with("/dev/fd/") || path.starts_with("/proc/self/fd/") ||
      path == "/dev/stderr" || path == "/dev/stdin") {
    return true;
  }
  std::error_code ignored;
  return fs::is_character_file(path, ignored);
}

}  // namespace

FileClaims::Place FileClaims::place_of(const std::string& path) const {
  Place place;
  place.shown = path;
  struct stat info {};
  if (is_stdout(path)) {
    // Redirected, it is a file as any other.
    place.exists = fstat(STDOUT_FILENO, &info) == 0 && S_ISREG(info.st_mode);
    place.node = {info.st_dev, info.st_ino};
    return place;
  }
  place.exists = stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
  place.node = {info.st_dev, info.st_ino};
  std::error_code failed;
  fs::path name(path);
  place.link = name.filename().string();
  if (fs::is_symlink(name, failed)) {
    const fs::path target = fs::canonical(name, failed);
    if (!failed) name = target;
  }
  place.name = name.filename().string();
  const std::string folder = name.parent_path().string();
  const auto [known, is_new] = folders_.emplace(folder, "");
  if (is_new) {
    known->second = fs::weakly_canonical(fs::absolute(folder.empty() ? "." : folder), failed);
    if (failed) known->second = folder;
  }
  place.folder = known->second;
  return place;
}

void FileClaims::add(Uses& uses, const Place& place, const std::string& label) {
  uses.by_path.emplace((fs::path(place.folder) / place.name).string(), label);
  if (place.exists) uses.by_node.emplace(place.node, label);
  uses.places.push_back(place);
}

const std::string* FileClaims::find(const Uses& uses, const Place& place) {
  const auto named = uses.by_path.find((fs::path(place.folder) / place.name).string());
  if (named != uses.by_path.end()) return &named->second;
  if (!place.exists) return nullptr;
  const auto same = uses.by_node.find(place.node);
  return same == uses.by_node.end() ? nullptr : &same->second;
}

const std::string* FileClaims::find(const Uses& uses, const std::string& path) const {
  return is_no_file(path) ? nullptr : find(uses, place_of(path));
}

bool FileClaims::Family::holds(const Place& place) const {
  return place.folder == folder && (matches(place.name) || matches(place.link));
}

void FileClaims::read(const std::string& path) {
  if (path == "-") {
    Place list;
    struct stat info {};
    list.name = list.shown = path;
    list.exists = fstat(STDIN_FILENO, &info) == 0 && S_ISREG(info.st_mode);
    list.node = {info.st_dev, info.st_ino};
    if (list.exists) add(reads_, list, "on standard input");
    return;
  }
  if (path.find("://") != std::string::npos) return;
  std::error_code ignored;
  // An open descriptor, too, may be of a file.
  if (is_no_file(path) && !fs::is_regular_file(path, ignored)) return;
  if (!fs::is_directory(path, ignored)) add(reads_, place_of(path), path);
}

void FileClaims::read(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) read(path);
}

void FileClaims::read_model(const std::string& name) {
  if (name.empty()) return;
  fs::path file;
  try {
    file = resolve_model_path(name);
  } catch (const Error&) {
    return;  // not downloaded: nothing to write over
  }
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) file /= "model.safetensors";
  read(file.string());
  for (const char* beside : {"config.json", "preprocessor_config.json", "class_names.txt"}) {
    const std::string path = (file.parent_path() / beside).string();
    if (fs::is_regular_file(path, ignored)) read(path);
  }
}

void FileClaims::write(const std::string& option, const std::string& path) {
  if (!is_stdout(path) && is_no_file(path)) return;
  const Place place = place_of(path);
  if (const std::string* input = find(reads_, place)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{} {}: would overwrite the input {}", option, path, *input));
  }
  const std::string* other = find(writes_, place);
  for (const Family& family : families_) {
    if (other == nullptr && family.holds(place)) other = &family.option;
  }
  if (other != nullptr) {
    throw Error(ErrorCode::kUsage, fmt::format("{} and {}: both would write {}", *other, option,
                                               is_stdout(path) ? "standard output" : path));
  }
  add(writes_, place, option);
}

void FileClaims::write_family(const std::string& option, const std::string& folder,
                              const std::string& pattern,
                              std::function<bool(const std::string&)> matches) {
  const std::string here = folder.empty() ? "." : folder;
  Family family{option, place_of((fs::path(here) / "x").string()).folder, pattern,
                std::move(matches)};
  const auto refuse = [&](const std::string& path) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: writes files named {}, and would overwrite the input {}; name "
                            "another place with -o",
                            option, pattern, path));
  };
  for (const Place& place : reads_.places) {
    if (family.holds(place)) refuse(place.shown);
  }
  for (const Place& place : writes_.places) {
    if (!family.holds(place)) continue;
    throw Error(ErrorCode::kUsage, fmt::format("{} and {}: both would write {}",
                                               *find(writes_, place), option, place.shown));
  }
  // A link of such a name leads to what is written then.
  std::error_code failed;
  for (fs::directory_iterator at(here, failed), end; !failed && at != end; at.increment(failed)) {
    const std::string name = at->path().filename().string();
    if (!family.matches(name)) continue;
    if (const std::string* input = find(reads_, at->path().string())) refuse(*input);
  }
  families_.push_back(std::move(family));
}

bool FileClaims::is_written(const std::string& path) const {
  if (is_no_file(path)) return false;
  const Place place = place_of(path);
  if (find(writes_, place) != nullptr) return true;
  for (const Family& family : families_) {
    if (family.holds(place)) return true;
  }
  return false;
}

}  // namespace rfseg::cli
