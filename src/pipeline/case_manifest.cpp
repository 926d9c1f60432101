#include "pipeline/case_manifest.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/coco_rle.h"
#include "core/json_input.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "rfseg cases";
constexpr int kMaxDepth = 16;
constexpr int kMaxSide = 65535;
constexpr int kMaxNetworkSide = 8192;
constexpr int kMaxPad = 1 << 20;
constexpr std::size_t kMaxItems = std::size_t{1} << 20;

template <class T, std::size_t n>
using Words = std::array<std::pair<const char*, T>, n>;

constexpr Words<Convention, 3> kConventions = {{{"rfdetr", Convention::kRfdetr},
                                                {"rfdetr-eval", Convention::kRfdetrEval},
                                                {"inference", Convention::kInference}}};
constexpr Words<ResizeMode, 4> kResizes = {{{"bilinear", ResizeMode::kBilinear},
                                            {"pil", ResizeMode::kPil},
                                            {"pil13", ResizeMode::kPil13},
                                            {"antialias", ResizeMode::kAntialias}}};
constexpr Words<Placement, 3> kPlacements = {{{"stretch", Placement::kStretch},
                                              {"letterbox", Placement::kLetterbox},
                                              {"center_crop", Placement::kCenterCrop}}};
constexpr Words<PixelFormat, 7> kFormats = {{{"rgb8", PixelFormat::kRgb8},
                                             {"bgr8", PixelFormat::kBgr8},
                                             {"rgba8", PixelFormat::kRgba8},
                                             {"gray8", PixelFormat::kGray8},
                                             {"nv12", PixelFormat::kNv12},
                                             {"i420", PixelFormat::kI420},
                                             {"p010", PixelFormat::kP010}}};
constexpr Words<YuvMatrix, 2> kMatrices = {
    {{"bt601", YuvMatrix::kBt601}, {"bt709", YuvMatrix::kBt709}}};
constexpr Words<YuvRange, 2> kRanges = {
    {{"limited", YuvRange::kLimited}, {"full", YuvRange::kFull}}};

template <class T, std::size_t n>
const char* word_of(const Words<T, n>& words, T value) {
  for (const auto& [word, known] : words) {
    if (known == value) return word;
  }
  return "";
}

ordered_json finite(double value) {
  if (!std::isfinite(value)) {
    throw Error(ErrorCode::kInput, "a result is not finite and cannot be recorded");
  }
  return value;
}

// The fields of PreprocessGeometry, by name.
template <class Geometry, class Visit>
void visit_geometry(Geometry& g, const Visit& visit) {
  visit("original_height", g.original_height, 1, kMaxSide);
  visit("original_width", g.original_width, 1, kMaxSide);
  visit("crop_x", g.crop_x, 0, kMaxSide);
  visit("crop_y", g.crop_y, 0, kMaxSide);
  visit("crop_width", g.crop_width, 1, kMaxSide);
  visit("crop_height", g.crop_height, 1, kMaxSide);
  visit("pad_left", g.pad_left, -kMaxPad, kMaxPad);
  visit("pad_top", g.pad_top, -kMaxPad, kMaxPad);
  visit("pad_right", g.pad_right, -kMaxPad, kMaxPad);
  visit("pad_bottom", g.pad_bottom, -kMaxPad, kMaxPad);
  visit("intermediate_height", g.intermediate_height, 0, kMaxSide);
  visit("intermediate_width", g.intermediate_width, 0, kMaxSide);
  visit("network_height", g.network_height, 1, kMaxSide);
  visit("network_width", g.network_width, 1, kMaxSide);
}

ordered_json postprocess_json(const CaseEntry& entry) {
  const PostprocessSpec& spec = entry.postprocess;
  ordered_json out;
  out["like"] = word_of(kConventions, spec.like);
  out["threshold"] = finite(spec.threshold);
  out["class_thresholds"] = spec.class_thresholds;
  out["class_map"] = spec.class_map;
  out["num_select"] = spec.num_select;
  out["max_detections"] = spec.max_detections;
  out["masks"] = spec.masks != MaskFormat::kNone;
  ordered_json& geometry = out["geometry"];
  visit_geometry(spec.geometry,
                 [&](const char* name, int value, int, int) { geometry[name] = value; });
  geometry["scale_x"] = finite(spec.geometry.scale_x);
  geometry["scale_y"] = finite(spec.geometry.scale_y);
  return out;
}

