#include "checkpoint/safetensors_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/convert.h"

namespace rfseg {
namespace {

using nlohmann::json;

// 600 tensors need 80 KB.
constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;

const std::map<std::string, DType>& types() {
  static const std::map<std::string, DType> kTypes = {
      {"F32", DType::kF32},   {"F16", DType::kF16}, {"BF16", DType::kBf16}, {"F64", DType::kF64},
      {"BOOL", DType::kBool}, {"U8", DType::kU8},   {"I8", DType::kI8},     {"I16", DType::kI16},
      {"I32", DType::kI32},   {"I64", DType::kI64}};
  return kTypes;
}

bool is_offset(const json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{1} << 62;
}

struct Extent {
  uint64_t begin = 0, end = 0;
  std::string name;
};

/// Of two tensors of one name the parser would silently give the last.
json parse_header(const std::string& text, const std::string& origin) {
  std::set<std::string> names;
  return parse_json(text, origin, [&](int depth, json::parse_event_t event, const json& value) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto name = value.get<std::string>();
      if (!names.insert(name).second) {
        fail_model(origin, fmt::format("two tensors are named '{}'", printable(name)));
      }
    }
    return true;
  });
}

}  // namespace

bool looks_like_safetensors(const ByteSource& file) {
  if (file.size() < 10) return false;
  const std::string head = file.read_string(0, 9);
  if (head[8] != '{') return false;
  // By its name it is a damaged one even where the header goes beyond the end.
  return load_le<uint64_t>(head.data()) <= file.size() - 8 || file.name().ends_with(".safetensors");
}

FileContents read_safetensors_file(const ByteSource& file) {
  const std::string length = file.read_string(0, 8);
  const uint64_t header_size = load_le<uint64_t>(length.data());
  if (header_size > kMaxHeaderBytes || header_size > file.size() - 8) {
    fail_model(file.name(),
               fmt::format("the safetensors header claims {} bytes (file: {}, limit: {})",
                           header_size, file.size(), kMaxHeaderBytes));
  }
  const json header = parse_header(file.read_string(8, header_size), file.name());
  if (!header.is_object()) fail_model(file.name(), "the safetensors header is no JSON object");
  const uint64_t data = 8 + header_size;
  const uint64_t data_size = file.size() - data;

  FileContents contents;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto corrupt = [&, &tensor = name](const std::string& what) {
      fail_model(file.name(), fmt::format("tensor '{}' {}", printable(tensor), what));
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || entry["shape"].size() > 16 ||
        !entry.contains("data_offsets") || !entry["data_offsets"].is_array() ||
        entry["data_offsets"].size() != 2 || !is_offset(entry["data_offsets"][0]) ||
        !is_offset(entry["data_offsets"][1])) {
      corrupt("is not described by dtype, shape and data_offsets");
    }
    const auto begin = entry["data_offsets"][0].get<uint64_t>();
    const auto end = entry["data_offsets"][1].get<uint64_t>();
    if (begin > end || end > data_size) {
      corrupt(fmt::format("lies at bytes {} to {} of {}", begin, end, data_size));
    }
    if (end > begin) extents.push_back({begin, end, name});
    const auto type = types().find(entry["dtype"].get<std::string>());
    if (type == types().end()) {
      contents.unreadable.push_back(fmt::format("tensor '{}' has element type '{}'",
                                                printable(name),
                                                printable(entry["dtype"].get<std::string>())));
      continue;
    }
    Shape shape;
    for (const json& side : entry["shape"]) {
      if (!is_offset(side)) corrupt("has a shape that is no list of sizes");
      shape.push_back(side.get<int64_t>());
    }
    const int64_t count = checked_element_count(shape);
    if (count < 0) corrupt(fmt::format("has shape {}, which is too large", to_string(shape)));
    if (static_cast<uint64_t>(count) * element_size(type->second) != end - begin) {
      corrupt(fmt::format("of shape {} and type {} has {} bytes", to_string(shape), type->first,
                          end - begin));
    }
    StridedPart part{type->second, shape, contiguous_strides(shape), data + begin};
    contents.records.push_back({name, {std::move(part)}});
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end) {
      fail_model(file.name(),
                 fmt::format("tensors '{}' and '{}' overlap", printable(extents[i - 1].name),
                             printable(extents[i].name)));
    }
  }
  // JSON objects are read in alphabetical order: give back the file's.
  std::stable_sort(contents.records.begin(), contents.records.end(),
                   [](const TensorRecord& a, const TensorRecord& b) {
                     return a.parts[0].offset < b.parts[0].offset;
                   });

  if (header.contains("__metadata__") && header["__metadata__"].is_object()) {
    const json& metadata = header["__metadata__"];
    for (const char* key : {kConfigKey, "model_config", "args"}) {
      if (!metadata.contains(key) || !metadata[key].is_string()) continue;
      add_fields(contents.config,
                 parse_json(metadata[key].get<std::string>(), file.name() + ": metadata " + key));
    }
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string() || key == kConfigKey || key == "model_config" || key == "args")
        continue;
      const auto text = value.get<std::string>();
      if (key == "model_name") contents.config.hints.push_back(text);
      if (text.size() <= 1024) contents.config.metadata[key] = text;
    }
  }
  return contents;
}

}  // namespace rfseg
