#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// COCO files as a stream of entries: only what evaluation needs is kept, so that a results file of
// a gigabyte is read in a few megabytes beside what it yields.

namespace rfseg {

/// Bytes of a file in pieces, or of a caller's buffer (borrowed).
class JsonBytes {
 public:
  /// Throws Error(kInput) if the file cannot be opened.
  explicit JsonBytes(const std::string& path);
  JsonBytes(std::string_view bytes, std::string name);

  const std::string& name() const { return name_; }
  bool at_end() { return current_ == end_ && !refill(); }
  char peek() const { return *current_; }
  void advance() { ++current_; }

 private:
  /// Throws Error(kInput) if reading fails.
  bool refill();

  std::string name_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
  std::vector<char> buffer_;
  const char* current_ = nullptr;
  const char* end_ = nullptr;
};

/// A `segmentation` as it stands in the file.
struct RawSegmentation {
  enum class Kind { kAbsent, kRleBytes, kRleCounts, kPolygons };
  Kind kind = Kind::kAbsent;
  int height = 0, width = 0;                  ///< of both run-length kinds
  std::string bytes;                          ///< kRleBytes
  std::vector<int64_t> counts;                ///< kRleCounts
  std::vector<std::vector<double>> polygons;  ///< kPolygons
};

/// The members of one object of `images`, `annotations`, `categories` or of a results array.
struct RawEntry {
  std::optional<int64_t> id, image_id, category_id, height, width;
  std::optional<double> score, area;
  bool crowd = false;
  std::vector<double> bbox;  ///< empty where absent
  RawSegmentation segmentation;
};

struct EntryRequest {
  /// Members of the root object to read, each an array of objects, or {""}: the root is the array.
  std::vector<std::string> sections;
  bool segmentation = true;  ///< otherwise left out unread
};

/// Gives every entry, in file order, to `sink` as (index of the section, index of the entry,
/// entry). Throws Error(kInput) naming the file, and the entry and member where one is malformed. A
/// section that the file lacks is an error.
void read_entries(JsonBytes& source, const EntryRequest& request,
                  const std::function<void(std::size_t, std::size_t, RawEntry&)>& sink);

}  // namespace rfseg
