#include "eval/coco_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Kind = RawSegmentation::Kind;

[[noreturn]] void fail(const std::string& file, const std::string& entry, const std::string& what) {
  throw Error(ErrorCode::kInput, fmt::format("{}: {}: {}", file, entry, what));
}

/// Index of an id in a sorted list, or -1.
int index_of(const std::vector<int64_t>& ids, int64_t id) {
  const auto found = std::lower_bound(ids.begin(), ids.end(), id);
  return found != ids.end() && *found == id ? static_cast<int>(found - ids.begin()) : -1;
}

Rle box_mask(const double* box, int height, int width) {
  const double x0 = box[0], y0 = box[1], x1 = box[0] + box[2], y1 = box[1] + box[3];
  return rle_from_polygon({x0, y0, x0, y1, x1, y1, x1, y0}, height, width);
}

/// As annToRLE and frPyObjects of pycocotools read it. `height`, `width` are the picture's, -1 if
/// not known. Throws Error with a message that lacks file and entry.
Rle to_mask(const RawSegmentation& segmentation, int height, int width) {
  switch (segmentation.kind) {
    case Kind::kRleBytes:
      return rle_from_string(segmentation.bytes, segmentation.height, segmentation.width);
    case Kind::kRleCounts:
      return rle_from_counts(segmentation.counts, segmentation.height, segmentation.width);
    case Kind::kPolygons:
      break;
    case Kind::kAbsent:
      throw Error(ErrorCode::kInput, "has no segmentation");
  }
  const auto& polygons = segmentation.polygons;
  if (polygons.empty()) throw Error(ErrorCode::kInput, "the segmentation is an empty list");
  if (height < 0 || width < 0) {
    throw Error(ErrorCode::kInput, "polygons need the picture's height and width in 'images'");
  }
  // Lists of four numbers are boxes there, if the first is one.
  const bool boxes = polygons.front().size() == 4;
  std::vector<Rle> parts;
  for (const std::vector<double>& polygon : polygons) {
    if (boxes ? polygon.size() != 4 : parts.empty() && polygon.size() < 6) {
      throw Error(ErrorCode::kInput, "a polygon needs at least three points (six numbers)");
    }
    parts.push_back(boxes ? box_mask(polygon.data(), height, width)
                          : rle_from_polygon(polygon, height, width));
  }
  return parts.size() == 1 ? std::move(parts.front()) : rle_merge(parts, false);
}

template <class T>
T require(const std::optional<T>& value, const std::string& file, const std::string& entry,
          const char* member) {
  if (!value) fail(file, entry, fmt::format("has no '{}'", member));
  return *value;
}

Box to_box(const RawEntry& raw, const std::string& file, const std::string& entry) {
  if (raw.bbox.size() != 4) fail(file, entry, "has no 'bbox' of four numbers");
  return {raw.bbox[0], raw.bbox[1], raw.bbox[2], raw.bbox[3]};
}

}  // namespace

