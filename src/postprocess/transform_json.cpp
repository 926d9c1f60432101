#include "postprocess/transform_json.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/json_input.h"
#include "postprocess/mask_geometry.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxClasses = std::size_t{1} << 20;
constexpr int kMaxDepth = 16;
constexpr int kMaxPixels = 1 << 20;

/// Text for messages: short, and without bytes that a terminal would act on.
std::string shown(std::string_view text) {
  std::string safe;
  for (const char c : text.substr(0, 40)) safe += c >= ' ' && c <= '~' ? c : '?';
  return text.size() > 40 ? safe + "..." : safe;
}

std::string shown(const json& value) {
  return shown(std::string_view(value.dump(-1, ' ', false, json::error_handler_t::replace)));
}

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kInput, name_ + ": " + message);
  }

  json parse(std::string_view text) const {
    if (json_depth(text) > kMaxDepth) fail("the JSON is nested too deeply");
    try {
      return json::parse(text.begin(), text.end());
    } catch (const json::exception& error) {
      fail("not valid JSON: " + json_problem(error.what()));
    }
  }

  void check_fields(const json& object, const std::string& what,
                    std::initializer_list<const char*> accepted) const {
    if (!object.is_object()) fail(what + " must be an object, not " + shown(object));
    std::string list;
    for (const char* field : accepted) {
      if (!list.empty()) list += ", ";
      list += field;
    }
    for (const auto& [key, value] : object.items()) {
      bool known = false;
      for (const char* field : accepted) known = known || key == field;
      if (!known) {
        fail(fmt::format("unknown field '{}' in {}; accepted: {}", shown(std::string_view(key)),
                         what, list));
      }
    }
  }

  int integer(const json& value, const std::string& what, int low, int high) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!(number >= low && number <= high) || number != std::floor(number)) {
      fail(fmt::format("{} must be an integer in {}..{}, not {}", what, low, high, shown(value)));
    }
    return static_cast<int>(number);
  }

  /// The member `key`, or nullptr where it is absent or null.
  static const json* find(const json& object, const char* key) {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }

  int member(const json& object, const std::string& what, const char* key, int low) const {
    const json* value = find(object, key);
    if (value == nullptr) fail(what + " has no field '" + key + "'");
    return integer(*value, what + "." + key, low, kMaxPixels);
  }

  struct Size {
    int height, width;
  };
  std::optional<Size> size(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) return std::nullopt;
    check_fields(*value, key, {"height", "width"});
    return Size{member(*value, key, "height", 1), member(*value, key, "width", 1)};
  }

  int pad(const json& object, const char* key) const {
    const json* value = find(object, key);
    return value == nullptr ? 0 : integer(*value, key, -kMaxPixels, kMaxPixels);
  }

  double scale(const json& object, const char* key, double standard) const {
    const json* value = find(object, key);
    if (value == nullptr) return standard;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > 0 && number <= 1e6)) {
      fail(fmt::format("{} must be a positive number, not {}", key, shown(*value)));
    }
    return number;
  }

 private:
  const std::string& name_;
};

}  // namespace

std::vector<int> parse_class_map(std::string_view text, const std::string& name) {
  const Reader reader(name);
  const json array = reader.parse(text);
  if (!array.is_array()) {
    reader.fail("a class map must be an array of class ids (-1 to drop), not " + shown(array));
  }
  if (array.empty() || array.size() > kMaxClasses) {
    reader.fail(
        fmt::format("a class map must have 1..{} entries, not {}", kMaxClasses, array.size()));
  }
  std::vector<int> map;
  map.reserve(array.size());
  for (const json& value : array) {
    map.push_back(reader.integer(value, fmt::format("entry {}", map.size()), -1,
                                 static_cast<int>(kMaxClasses)));
  }
  return map;
}

PreprocessGeometry parse_transform(std::string_view text, const std::string& name, int image_height,
                                   int image_width) {
  const Reader reader(name);
  const json object = reader.parse(text);
  reader.check_fields(object, "the transform",
                      {"pad_left", "pad_top", "pad_right", "pad_bottom", "original_size",
                       "size_after_pre_processing", "inference_size", "scale_width", "scale_height",
                       "static_crop_offset", "nonsquare_intermediate_size"});

  PreprocessGeometry g;
  g.original_height = g.crop_height = image_height;
  g.original_width = g.crop_width = image_width;
  if (const auto size = reader.size(object, "original_size")) {
    if (size->height != image_height || size->width != image_width) {
      reader.fail(fmt::format("original_size is {}x{}, but the picture is {}x{}", size->height,
                              size->width, image_height, image_width));
    }
  }
  if (const json* crop = Reader::find(object, "static_crop_offset")) {
    const std::string what = "static_crop_offset";
    reader.check_fields(*crop, what, {"offset_x", "offset_y", "crop_width", "crop_height"});
    g.crop_x = reader.member(*crop, what, "offset_x", 0);
    g.crop_y = reader.member(*crop, what, "offset_y", 0);
    g.crop_width = reader.member(*crop, what, "crop_width", 1);
    g.crop_height = reader.member(*crop, what, "crop_height", 1);
  }
  if (const auto size = reader.size(object, "size_after_pre_processing")) {
    if (size->height != g.crop_height || size->width != g.crop_width) {
      reader.fail(fmt::format(
          "size_after_pre_processing is {}x{}, but the picture after the static crop is {}x{}",
          size->height, size->width, g.crop_height, g.crop_width));
    }
  }
  const auto network = reader.size(object, "inference_size");
  if (!network) reader.fail("the transform has no field 'inference_size'");
  g.network_height = network->height;
  g.network_width = network->width;
  if (const auto size = reader.size(object, "nonsquare_intermediate_size")) {
    g.intermediate_height = size->height;
    g.intermediate_width = size->width;
  }
  g.pad_left = reader.pad(object, "pad_left");
  g.pad_top = reader.pad(object, "pad_top");
  g.pad_right = reader.pad(object, "pad_right");
  g.pad_bottom = reader.pad(object, "pad_bottom");
  const int width = g.intermediate_width > 0 ? g.intermediate_width : g.network_width;
  const int height = g.intermediate_height > 0 ? g.intermediate_height : g.network_height;
  g.scale_x = reader.scale(object, "scale_width",
                           static_cast<double>(width - g.pad_left - g.pad_right) / g.crop_width);
  g.scale_y = reader.scale(object, "scale_height",
                           static_cast<double>(height - g.pad_top - g.pad_bottom) / g.crop_height);
  try {
    check_geometry(g, Convention::kInference);
  } catch (const Error& error) {
    reader.fail(error.what());
  }
  return g;
}

}  // namespace rfseg
