#include "eval/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "core/coco_rle.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr uint64_t kSmallMask = 100;  // pixels: below, one pixel is a large share

using PictureKey = std::tuple<std::string, std::optional<int64_t>, std::size_t>;

using Aliases = std::map<std::string, std::string>;

// The third part counts equal names.
std::vector<PictureKey> picture_keys(const RunResults& run, const Aliases& aliases) {
  std::map<std::pair<std::string, std::optional<int64_t>>, std::size_t> seen;
  std::vector<PictureKey> keys;
  for (const RunPicture& picture : run.pictures) {
    const auto alias = aliases.find(picture.file);
    const std::string& file = alias == aliases.end() ? picture.file : alias->second;
    keys.emplace_back(file, picture.frame, seen[{file, picture.frame}]++);
  }
  return keys;
}

// The last `parts` parts of a path.
std::string tail(const std::string& path, int parts) {
  std::size_t at = path.size();
  for (; parts > 0 && at != 0; --parts) {
    const std::size_t slash = at == 0 ? std::string::npos : path.rfind('/', at - 1);
    at = slash == std::string::npos ? 0 : slash;
  }
  return path.substr(at != 0 || path.starts_with('/') ? at + 1 : 0);
}

// Which file of A those of B are that A does not name: runs from two folders name one picture
// differently. Only where the end of the path tells it apart from all others of each run.
Aliases match_by_name(const RunResults& a, const RunResults& b) {
  constexpr int kMostParts = 16;
  Aliases aliases;
  if (a.coco) return aliases;
  std::set<std::string> files_a, files_b;
  for (const RunPicture& picture : a.pictures) files_a.insert(picture.file);
  for (const RunPicture& picture : b.pictures) files_b.insert(picture.file);
  std::set<std::string> taken;  // of A
  std::size_t left = 0;
  for (const std::string& file : files_b) left += !files_a.contains(file);
  for (int parts = 1; parts <= kMostParts && aliases.size() < left; ++parts) {
    const auto by_tail = [&](const std::set<std::string>& files) {
      std::map<std::string, std::pair<std::size_t, const std::string*>> tails;
      for (const std::string& file : files) {
        auto& entry = tails[tail(file, parts)];
        ++entry.first;
        entry.second = &file;
      }
      return tails;
    };
    const auto tails_a = by_tail(files_a), tails_b = by_tail(files_b);
    for (const auto& [end, of_b] : tails_b) {
      const auto found = tails_a.find(end);
      if (of_b.first != 1 || found == tails_a.end() || found->second.first != 1) continue;
      const std::string &file_a = *found->second.second, &file_b = *of_b.second;
      if (files_a.contains(file_b) || files_b.contains(file_a) || aliases.contains(file_b)) {
        continue;
      }
      if (taken.insert(file_a).second) aliases.emplace(file_b, file_a);
    }
  }
  return aliases;
}

/// What overlaps are computed from.
struct Shape2d {
  const RunDetection* detection = nullptr;
  Rle mask;
  uint64_t area = 0;
  double extent[4] = {};  // of the mask: x, y, width, height

  double left() const {
    const auto& box = detection->box_xyxy;
    const double edge = std::min(box[0], box[2]);
    return detection->has_mask ? std::min(edge, extent[0]) : edge;
  }
  double right() const {
    const auto& box = detection->box_xyxy;
    const double edge = std::max(box[0], box[2]);
    return detection->has_mask ? std::max(edge, extent[0] + extent[2]) : edge;
  }
};

std::vector<Shape2d> shapes(const RunPicture& picture) {
  std::vector<Shape2d> out(picture.detections.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const RunDetection& detection = picture.detections[i];
    out[i].detection = &detection;
    if (!detection.has_mask) continue;
    out[i].mask = rle_from_string(detection.counts, detection.mask_height, detection.mask_width);
    out[i].area = rle_area(out[i].mask);
    rle_to_bbox(out[i].mask, out[i].extent);
  }
  return out;
}

double box_iou(const std::array<double, 4>& a, const std::array<double, 4>& b) {
  if (a == b) return 1;
  const double width = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const double height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (!(width > 0 && height > 0)) return 0;
  const double both = width * height;
  return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both);
}

double mask_iou(const Shape2d& a, const Shape2d& b) {
  if (!a.detection->has_mask || !b.detection->has_mask) return 0;
  if (a.mask.height != b.mask.height || a.mask.width != b.mask.width) return 0;
  if (a.detection->counts == b.detection->counts) return 1;
  const bool apart =
      a.extent[0] + a.extent[2] <= b.extent[0] || b.extent[0] + b.extent[2] <= a.extent[0] ||
      a.extent[1] + a.extent[3] <= b.extent[1] || b.extent[1] + b.extent[3] <= a.extent[1];
  return apart ? 0 : rle_iou(a.mask, b.mask, false);
}

