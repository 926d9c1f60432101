#include "eval/run_results.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "core/coco_rle.h"
#include "core/json_input.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLineBytes = std::size_t{1} << 28;
constexpr int kMaxDepth = 16;

/// Reads the members of one line. Messages begin with file and line.
class LineReader {
 public:
  explicit LineReader(std::string place) : place_(std::move(place)) {}

  RunPicture picture(const std::string& text) {
    const json line = parse(text);
    if (!line.is_object()) fail("an object with 'file' and 'detections' is expected");
    RunPicture picture;
    const json& file = member(line, "file");
    if (!file.is_string()) fail("'file' must be a string");
    picture.file = file.get<std::string>();
    if (const auto frame = line.find("frame"); frame != line.end() && !frame->is_null()) {
      picture.frame = whole(*frame, "frame");
    }
    for (const char* side : {"width", "height"}) {
      const auto found = line.find(side);
      if (found == line.end()) continue;
      const int64_t pixels = whole(*found, side);
      if (pixels < 0 || pixels > kMaxSide)
        fail(fmt::format("'{}' must be 0 to {}", side, kMaxSide));
      (side[0] == 'w' ? width_ : height_) = static_cast<int>(pixels);
    }
    const json& detections = member(line, "detections");
    if (!detections.is_array()) fail("'detections' must be an array");
    const std::string place = place_;
    for (const json& entry : detections) {
      place_ = fmt::format("{}: detections[{}]", place, picture.detections.size());
      picture.detections.push_back(detection(entry));
    }
    picture.width = width_;
    picture.height = height_;
    return picture;
  }

 private:
  static constexpr int kMaxSide = 65535;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kInput, place_ + ": " + what);
  }

  json parse(const std::string& text) const {
    if (json_depth(text) > kMaxDepth) fail("the JSON is nested too deeply");
    try {
      return json::parse(text);
    } catch (const json::exception& error) {
      fail("not valid JSON: " + json_problem(error.what()));
    }
  }

  const json& member(const json& object, const char* name) const {
    const auto found = object.find(name);
    if (found == object.end()) fail(fmt::format("has no '{}'", name));
    return *found;
  }
  int64_t whole(const json& value, const char* name) const {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      fail(fmt::format("'{}' must be a whole number", name));
    }
    return value.get<int64_t>();
  }
  double number(const json& value, const char* name) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      fail(fmt::format("'{}' must hold numbers", name));
    }
    return value.get<double>();
  }

  RunDetection detection(const json& entry) const {
    if (!entry.is_object()) fail("must be an object");
    RunDetection out;
    out.class_id = whole(member(entry, "class_id"), "class_id");
    if (const auto name = entry.find("class_name"); name != entry.end() && name->is_string()) {
      out.class_name = name->get<std::string>();
    }
    out.score = number(member(entry, "score"), "score");
    const json& box = member(entry, "box_xyxy");
    if (!box.is_array() || box.size() != 4) fail("'box_xyxy' must hold four numbers");
    for (std::size_t i = 0; i < 4; ++i) out.box_xyxy[i] = number(box[i], "box_xyxy");
    const auto segmentation = entry.find("segmentation");
    if (segmentation != entry.end() && !segmentation->is_null()) set_mask(*segmentation, out);
    return out;
  }

  void set_mask(const json& value, RunDetection& out) const {
    try {
      if (value.is_array()) {
        store(polygons(value), out);
        return;
      }
      if (!value.is_object()) fail("'segmentation' must be run lengths or polygons");
      const json& size = member(value, "size");
      if (!size.is_array() || size.size() != 2) fail("'size' must be [height, width]");
      const int64_t height = whole(size[0], "size"), width = whole(size[1], "size");
      if (height < 0 || width < 0 || height > kMaxSide || width > kMaxSide) {
        fail("'size' must be [height, width] in pixels");
      }
      const json& counts = member(value, "counts");
      const auto rows = static_cast<int>(height), columns = static_cast<int>(width);
      if (counts.is_string()) {
        const auto& bytes = counts.get_ref<const std::string&>();
        rle_from_string(bytes, rows, columns);
        out.has_mask = true;
        out.mask_height = rows;
        out.mask_width = columns;
        out.counts = bytes;
        return;
      }
      if (!counts.is_array()) fail("'counts' must be a string or a list");
      std::vector<int64_t> runs;
      for (const json& run : counts) runs.push_back(whole(run, "counts"));
      store(rle_from_counts(runs, rows, columns), out);
    } catch (const Error& error) {
      const std::string what = error.what();
      if (what.starts_with(place_)) throw;
      fail("segmentation: " + what);
    }
  }

  Rle polygons(const json& lists) const {
    if (height_ <= 0 || width_ <= 0) fail("polygons need the picture's 'width' and 'height'");
    std::vector<Rle> parts;
    for (const json& list : lists) {
      if (!list.is_array() || list.size() < 6) fail("a polygon needs at least six numbers");
      std::vector<double> xy;
      for (const json& value : list) xy.push_back(number(value, "segmentation"));
      parts.push_back(rle_from_polygon(xy, height_, width_));
    }
    if (parts.empty()) {
      return rle_from_counts({int64_t{height_} * width_}, height_, width_);  // an empty mask
    }
    return parts.size() == 1 ? std::move(parts.front()) : rle_merge(parts, false);
  }

  static void store(const Rle& mask, RunDetection& out) {
    out.has_mask = true;
    out.mask_height = mask.height;
    out.mask_width = mask.width;
    out.counts = rle_to_string(mask);
  }

  std::string place_;
  int width_ = 0, height_ = 0;
};

