#include "eval/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>

#include "core/coco_rle.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr uint64_t kSmallMask = 100;  // pixels: below, one pixel is a large share

using PictureKey = std::tuple<std::string, std::optional<int64_t>, std::size_t>;

// The third part counts equal names.
std::vector<PictureKey> picture_keys(const RunResults& run) {
  std::map<std::pair<std::string, std::optional<int64_t>>, std::size_t> seen;
  std::vector<PictureKey> keys;
  for (const RunPicture& picture : run.pictures) {
    keys.emplace_back(picture.file, picture.frame, seen[{picture.file, picture.frame}]++);
  }
  return keys;
}

/// What overlaps are computed from.
struct Shape2d {
  const RunDetection* detection = nullptr;
  Rle mask;
  uint64_t area = 0;
  double extent[4] = {};  // of the mask: x, y, width, height
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
    for (const std::size_t i : order) {
      const std::size_t j = partner(of_a[i], of_b, used_b, true);
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
      const std::size_t j = partner(of_a[i], of_b, changed, false);
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
  std::size_t partner(const Shape2d& a, const std::vector<Shape2d>& of_b,
                      const std::vector<bool>& used, bool same_class) const {
    std::size_t best = of_b.size();
    double most = options_.match_iou, nearest = 0;
    for (std::size_t j = 0; j < of_b.size(); ++j) {
      if (used[j] || (a.detection->class_id == of_b[j].detection->class_id) != same_class) continue;
      const double value = overlap(a, of_b[j]);
      const double distance = std::abs(a.detection->score - of_b[j].detection->score);
      const bool better = best == of_b.size()
                              ? value >= most
                              : value > most || (value == most && distance < nearest);
      if (!better) continue;
      best = j;
      most = value;
      nearest = distance;
    }
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
    if (std::max(a.area, b.area) > kSmallMask) mask_iou_.push_back(mask_iou(a, b));
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
  return mask_pairs == 0 ? 1 : static_cast<double>(identical) / static_cast<double>(mask_pairs);
}

bool ParityBounds::any() const {
  return max_box_px || max_score || min_mask_iou || min_mean_iou || min_identical || max_unmatched;
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
  const std::vector<PictureKey> keys_a = picture_keys(a), keys_b = picture_keys(b);
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
      comparison.picture(a.pictures[i], b.pictures[found->second]);
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
