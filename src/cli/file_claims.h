#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rfseg::cli {

/// The files of one call: what it reads and what it will write. Nothing that is read or written
/// elsewhere in the call is written over. Files are compared by where their names lead: links,
/// "./" and, where they exist, device and inode. First every `read`, then every `write`, before any
/// work is done.
class FileClaims {
 public:
  /// Something that is read, "-" is standard input; what is no file (a URL, a device, a folder, "")
  /// is none.
  void read(const std::string& path);
  void read(const std::vector<std::string>& paths);
  /// The same for a checkpoint, a folder with one or the name of a downloaded variant, and for the
  /// files beside it that tell of the model.
  void read_model(const std::string& name);

  /// A file that will be written, "-" is standard output. Devices and "" are none. `option` is what
  /// names it. Throws Error(kUsage) naming the option and the other use.
  void write(const std::string& option, const std::string& path);
  /// Files that will be written whose number is not known yet: those in `folder` whose names
  /// `matches` holds of. `pattern` shows them to people.
  void write_family(const std::string& option, const std::string& folder,
                    const std::string& pattern, std::function<bool(const std::string&)> matches);

  /// Whether the path is read or will be written.
  bool is_read(const std::string& path) const { return find(reads_, path) != nullptr; }
  bool is_written(const std::string& path) const;

 private:
  /// Where a name leads.
  struct Place {
    std::string folder, name;  ///< canonical; empty for standard output
    std::string link;          ///< the name before links were followed
    std::string shown;         ///< as the user gave it
    bool exists = false;
    std::pair<dev_t, ino_t> node{};
  };
  /// Who uses which file.
  struct Uses {
    std::map<std::string, std::string> by_path;
    std::map<std::pair<dev_t, ino_t>, std::string> by_node;
    std::vector<Place> places;
  };
  struct Family {
    std::string option, folder, pattern;
    std::function<bool(const std::string&)> matches;
    bool holds(const Place& place) const;
  };

  Place place_of(const std::string& path) const;
  static void add(Uses& uses, const Place& place, const std::string& label);
  static const std::string* find(const Uses& uses, const Place& place);
  const std::string* find(const Uses& uses, const std::string& path) const;

  Uses reads_, writes_;
  std::vector<Family> families_;
  mutable std::unordered_map<std::string, std::string> folders_;  ///< canonical, by name
};

}  // namespace rfseg::cli