ordered_json expected_json(const Detections& detections) {
  ordered_json out = ordered_json::array();
  for (const Detection& detection : detections.items) {
    ordered_json& item = out.emplace_back();
    item["class_id"] = detection.class_id;
    item["query"] = detection.query;
    item["score"] = finite(detection.score);
    for (const float value : detection.box_xyxy) item["box_xyxy"].push_back(finite(value));
    if (detection.mask) item["counts"] = detection.mask->counts;
  }
  return out;
}

ordered_json preprocess_json(const PreprocessSpec& spec) {
  ordered_json out;
  out["network_height"] = spec.network_height;
  out["network_width"] = spec.network_width;
  out["resize"] = word_of(kResizes, spec.resize);
  if (spec.static_crop) {
    out["static_crop"] = {{"x_min", spec.static_crop->x_min},
                          {"x_max", spec.static_crop->x_max},
                          {"y_min", spec.static_crop->y_min},
                          {"y_max", spec.static_crop->y_max}};
  }
  out["placement"] = word_of(kPlacements, spec.placement);
  out["intermediate_height"] = spec.intermediate_height;
  out["intermediate_width"] = spec.intermediate_width;
  out["padding_value"] = spec.padding_value;
  out["mean"] = spec.mean;
  out["std"] = spec.std;
  return out;
}

ordered_json entry_json(const CaseEntry& entry) {
  ordered_json out;
  out["name"] = entry.name;
  out["source"] = entry.source;
  if (entry.frame) out["frame"] = *entry.frame;
  if (entry.stage == CaseEntry::Stage::kPostprocess) {
    out["stage"] = "postprocess";
    out["boxes"] = entry.boxes;
    out["logits"] = entry.logits;
    if (!entry.masks.empty()) out["masks"] = entry.masks;
    out["spec"] = postprocess_json(entry);
    out["expected"] = expected_json(entry.expected);
    return out;
  }
  out["stage"] = "preprocess";
  out["pixels"] = entry.pixels;
  out["picture"] = {{"width", entry.picture.width},
                    {"height", entry.picture.height},
                    {"format", word_of(kFormats, entry.picture.format)},
                    {"matrix", word_of(kMatrices, entry.picture.matrix)},
                    {"range", word_of(kRanges, entry.picture.range)}};
  out["spec"] = preprocess_json(entry.preprocess);
  out["expected"] = entry.tensor;
  return out;
}

class ManifestReader {
 public:
  explicit ManifestReader(const std::string& name) : place_(name) {}

