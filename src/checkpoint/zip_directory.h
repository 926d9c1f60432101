#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/byte_source.h"

namespace rfseg {

/// One file of a zip archive, as its central directory describes it.
struct ZipEntry {
  std::string name;
  uint16_t method = 0;  ///< 0 = stored
  uint16_t flags = 0;
  uint64_t compressed_size = 0;
  uint64_t size = 0;
  uint64_t header_offset = 0;  ///< of the local header
};

/// The central directory of a zip archive, zip64 included. Sizes and offsets come from the central
/// directory alone: torch.save writes data descriptors and leaves the local sizes 0. Everything is
/// checked against the file's size before it is used. Format: PKWARE APPNOTE 6.3.
class ZipDirectory {
 public:
  /// Throws Error(kModel) if the archive is truncated or contradicts itself.
  explicit ZipDirectory(const ByteSource& file);

  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(std::string_view name) const;

  /// Offset in the file of the entry's bytes, which lie before the central directory. Reads the
  /// local header, whose extra field holds torch's alignment padding. Throws Error(kModel) if the
  /// entry is compressed or encrypted, or its header lies.
  uint64_t data_offset(const ZipEntry& entry) const;

 private:
  void read_entries(const std::string& directory, uint64_t count);

  const ByteSource& file_;
  uint64_t directory_offset_ = 0;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
};

/// Whether the file begins as a zip archive does.
bool looks_like_zip(const ByteSource& file);

}  // namespace rfseg
