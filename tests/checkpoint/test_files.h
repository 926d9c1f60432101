#pragma once

// Writers of checkpoint files, honest and lying, and readers of the golden tables.

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint_internal.h"
#include "core/tensor.h"

namespace rfseg::test {

inline std::string data_path(const std::string& name) {
  return std::string(RFSEG_SOURCE_DIR) + "/tests/checkpoint/data/" + name;
}

inline std::string read_data(const std::string& name) {
  std::ifstream file(data_path(name), std::ios::binary);
  if (!file) throw std::runtime_error("missing test data: " + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out;
  std::string cell;
  for (const char c : text) {
    if (c == separator) {
      out.push_back(std::move(cell));
      cell.clear();
    } else {
      cell += c;
    }
  }
  out.push_back(std::move(cell));
  return out;
}

/// Rows of a .tsv file, without an empty last one.
inline std::vector<std::vector<std::string>> read_table(const std::string& name) {
  std::vector<std::vector<std::string>> rows;
  for (const std::string& line : split(read_data(name), '\n')) {
    if (!line.empty()) rows.push_back(split(line, '\t'));
  }
  return rows;
}

inline Shape parse_shape(const std::string& text) {
  Shape shape;
  for (const std::string& side : split(text, ',')) shape.push_back(std::stoll(side));
  return shape;
}

inline uint64_t fnv64(const void* data, std::size_t size) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  }
  return hash;
}

inline std::string hash_of(const Tensor& tensor) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx",
                static_cast<unsigned long long>(
                    fnv64(tensor.data.data(), tensor.data.size() * sizeof(float))));
  return text;
}

template <class T>
std::string le(T value) {
  std::string out(sizeof(T), '\0');
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
  }
  return out;
}

// ------------------------------------------------------------------------------------ pickle

/// Pickle protocol 2, without the header and the final stop.
namespace pk {
inline std::string str(std::string_view text) {
  return "X" + le(static_cast<uint32_t>(text.size())) + std::string(text);
}
inline std::string integer(int64_t value) { return std::string("\x8a\x08", 2) + le(value); }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string out = "(";
  for (const std::string& item : items) out += item;
  return out + "t";
}
inline std::string list(const std::vector<std::string>& items) {
  std::string out = "](";
  for (const std::string& item : items) out += item;
  return out + "e";
}
inline std::string boolean(bool value) { return value ? "\x88" : "\x89"; }
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string out = "}(";
  for (const auto& [key, value] : items) out += str(key) + value;
  return out + "u";
}
inline std::string integers(const Shape& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
inline std::string strings(const std::vector<std::string>& values) {
  std::vector<std::string> items;
  for (const std::string& value : values) items.push_back(str(value));
  return list(items);
}
inline std::string name_space(const std::string& state) {
  return global("argparse", "Namespace") + ")\x81" + state + "b";
}
inline std::string tensor(const std::string& type, const std::string& key, int64_t numel,
                          int64_t offset, const Shape& shape, const Shape& stride) {
  const std::string storage =
      tuple({str("storage"), global("torch", type), str(key), str("cpu"), integer(numel)}) + "Q";
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({storage, integer(offset), integers(shape), integers(stride), boolean(false),
                global("collections", "OrderedDict") + ")R"}) +
         "R";
}
inline std::string whole(const std::string& root) { return "\x80\x02" + root + "."; }
}  // namespace pk

// ------------------------------------------------------------------------------------ zip

struct ZipItem {
  std::string name = {};
  std::string bytes = {};
  // What the headers claim, if not the truth.
  int method = 0;
  int flags = 8;
  int64_t claimed_size = -1;
  int64_t claimed_offset = -1;
  std::string local_name = {};
  bool zip64 = false;  ///< sizes and offset in the zip64 field
  uint64_t hole = 0;   ///< zero bytes instead of `bytes`, left out of a sparse file
};

/// A zip archive as torch writes it: local sizes 0 and data descriptors.
class ZipBuilder {
 public:
  void add(ZipItem item) { items_.push_back(std::move(item)); }
  void add(const std::string& name, std::string bytes) { add({name, std::move(bytes)}); }

