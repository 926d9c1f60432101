#include "checkpoint/zip_directory.h"

#include <fmt/format.h>

#include <algorithm>

namespace rfseg {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56;
constexpr uint64_t kEnd64LocatorSize = 20;

// A training checkpoint has a few thousand entries.
constexpr uint64_t kMaxEntries = 200'000;
constexpr uint64_t kMaxDirectoryBytes = uint64_t{32} << 20;

struct EndRecord {
  uint64_t offset = 0;
  uint64_t entries = 0;
  uint64_t directory_size = 0;
  uint64_t directory_offset = 0;
};

EndRecord find_end(const ByteSource& file) {
  const uint64_t tail_size = std::min<uint64_t>(file.size(), kEndSize + 0xffff);
  const uint64_t tail_offset = file.size() - tail_size;
  const std::string tail = file.read_string(tail_offset, tail_size);
  if (tail_size >= kEndSize) {
    for (uint64_t at = tail_size - kEndSize + 1; at-- > 0;) {
      const char* p = tail.data() + at;
      if (load_le<uint32_t>(p) != kEndSignature) continue;
      if (at + kEndSize + load_le<uint16_t>(p + 20) != tail_size) continue;
      EndRecord end;
      end.offset = tail_offset + at;
      end.entries = load_le<uint16_t>(p + 10);
      end.directory_size = load_le<uint32_t>(p + 12);
      end.directory_offset = load_le<uint32_t>(p + 16);
      return end;
    }
  }
  fail_model(file.name(),
             "the zip archive has no central directory at its end: the file is truncated");
}

// A zip64 end record is used where it exists, as torch always writes one.
void read_end64(const ByteSource& file, EndRecord& end) {
  if (end.offset < kEnd64LocatorSize + kEnd64Size) return;
  const std::string locator = file.read_string(end.offset - kEnd64LocatorSize, kEnd64LocatorSize);
  if (load_le<uint32_t>(locator.data()) != kEnd64LocatorSignature) return;
  const uint64_t offset = load_le<uint64_t>(locator.data() + 8);
  if (offset > end.offset - kEnd64LocatorSize - kEnd64Size) {
    fail_model(file.name(), "the zip64 end record lies outside the archive");
  }
  const std::string record = file.read_string(offset, kEnd64Size);
  if (load_le<uint32_t>(record.data()) != kEnd64Signature) {
    fail_model(file.name(), "the zip64 end record has a wrong signature");
  }
  end.offset = offset;
  end.entries = load_le<uint64_t>(record.data() + 32);
  end.directory_size = load_le<uint64_t>(record.data() + 40);
  end.directory_offset = load_le<uint64_t>(record.data() + 48);
}

}  // namespace

bool looks_like_zip(const ByteSource& file) {
  if (file.size() < 4) return false;
  const std::string head = file.read_string(0, 4);
  const uint32_t signature = load_le<uint32_t>(head.data());
  return signature == kLocalSignature || signature == kEndSignature;
}

ZipDirectory::ZipDirectory(const ByteSource& file) : file_(file) {
  EndRecord end = find_end(file);
  read_end64(file, end);
  if (end.directory_offset > end.offset || end.directory_size > end.offset - end.directory_offset) {
    fail_model(file.name(), "the zip central directory lies outside the archive");
  }
  if (end.entries > kMaxEntries || end.directory_size > kMaxDirectoryBytes ||
      end.entries > end.directory_size / kCentralSize) {
    fail_model(file.name(), fmt::format("the zip central directory claims {} entries in {} bytes",
                                        end.entries, end.directory_size));
  }
  directory_offset_ = end.directory_offset;
  read_entries(file.read_string(end.directory_offset, end.directory_size), end.entries);
}