  CaseManifest read(std::string_view text) {
    const std::string name = place_;
    const json root = parse(text);
    const json& format = member(root, "format");
    if (!format.is_string() || format.get<std::string>() != kFormat) {
      fail(fmt::format("'format' must be \"{}\"", kFormat));
    }
    const int version = integer(root, "version", 0, 1 << 30);
    if (version != kCaseFormatVersion) {
      fail(fmt::format("format version {} is not known; {} is", version, kCaseFormatVersion));
    }
    CaseManifest manifest;
    if (const json* made_by = find(root, "made_by")) {
      if (!made_by->is_object()) fail("'made_by' must be an object");
      for (const auto& [key, value] : made_by->items()) {
        if (value.is_string()) manifest.made_by[key] = value.get<std::string>();
      }
    }
    for (const json& entry : array(root, "cases")) {
      place_ = fmt::format("{}: cases[{}]", name, manifest.cases.size());
      manifest.cases.push_back(case_entry(entry));
    }
    return manifest;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kInput, place_ + ": " + what);
  }

  json parse(std::string_view text) const {
    if (json_depth(text) > kMaxDepth) fail("the JSON is nested too deeply");
    try {
      return json::parse(text.begin(), text.end());
    } catch (const json::exception& error) {
      fail("not valid JSON: " + json_problem(error.what()));
    }
  }

  const json* find(const json& object, const char* key) const {
    if (!object.is_object()) fail("an object is expected");
    const auto found = object.find(key);
    return found == object.end() ? nullptr : &*found;
  }
  const json& member(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) fail(fmt::format("has no '{}'", key));
    return *value;
  }
  const json& array(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_array() || value.size() > kMaxItems) {
      fail(fmt::format("'{}' must be an array of at most {}", key, kMaxItems));
    }
    return value;
  }
  double number(const json& value, const char* key) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      fail(fmt::format("'{}' must be a number", key));
    }
    return value.get<double>();
  }
  /// A number that float32 can hold.
  float single(const json& value, const char* key) const {
    const double wide = number(value, key);
    if (std::abs(wide) > std::numeric_limits<float>::max()) {
      fail(fmt::format("'{}' must be a number of 32 bits", key));
    }
    return static_cast<float>(wide);
  }
  int whole(const json& value, const char* key, int low, int high) const {
    if (!value.is_number_integer() || value.get<double>() < low || value.get<double>() > high) {
      fail(fmt::format("'{}' must be a whole number from {} to {}", key, low, high));
    }
    return value.get<int>();
  }
  int integer(const json& object, const char* key, int low, int high) const {
    return whole(member(object, key), key, low, high);
  }
  std::string text(const json& object, const char* key) const {
    const json& value = member(object, key);
    if (!value.is_string()) fail(fmt::format("'{}' must be a string", key));
    return value.get<std::string>();
  }
  std::string file(const json& object, const char* key) const {
    std::string name = text(object, key);
    if (name.empty() || name[0] == '.' ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      fail(fmt::format("'{}' must be the name of a file in the folder", key));
    }
    return name;
  }
  template <class T, std::size_t n>
  T word(const json& object, const char* key, const Words<T, n>& words) const {
    const std::string found = text(object, key);
    std::string known;
    for (const auto& [label, value] : words) {
      if (found == label) return value;
      known += (known.empty() ? "" : ", ") + std::string(label);
    }
    fail(fmt::format("'{}' must be one of {}", key, known));
  }

  CaseEntry case_entry(const json& object) const {
    CaseEntry entry;
    entry.name = text(object, "name");
    entry.source = text(object, "source");
    if (const json* frame = find(object, "frame")) {
      if (!frame->is_number_integer()) fail("'frame' must be a whole number");
      entry.frame = frame->get<int64_t>();
    }
    const std::string stage = text(object, "stage");
    if (stage == "postprocess") {
      entry.stage = CaseEntry::Stage::kPostprocess;
      entry.boxes = file(object, "boxes");
      entry.logits = file(object, "logits");
      if (find(object, "masks") != nullptr) entry.masks = file(object, "masks");
      entry.postprocess = postprocess_spec(member(object, "spec"));
      entry.expected = detections(object, entry.postprocess.geometry);
    } else if (stage == "preprocess") {
      entry.stage = CaseEntry::Stage::kPreprocess;
      entry.pixels = file(object, "pixels");
      entry.tensor = file(object, "expected");
      const json& picture = member(object, "picture");
      entry.picture.width = integer(picture, "width", 1, kMaxSide);
      entry.picture.height = integer(picture, "height", 1, kMaxSide);
      entry.picture.format = word(picture, "format", kFormats);
      entry.picture.matrix = word(picture, "matrix", kMatrices);
      entry.picture.range = word(picture, "range", kRanges);
      entry.preprocess = preprocess_spec(member(object, "spec"));
    } else {
      fail("'stage' must be postprocess or preprocess");
    }
    return entry;
  }

  PostprocessSpec postprocess_spec(const json& object) const {
    PostprocessSpec spec;
    spec.like = word(object, "like", kConventions);
    spec.threshold = single(member(object, "threshold"), "threshold");
    for (const json& value : array(object, "class_thresholds")) {
      spec.class_thresholds.push_back(single(value, "class_thresholds"));
    }
    for (const json& value : array(object, "class_map")) {
      spec.class_map.push_back(whole(value, "class_map", -1, static_cast<int>(kMaxItems)));
    }
    spec.num_select = integer(object, "num_select", 1, 100000000);
    spec.max_detections = integer(object, "max_detections", 1, 1000000);
    const json& masks = member(object, "masks");
    if (!masks.is_boolean()) fail("'masks' must be true or false");
    spec.masks = masks.get<bool>() ? MaskFormat::kRle : MaskFormat::kNone;
    const json& geometry = member(object, "geometry");
    visit_geometry(spec.geometry, [&](const char* name, int& value, int low, int high) {
      value = integer(geometry, name, low, high);
    });
    spec.geometry.scale_x = number(member(geometry, "scale_x"), "scale_x");
    spec.geometry.scale_y = number(member(geometry, "scale_y"), "scale_y");
    return spec;
  }

  Detections detections(const json& object, const PreprocessGeometry& geometry) const {
    Detections out;
    out.width = geometry.original_width;
    out.height = geometry.original_height;
    constexpr int kMost = std::numeric_limits<int>::max();
    for (const json& item : array(object, "expected")) {
      Detection& detection = out.items.emplace_back();
      detection.class_id = integer(item, "class_id", 0, kMost);
      detection.query = integer(item, "query", 0, kMost);
      detection.score = single(member(item, "score"), "score");
      const json& box = array(item, "box_xyxy");
      if (box.size() != 4) fail("'box_xyxy' must hold four numbers");
      for (std::size_t i = 0; i < 4; ++i) detection.box_xyxy[i] = single(box[i], "box_xyxy");
      if (find(item, "counts") == nullptr) continue;
      Mask mask{out.height, out.width, text(item, "counts")};
      try {
        rle_from_string(mask.counts, mask.height, mask.width);
      } catch (const Error& error) {
        fail(fmt::format("'counts': {}", error.what()));
      }
      detection.mask = std::make_shared<const Mask>(std::move(mask));
    }
    return out;
  }

  PreprocessSpec preprocess_spec(const json& object) const {
    PreprocessSpec spec;
    spec.network_height = integer(object, "network_height", 1, kMaxNetworkSide);
    spec.network_width = integer(object, "network_width", 1, kMaxNetworkSide);
    spec.resize = word(object, "resize", kResizes);
    if (const json* crop = find(object, "static_crop")) {
      spec.static_crop =
          StaticCrop{integer(*crop, "x_min", 0, 100), integer(*crop, "x_max", 0, 100),
                     integer(*crop, "y_min", 0, 100), integer(*crop, "y_max", 0, 100)};
    }
    spec.placement = word(object, "placement", kPlacements);
    spec.intermediate_height = integer(object, "intermediate_height", 0, kMaxNetworkSide);
    spec.intermediate_width = integer(object, "intermediate_width", 0, kMaxNetworkSide);
    spec.padding_value = integer(object, "padding_value", 0, 255);
    for (const auto& [key, values] : {std::pair{"mean", &spec.mean}, {"std", &spec.std}}) {
      const json& list = array(object, key);
      if (list.size() != 3) fail(fmt::format("'{}' must hold three numbers", key));
      for (std::size_t i = 0; i < 3; ++i) (*values)[i] = single(list[i], key);
    }
    return spec;
  }

  std::string place_;
};

}  // namespace

std::string manifest_text(const CaseManifest& manifest) {
  ordered_json out;
  out["format"] = kFormat;
  out["version"] = kCaseFormatVersion;
  out["made_by"] = manifest.made_by;
  out["cases"] = ordered_json::array();
  for (const CaseEntry& entry : manifest.cases) out["cases"].push_back(entry_json(entry));
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

CaseManifest parse_manifest(std::string_view text, const std::string& name) {
  return ManifestReader(name).read(text);
}

}  // namespace rfseg