double overlap(const Shape2d& a, const Shape2d& b) {
  if (a.area >= kSmallMask && b.area >= kSmallMask) return mask_iou(a, b);
  return box_iou(a.detection->box_xyxy, b.detection->box_xyxy);
}

/// Some detections by their left edges, so that not all are looked at to find those that overlap.
class Lane {
 public:
  void add(const Shape2d& shape, std::size_t index) {
    places_.push_back({shape.left(), shape.right(), index});
    widest_ = std::max(widest_, places_.back().right - places_.back().left);
  }
  void sort() {
    std::sort(places_.begin(), places_.end(),
              [](const Place& a, const Place& b) { return a.left < b.left; });
  }
  /// Indices of those that meet [left, right], in no order.
  template <class Visit>
  void visit(double left, double right, Visit&& see) const {
    auto at = std::lower_bound(places_.begin(), places_.end(), left - widest_,
                               [](const Place& place, double edge) { return place.left < edge; });
    for (; at != places_.end() && at->left <= right; ++at) {
      if (at->right >= left) see(at->index);
    }
  }

 private:
  struct Place {
    double left, right;
    std::size_t index;
  };
  std::vector<Place> places_;
  double widest_ = 0;
};

/// The detections of a picture, of each class and all.
struct Lanes {
  explicit Lanes(const std::vector<Shape2d>& shapes) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      of_class[shapes[i].detection->class_id].add(shapes[i], i);
      all.add(shapes[i], i);
    }
    for (auto& [id, lane] : of_class) lane.sort();
    all.sort();
  }
  std::map<int64_t, Lane> of_class;
  Lane all;
};

std::vector<std::size_t> by_score(const std::vector<Shape2d>& all) {
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) {
    return all[i].detection->score > all[j].detection->score;
  });
  return order;
}

class Comparison {
 public:
  Comparison(const ParityOptions& options, ParityReport& report)
      : options_(options), report_(report) {}

  void picture(const RunPicture& a, const RunPicture& b) {
    const std::vector<Shape2d> of_a = shapes(a), of_b = shapes(b);
    report_.detections_a += of_a.size();
    report_.detections_b += of_b.size();
    std::vector<bool> used_a(of_a.size()), used_b(of_b.size());
    const std::vector<std::size_t> order = by_score(of_a);
    const Lanes lanes(of_b);
    for (const std::size_t i : order) {
      const auto lane = lanes.of_class.find(of_a[i].detection->class_id);
      if (lane == lanes.of_class.end()) continue;
      const std::size_t j = partner(of_a[i], of_b, lane->second, used_b, true);
      if (j == of_b.size()) continue;
      used_a[i] = used_b[j] = true;
      pair(of_a[i], of_b[j]);
    }
    set_aside(a, of_a, used_a, report_.near_threshold_a);
    set_aside(b, of_b, used_b, report_.near_threshold_b);
    std::vector<bool> changed = used_b;
    for (const std::size_t i : order) {
      if (used_a[i]) continue;
      report_.unmatched_a.push_back(name(a, *of_a[i].detection));
      const std::size_t j = partner(of_a[i], of_b, lanes.all, changed, false);
      if (j == of_b.size()) continue;
      changed[j] = true;
      report_.class_changes.push_back({report_.unmatched_a.back(), name(b, *of_b[j].detection)});
    }
    for (const std::size_t j : by_score(of_b)) {
      if (!used_b[j]) report_.unmatched_b.push_back(name(b, *of_b[j].detection));
    }
  }

  void finish() {
    report_.box_px = Distribution::of(std::move(box_px_));
    report_.score = Distribution::of(std::move(score_));
    report_.mask_iou = Distribution::of(std::move(mask_iou_));
  }

 private:
  std::size_t partner(const Shape2d& a, const std::vector<Shape2d>& of_b, const Lane& lane,
                      const std::vector<bool>& used, bool same_class) const {
    const std::size_t none = of_b.size();
    std::size_t best = none;
    double most = options_.match_iou, nearest = 0;
    const auto look = [&](std::size_t j) {
      if (used[j] || (a.detection->class_id == of_b[j].detection->class_id) != same_class) return;
      const double value = overlap(a, of_b[j]);
      if (!(value >= most)) return;
      const double distance = std::abs(a.detection->score - of_b[j].detection->score);
      const bool better =
          best == none || value > most || std::pair(distance, j) < std::pair(nearest, best);
      if (!better) return;
      best = j;
      most = value;
      nearest = distance;
    };
    constexpr double kEverywhere = std::numeric_limits<double>::infinity();
    const bool any = options_.match_iou <= 0;  // then what lies apart is a partner, too
    lane.visit(any ? -kEverywhere : a.left(), any ? kEverywhere : a.right(), look);
    return best;
  }