void read_lines(JsonBytes& source, RunResults& run) {
  std::string line;
  for (int64_t number = 1; !source.at_end(); ++number) {
    line.clear();
    bool blank = true;
    while (!source.at_end() && source.peek() != '\n') {
      const char c = source.peek();
      blank = blank && (c == ' ' || c == '\t' || c == '\r');
      if (line.size() == kMaxLineBytes) {
        throw Error(ErrorCode::kInput, fmt::format("{}: line {}: longer than {} bytes",
                                                   source.name(), number, kMaxLineBytes));
      }
      line += c;
      source.advance();
    }
    if (!source.at_end()) source.advance();
    if (blank) continue;
    run.pictures.push_back(
        LineReader(fmt::format("{}: line {}", source.name(), number)).picture(line));
  }
}

void read_coco(JsonBytes& source, RunResults& run) {
  run.coco = true;
  std::map<int64_t, std::size_t> pictures;
  read_entries(source, {{""}, true}, [&](std::size_t, std::size_t index, RawEntry& raw) {
    const auto fail = [&](const std::string& what) {
      throw Error(ErrorCode::kInput, fmt::format("{}: entry {}: {}", source.name(), index, what));
    };
    if (!raw.image_id) fail("has no 'image_id'");
    if (!raw.category_id) fail("has no 'category_id'");
    if (!raw.score) fail("has no 'score'");
    RunDetection out;
    out.class_id = *raw.category_id;
    out.score = *raw.score;
    using Kind = RawSegmentation::Kind;
    RawSegmentation& mask = raw.segmentation;
    Rle rle;
    try {
      if (mask.kind == Kind::kPolygons) {
        fail("holds polygons, which need the picture's size; compare JSON lines instead");
      }
      if (mask.kind == Kind::kRleBytes) rle = rle_from_string(mask.bytes, mask.height, mask.width);
      if (mask.kind == Kind::kRleCounts)
        rle = rle_from_counts(mask.counts, mask.height, mask.width);
    } catch (const Error& error) {
      const std::string what = error.what();
      if (what.starts_with(source.name())) throw;
      fail("segmentation: " + what);
    }
    if (mask.kind != Kind::kAbsent) {
      out.has_mask = true;
      out.mask_height = rle.height;
      out.mask_width = rle.width;
      out.counts = mask.kind == Kind::kRleBytes ? std::move(mask.bytes) : rle_to_string(rle);
    }
    double box[4] = {};
    if (raw.bbox.size() == 4) {
      std::copy(raw.bbox.begin(), raw.bbox.end(), box);
    } else if (out.has_mask) {
      rle_to_bbox(rle, box);
    } else {
      fail("has neither 'bbox' nor 'segmentation'");
    }
    out.box_xyxy = {box[0], box[1], box[0] + box[2], box[1] + box[3]};
    for (const double value :
         {out.score, out.box_xyxy[0], out.box_xyxy[1], out.box_xyxy[2], out.box_xyxy[3]}) {
      if (!std::isfinite(value)) fail("'score' and 'bbox' must be finite");
    }
    const auto [place, is_new] = pictures.emplace(*raw.image_id, run.pictures.size());
    if (is_new) run.pictures.push_back({fmt::format("image {}", *raw.image_id), {}, {}});
    RunPicture& picture = run.pictures[place->second];
    if (picture.width == 0 && out.has_mask) {
      picture.width = out.mask_width;
      picture.height = out.mask_height;
    }
    picture.detections.push_back(std::move(out));
  });
}

}  // namespace

RunResults read_run(JsonBytes& source) {
  RunResults run;
  run.name = source.name();
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!source.at_end() && space(source.peek())) source.advance();
  if (!source.at_end() && source.peek() == '[') {
    read_coco(source, run);
  } else {
    read_lines(source, run);
  }
  return run;
}

}  // namespace rfseg