GroundTruth load_ground_truth(JsonBytes& source, IouType type) {
  const std::string& file = source.name();
  const bool masks = type == IouType::kSegm;
  struct Pending {
    std::size_t index;
    RawEntry raw;
  };
  std::vector<Pending> pending;
  std::map<int64_t, std::array<int, 2>> images;
  GroundTruth truth;
  // Annotations come before the images in some files: they are resolved at the end.
  read_entries(source, {{"images", "categories", "annotations"}, masks},
               [&](std::size_t section, std::size_t index, RawEntry& raw) {
                 if (section == 2) {
                   pending.push_back({index, std::move(raw)});
                   return;
                 }
                 const std::string entry =
                     fmt::format("{}[{}]", section == 0 ? "images" : "categories", index);
                 const int64_t id = require(raw.id, file, entry, "id");
                 if (section == 1) {
                   truth.category_ids.push_back(id);
                   return;
                 }
                 const auto side = [](const std::optional<int64_t>& value) {
                   return value && *value >= 0 && *value <= INT32_MAX ? static_cast<int>(*value)
                                                                      : -1;
                 };
                 images[id] = {side(raw.height), side(raw.width)};
               });
  for (const auto& [id, size] : images) {
    truth.image_ids.push_back(id);
    truth.image_sizes.push_back(size);
  }
  std::sort(truth.category_ids.begin(), truth.category_ids.end());
  truth.category_ids.erase(std::unique(truth.category_ids.begin(), truth.category_ids.end()),
                           truth.category_ids.end());

  std::unordered_set<int64_t> ids;
  truth.entries.reserve(pending.size());
  for (auto& [index, raw] : pending) {
    const auto entry = [&, i = index] { return fmt::format("annotations[{}]", i); };
    const int image = index_of(truth.image_ids, require(raw.image_id, file, entry(), "image_id"));
    const int category =
        index_of(truth.category_ids, require(raw.category_id, file, entry(), "category_id"));
    const int64_t id = require(raw.id, file, entry(), "id");
    if (!ids.insert(id).second) fail(file, entry(), fmt::format("repeats the id {}", id));
    if (image < 0 || category < 0) continue;
    TruthEntry& out = truth.entries.emplace_back();
    out.image = image;
    out.category = category;
    out.id = id;
    out.area = require(raw.area, file, entry(), "area");
    out.crowd = raw.crowd;
    if (masks) {
      const auto [height, width] = truth.image_sizes[image];
      try {
        out.mask = to_mask(raw.segmentation, height, width);
      } catch (const Error& e) {
        fail(file, entry(), e.what());
      }
      raw.segmentation = {};
    } else {
      out.box = to_box(raw, file, entry());
    }
    if (id == 0) {
      log_warning(file + ": annotation id 0 counts as unmatched, as in pycocotools");
    }
  }
  return truth;
}

std::vector<ResultEntry> load_results(JsonBytes& source, const GroundTruth& truth, IouType type,
                                      std::size_t* boxes_as_masks) {
  const std::string& file = source.name();
  std::vector<ResultEntry> results;
  bool boxes = false;  // pycocotools lets the first entry decide where areas come from
  read_entries(source, {{""}, true}, [&](std::size_t, std::size_t index, RawEntry& raw) {
    const std::string entry = fmt::format("entry {}", index);
    const int64_t image_id = require(raw.image_id, file, entry, "image_id");
    const int image = index_of(truth.image_ids, image_id);
    if (image < 0) {
      fail(file, entry,
           fmt::format("image_id {} is not in the ground truth (predict's --image-ids gives "
                       "results the ids of an instances file)",
                       image_id));
    }
    const int64_t category_id = require(raw.category_id, file, entry, "category_id");
    const double score = require(raw.score, file, entry, "score");
    if (index == 0) boxes = !raw.bbox.empty();
    const int category = index_of(truth.category_ids, category_id);
    if (category < 0) return;

    ResultEntry out;
    out.image = image;
    out.category = category;
    out.score = score;
    const bool need_mask = type == IouType::kSegm || !boxes;
    if (boxes) {
      out.box = to_box(raw, file, entry);
      out.area = out.box[2] * out.box[3];
    }
    if (need_mask) {
      Rle mask;
      try {
        const auto [height, width] = truth.image_sizes[image];
        if (raw.segmentation.kind == Kind::kAbsent && boxes) {
          if (height < 0) {
            throw Error(ErrorCode::kInput, "boxes as masks need the picture's height and width");
          }
          mask = box_mask(out.box.data(), height, width);
          if (boxes_as_masks != nullptr) ++*boxes_as_masks;
        } else {
          mask = to_mask(raw.segmentation, height, width);
        }
      } catch (const Error& e) {
        fail(file, entry, e.what());
      }
      if (!boxes) {
        out.area = static_cast<double>(rle_area(mask));
        if (raw.bbox.size() == 4) {
          out.box = to_box(raw, file, entry);
        } else {
          rle_to_bbox(mask, out.box.data());
        }
      }
      if (type == IouType::kSegm) {
        out.height = mask.height;
        out.width = mask.width;
        out.counts = rle_to_string(mask);
        out.counts.shrink_to_fit();
      }
    }
    results.push_back(std::move(out));
  });
  return results;
}

}  // namespace rfseg