  void pair(const Shape2d& a, const Shape2d& b) {
    ++report_.matched;
    double worst = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      worst = std::max(worst, std::abs(a.detection->box_xyxy[i] - b.detection->box_xyxy[i]));
    }
    box_px_.push_back(worst);
    score_.push_back(std::abs(a.detection->score - b.detection->score));
    const bool mask_a = a.detection->has_mask, mask_b = b.detection->has_mask;
    if (!mask_a && !mask_b) return;
    ++report_.mask_pairs;
    report_.one_sided_masks += mask_a != mask_b;
    report_.identical += mask_a && mask_b && a.mask.height == b.mask.height &&
                         a.mask.width == b.mask.width && a.detection->counts == b.detection->counts;
    if (std::max(a.area, b.area) > kSmallMask) {
      mask_iou_.push_back(mask_iou(a, b));
    } else {
      ++report_.small_masks;
    }
  }

  bool near_threshold(const RunDetection& detection) const {
    double threshold = report_.threshold.value_or(0);
    const auto id = static_cast<std::size_t>(detection.class_id);
    if (detection.class_id >= 0 && id < options_.class_thresholds.size()) {
      threshold = options_.class_thresholds[id];
    }
    // Decimals such as 0.51 - 0.5 are a little more than 0.01.
    return std::abs(detection.score - threshold) <= options_.score_margin + 1e-9;
  }

  void set_aside(const RunPicture& picture, const std::vector<Shape2d>& all,
                 std::vector<bool>& used, std::vector<ParityDetection>& out) const {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (used[i] || !near_threshold(*all[i].detection)) continue;
      used[i] = true;
      out.push_back(name(picture, *all[i].detection));
    }
  }

  static ParityDetection name(const RunPicture& picture, const RunDetection& detection) {
    return {picture.file, picture.frame, detection.class_id, detection.class_name, detection.score};
  }

  const ParityOptions& options_;
  ParityReport& report_;
  std::vector<double> box_px_, score_, mask_iou_;
};

std::optional<double> lowest_score(const RunResults& a, const RunResults& b) {
  std::optional<double> lowest;
  for (const RunResults* run : {&a, &b}) {
    for (const RunPicture& picture : run->pictures) {
      for (const RunDetection& detection : picture.detections) {
        lowest = std::min(lowest.value_or(detection.score), detection.score);
      }
    }
  }
  return lowest;
}

std::string describe(const RunPicture& picture) {
  return picture.frame ? fmt::format("{} frame {}", picture.file, *picture.frame) : picture.file;
}

}  // namespace

double ParityReport::identical_share() const {
  return mask_pairs == 0 ? std::nan("")
                         : static_cast<double>(identical) / static_cast<double>(mask_pairs);
}

bool ParityBounds::any() const { return any_difference() || max_unmatched; }

bool ParityBounds::any_difference() const {
  return max_box_px || max_score || min_mask_iou || min_mean_iou || min_identical;
}