void ZipDirectory::read_entries(const std::string& directory, uint64_t count) {
  const auto corrupt = [&](uint64_t index, const char* what) {
    fail_model(file_.name(), fmt::format("zip directory entry {} {}", index, what));
  };
  entries_.reserve(static_cast<std::size_t>(count));
  uint64_t at = 0;
  for (uint64_t index = 0; index < count; ++index) {
    if (directory.size() - at < kCentralSize) corrupt(index, "is truncated");
    const char* p = directory.data() + at;
    if (load_le<uint32_t>(p) != kCentralSignature) corrupt(index, "has a wrong signature");
    ZipEntry entry;
    entry.flags = load_le<uint16_t>(p + 8);
    entry.method = load_le<uint16_t>(p + 10);
    entry.compressed_size = load_le<uint32_t>(p + 20);
    entry.size = load_le<uint32_t>(p + 24);
    const uint64_t name_size = load_le<uint16_t>(p + 28);
    const uint64_t extra_size = load_le<uint16_t>(p + 30);
    const uint64_t comment_size = load_le<uint16_t>(p + 32);
    entry.header_offset = load_le<uint32_t>(p + 42);
    at += kCentralSize;
    if (directory.size() - at < name_size + extra_size + comment_size)
      corrupt(index, "is truncated");
    entry.name.assign(directory, static_cast<std::size_t>(at), static_cast<std::size_t>(name_size));
    uint64_t extra = at + name_size;
    const uint64_t extra_end = extra + extra_size;
    at = extra_end + comment_size;
    // Field 1 holds, in this order, those values whose 32-bit fields are all ones.
    while (extra_end - extra >= 4) {
      const uint16_t id = load_le<uint16_t>(directory.data() + extra);
      const uint64_t size = load_le<uint16_t>(directory.data() + extra + 2);
      extra += 4;
      if (size > extra_end - extra) corrupt(index, "has an extra field longer than its space");
      if (id == 1) {
        uint64_t field = extra;
        for (uint64_t* value : {&entry.size, &entry.compressed_size, &entry.header_offset}) {
          if (*value != 0xffffffff) continue;
          if (extra + size - field < 8) corrupt(index, "has a zip64 field that is too short");
          *value = load_le<uint64_t>(directory.data() + field);
          field += 8;
        }
      }
      extra += size;
    }
    entries_.push_back(std::move(entry));
  }
  by_name_.reserve(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!by_name_.emplace(entries_[i].name, i).second) {
      fail_model(file_.name(),
                 fmt::format("the zip archive holds '{}' twice", printable(entries_[i].name)));
    }
  }
}

const ZipEntry* ZipDirectory::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

uint64_t ZipDirectory::data_offset(const ZipEntry& entry) const {
  const auto corrupt = [&](const std::string& what) {
    fail_model(file_.name(), fmt::format("zip entry '{}' {}", printable(entry.name), what));
  };
  if (entry.flags & 1) corrupt("is encrypted; a checkpoint stores its entries plainly");
  if (entry.method != 0 || entry.compressed_size != entry.size) {
    corrupt(
        fmt::format("is compressed (method {}); torch.save stores entries uncompressed, so "
                    "unpack and re-pack the archive with `zip -0`",
                    entry.method));
  }
  const uint64_t head = kLocalSize + entry.name.size();
  if (entry.header_offset > directory_offset_ || head > directory_offset_ - entry.header_offset) {
    corrupt("has its header outside the archive");
  }
  const std::string local = file_.read_string(entry.header_offset, head);
  if (load_le<uint32_t>(local.data()) != kLocalSignature) corrupt("has a wrong local signature");
  if (load_le<uint16_t>(local.data() + 26) != entry.name.size() ||
      std::string_view(local).substr(kLocalSize) != entry.name) {
    corrupt("has another name in its local header");
  }
  const uint64_t extra = load_le<uint16_t>(local.data() + 28);
  const uint64_t available = directory_offset_ - entry.header_offset - head;
  if (extra > available || entry.size > available - extra) {
    corrupt(fmt::format("of {} bytes does not fit in the archive", entry.size));
  }
  return entry.header_offset + head + extra;
}

}  // namespace rfseg