  /// Calls write(offset, bytes) for all but holes; returns the file's size.
  template <class Write>
  uint64_t build(const Write& write, bool end64 = true) const {
    uint64_t at = 0;
    std::string directory;
    for (const ZipItem& item : items_) {
      const std::string& local_name = item.local_name.empty() ? item.name : item.local_name;
      const uint64_t padding = 4 + (64 - (at + 34 + local_name.size()) % 64) % 64;
      const std::string local =
          le<uint32_t>(0x04034b50) + le<uint16_t>(20) + le(static_cast<uint16_t>(item.flags)) +
          le(static_cast<uint16_t>(item.method)) + std::string(16, '\0') +
          le(static_cast<uint16_t>(local_name.size())) + le(static_cast<uint16_t>(padding)) +
          local_name + "FB" + le(static_cast<uint16_t>(padding - 4)) +
          std::string(padding - 4, 'Z');
      write(at, local);
      const uint64_t size = item.hole ? item.hole : item.bytes.size();
      if (!item.hole) write(at + local.size(), item.bytes);
      const uint64_t descriptor = at + local.size() + size;
      write(descriptor,
            le<uint32_t>(0x08074b50) + le<uint32_t>(0) + le<uint64_t>(size) + le<uint64_t>(size));
      const uint64_t claimed =
          item.claimed_size >= 0 ? static_cast<uint64_t>(item.claimed_size) : size;
      const uint64_t offset =
          item.claimed_offset >= 0 ? static_cast<uint64_t>(item.claimed_offset) : at;
      const std::string extra =
          item.zip64 ? le<uint16_t>(1) + le<uint16_t>(24) + le(claimed) + le(claimed) + le(offset)
                     : "";
      const auto field = [&](uint64_t value) {
        return le(item.zip64 ? 0xffffffffu : static_cast<uint32_t>(value));
      };
      directory += le<uint32_t>(0x02014b50) + le<uint16_t>(20) + le<uint16_t>(20) +
                   le(static_cast<uint16_t>(item.flags)) + le(static_cast<uint16_t>(item.method)) +
                   std::string(8, '\0') + field(claimed) + field(claimed) +
                   le(static_cast<uint16_t>(item.name.size())) +
                   le(static_cast<uint16_t>(extra.size())) + std::string(10, '\0') + field(offset) +
                   item.name + extra;
      at = descriptor + 24;
    }
    std::string end = directory;
    if (end64) {
      end += le<uint32_t>(0x06064b50) + le<uint64_t>(44) + std::string(12, '\0') +
             le<uint64_t>(items_.size()) + le<uint64_t>(items_.size()) +
             le<uint64_t>(directory.size()) + le(at);
      end +=
          le<uint32_t>(0x07064b50) + le<uint32_t>(0) + le(at + directory.size()) + le<uint32_t>(1);
    }
    const auto count = static_cast<uint16_t>(end64 ? 0xffff : items_.size());
    end += le<uint32_t>(0x06054b50) + le<uint32_t>(0) + le(count) + le(count) +
           le(end64 ? 0xffffffffu : static_cast<uint32_t>(directory.size())) +
           le(end64 ? 0xffffffffu : static_cast<uint32_t>(at)) + le<uint16_t>(0);
    write(at, end);
    return at + end.size();
  }

  std::string bytes(bool end64 = true) const {
    std::string out;
    build(
        [&](uint64_t at, const std::string& piece) {
          if (out.size() < at + piece.size()) out.resize(at + piece.size());
          out.replace(at, piece.size(), piece);
        },
        end64);
    return out;
  }

 private:
  std::vector<ZipItem> items_;
};

/// A torch.save file of one pickle and storage "0" of `storage` bytes.
inline std::string torch_zip(const std::string& root,
                             const std::string& storage = std::string(64, '\0')) {
  ZipBuilder zip;
  zip.add("archive/data.pkl", pk::whole(root));
  zip.add("archive/data/0", storage);
  zip.add("archive/version", "3\n");
  return zip.bytes();
}

inline Checkpoint open_bytes(std::string bytes, const ModelOptions& options = {},
                             const std::string& name = "model.pth") {
  return open_checkpoint_source(std::make_shared<MemorySource>(name, std::move(bytes)), options,
                                "");
}

// ------------------------------------------------------------------------------------ models

using NamedShapes = std::vector<std::pair<std::string, Shape>>;

/// The names and shapes of a published size, from variants.tsv; `used` leaves out what inference
/// does not read.
inline NamedShapes stock_tensors(const std::string& variant, bool used = false) {
  static const auto table = read_table("variants.tsv");
  std::size_t column = 2;
  while (table[0].at(column) != variant) ++column;
  NamedShapes out;
  for (std::size_t row = 1; row < table.size(); ++row) {
    if (table[row].at(column).empty()) continue;
    const auto counts = split(table[row][column], '/');
    const int count = std::stoi(used ? counts.back() : counts.front());
    for (int i = 0; i < count; ++i) {
      std::string name = table[row][0];
      const std::size_t at = name.find('#');
      if (at != std::string::npos) name.replace(at, 1, std::to_string(i));
      out.emplace_back(name, parse_shape(table[row][1]));
    }
  }
  return out;
}

/// A state dictionary whose tensors all show the one element of storage "0": every shape, no bytes.
inline std::string state_of(const NamedShapes& tensors) {
  std::vector<std::pair<std::string, std::string>> items;
  for (const auto& [name, shape] : tensors) {
    items.emplace_back(name, pk::tensor("FloatStorage", "0", 1, 0, shape, Shape(shape.size(), 0)));
  }
  return pk::dict(items);
}

inline std::string flat_model(const NamedShapes& tensors) { return torch_zip(state_of(tensors)); }

inline Shape& shape_of(NamedShapes& tensors, const std::string& name) {
  for (auto& [key, shape] : tensors) {
    if (key == name) return shape;
  }
  throw std::runtime_error("no tensor " + name);
}

/// Another number of classes.
inline void set_classes(NamedShapes& tensors, int64_t columns) {
  for (auto& [name, shape] : tensors) {
    if (name.find("class_embed") != std::string::npos) shape[0] = columns;
  }
}

}  // namespace rfseg::test