ParityReport compare_runs(const RunResults& a, const RunResults& b, const ParityOptions& options) {
  if (a.coco != b.coco) {
    throw Error(ErrorCode::kInput,
                fmt::format("{} and {}: one is a COCO array and the other JSON lines, which name "
                            "pictures differently; two of a kind are expected",
                            a.name, b.name));
  }
  if (a.pictures.empty() && b.pictures.empty()) {
    throw Error(ErrorCode::kInput, fmt::format("{} and {}: hold no picture", a.name, b.name));
  }
  ParityReport report;
  report.threshold = options.threshold ? options.threshold : lowest_score(a, b);
  report.threshold_named = options.threshold.has_value();
  const Aliases aliases = match_by_name(a, b);
  const std::vector<PictureKey> keys_a = picture_keys(a, {}), keys_b = picture_keys(b, aliases);
  std::map<PictureKey, std::size_t> index_b;
  for (std::size_t j = 0; j < keys_b.size(); ++j) index_b.emplace(keys_b[j], j);
  Comparison comparison(options, report);
  std::vector<bool> seen(keys_b.size());
  const RunPicture nothing;
  for (std::size_t i = 0; i < keys_a.size(); ++i) {
    ++report.pictures;
    const auto found = index_b.find(keys_a[i]);
    if (found != index_b.end()) {
      seen[found->second] = true;
      const RunPicture &of_a = a.pictures[i], &of_b = b.pictures[found->second];
      report.by_name += of_a.file != of_b.file;
      const bool sized = of_a.width > 0 && of_b.width > 0;
      if (sized && (of_a.width != of_b.width || of_a.height != of_b.height)) {
        report.size_changes.push_back(fmt::format("{}: {}x{} in A, {}x{} in B", describe(of_a),
                                                  of_a.height, of_a.width, of_b.height,
                                                  of_b.width));
      }
      comparison.picture(of_a, of_b);
      continue;
    }
    // COCO arrays do not list pictures in which nothing was found.
    if (!a.coco) report.only_a.push_back(describe(a.pictures[i]));
    comparison.picture(a.pictures[i], nothing);
  }
  for (std::size_t j = 0; j < keys_b.size(); ++j) {
    if (seen[j]) continue;
    ++report.pictures;
    if (!b.coco) report.only_b.push_back(describe(b.pictures[j]));
    comparison.picture(nothing, b.pictures[j]);
  }
  comparison.finish();
  return report;
}

std::vector<std::string> violations(const ParityReport& report, const ParityBounds& bounds) {
  std::vector<std::string> lines;
  if (!bounds.any()) return lines;
  const auto most = [&](const char* what, double value, const std::optional<double>& bound) {
    // An empty distribution holds no value that could be over the bound.
    if (!bound || report.matched == 0 || value <= *bound) return;
    lines.push_back(fmt::format("{} {:.6g} is over {:.6g}", what, value, *bound));
  };
  const auto least = [&](const char* what, bool none, double value,
                         const std::optional<double>& bound) {
    if (!bound) return;
    if (report.matched > 0 && report.mask_pairs == 0) {
      lines.push_back(fmt::format("{}: there are no masks to compare", what));
    } else if (report.matched > 0 && none) {
      lines.push_back(
          fmt::format("{}: none of the {} matched masks has more than {} pixels, and "
                      "smaller ones are left out; --min-identical compares all",
                      what, report.small_masks, kSmallMask));
    } else if (!none && !(value >= *bound)) {
      lines.push_back(fmt::format("{} {:.6g} is under {:.6g}", what, value, *bound));
      if (report.one_sided_masks > 0) {
        lines.back() += fmt::format("; {} of {} matched detections have a mask on one side only",
                                    report.one_sided_masks, report.mask_pairs);
      }
    }
  };
  if (!report.only_a.empty() || !report.only_b.empty()) {
    lines.push_back(fmt::format("{} picture(s) only in A, {} only in B", report.only_a.size(),
                                report.only_b.size()));
  }
  if (!report.size_changes.empty()) {
    lines.push_back(fmt::format("{} picture(s) of two sizes, the first {}",
                                report.size_changes.size(), report.size_changes.front()));
  }
  if (bounds.any_difference() && report.detections_a + report.detections_b == 0) {
    lines.push_back("neither run has a detection, so nothing was compared");
  }
  if (report.matched == 0 && report.detections_a + report.detections_b > 0) {
    lines.push_back(fmt::format("no detection of {} in A and {} in B has a partner",
                                report.detections_a, report.detections_b));
  }
  most("box difference", report.box_px.max, bounds.max_box_px);
  most("score difference", report.score.max, bounds.max_score);
  const bool none = report.mask_iou.count == 0;
  least("mask IoU", none, report.mask_iou.min, bounds.min_mask_iou);
  least("mean mask IoU", none, report.mask_iou.mean, bounds.min_mean_iou);
  least("share of identical masks", report.mask_pairs == 0, report.identical_share(),
        bounds.min_identical);
  // A lowest score of 0.99 would excuse all that lies above 0.98.
  const std::size_t guessed =
      report.threshold_named ? 0 : report.near_threshold_a.size() + report.near_threshold_b.size();
  const std::size_t unmatched = report.unmatched() + guessed;
  if (bounds.max_unmatched &&
      unmatched > static_cast<std::size_t>(std::max<int64_t>(*bounds.max_unmatched, 0))) {
    lines.push_back(
        fmt::format("{} unmatched detection(s), over {}", unmatched, *bounds.max_unmatched));
    if (guessed > 0) {
      lines.back() += fmt::format(
          "; {} of them may be a matter of the threshold, which --threshold would tell", guessed);
    }
  }
  return lines;
}

}  // namespace rfseg
