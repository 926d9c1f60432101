#include "eval/coco_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>

#include "core/log.h"
#include "eval/coco_data.h"

// The evaluation of pycocotools/cocoeval.py (ppwwyyxx/cocoapi 2.0.8), category by category. Orders
// that decide ties are its own: every sort is stable, equal scores keep file order within a picture
// and picture order across pictures.

namespace rfseg {
namespace {

constexpr int kThresholds = 10;  ///< IoU .50, .55 ... .95
constexpr int kRecalls = 101;    ///< recall 0, .01 ... 1
constexpr int kAreas = 4;        ///< all, small, medium, large
constexpr int kMaxDetections = 100;
constexpr std::array<int, 3> kDetectionLimits = {1, 10, kMaxDetections};
constexpr double kAreaRanges[kAreas][2] = {
    {0, 1e10}, {0, 32. * 32.}, {32. * 32., 96. * 96.}, {96. * 96., 1e10}};

/// numpy.linspace, rounding included.
double linspace(double start, double stop, int count, int i) {
  return i == count - 1 ? stop : i * ((stop - start) / (count - 1)) + start;
}

struct Candidate {
  const ResultEntry* entry;
  int rank;  ///< by score within picture and category
  /// One bit a threshold, for one area range at a time.
  uint16_t matched[kAreas];
  uint16_t ignored[kAreas];
};

/// Overlap of the detections (rows) with the ground truth (columns) of one picture and category.
class OverlapTable {
 public:
  OverlapTable(std::span<const ResultEntry* const> found, std::span<const TruthEntry* const> truth,
               IouType type, bool& warned_of_sizes)
      : columns_(truth.size()), values_(found.size() * truth.size()) {
    if (values_.empty()) return;
    if (type == IouType::kSegm) {
      fill_masks(found, truth, warned_of_sizes);
    } else {
      for (std::size_t d = 0; d < found.size(); ++d) {
        for (std::size_t g = 0; g < truth.size(); ++g) {
          values_[d * columns_ + g] = box_iou(found[d]->box, truth[g]->box, truth[g]->crowd);
        }
      }
    }
  }
  double at(std::size_t d, std::size_t g) const { return values_[d * columns_ + g]; }

 private:
  static double box_iou(const Box& d, const Box& g, bool crowd) {
    const double w = std::min(d[2] + d[0], g[2] + g[0]) - std::max(d[0], g[0]);
    const double h = std::min(d[3] + d[1], g[3] + g[1]) - std::max(d[1], g[1]);
    if (w <= 0 || h <= 0) return 0;
    const double both = w * h, area = d[2] * d[3];
    return both / (crowd ? area : area + g[2] * g[3] - both);
  }

  void fill_masks(std::span<const ResultEntry* const> found,
                  std::span<const TruthEntry* const> truth, bool& warned) {
    std::vector<Box> truth_boxes(truth.size());
    for (std::size_t g = 0; g < truth.size(); ++g) {
      rle_to_bbox(truth[g]->mask, truth_boxes[g].data());
    }
    for (std::size_t d = 0; d < found.size(); ++d) {
      const Rle mask = rle_from_string(found[d]->counts, found[d]->height, found[d]->width);
      Box box;
      rle_to_bbox(mask, box.data());
      for (std::size_t g = 0; g < truth.size(); ++g) {
        double& value = values_[d * columns_ + g];
        if (box_iou(box, truth_boxes[g], truth[g]->crowd) <= 0) continue;
        if (mask.height != truth[g]->mask.height || mask.width != truth[g]->mask.width) {
          value = -1;
          if (!warned) {
            log_warning(fmt::format(
                "a result of {}x{} pixels cannot match annotation {} of {}x{}; such pairs count as "
                "unmatched",
                mask.height, mask.width, truth[g]->id, truth[g]->mask.height,
                truth[g]->mask.width));
            warned = true;
          }
          continue;
        }
        value = rle_iou(mask, truth[g]->mask, truth[g]->crowd);
      }
    }
  }

  std::size_t columns_;
  std::vector<double> values_;
};

/// Greedy matching of one picture and category in one area range. Returns how many annotations
/// count.
int match(std::span<Candidate> found, std::span<const TruthEntry* const> truth,
          const OverlapTable& overlap, int area) {
  const double* range = kAreaRanges[area];
  const auto outside = [&](double value) { return value < range[0] || value > range[1]; };
  std::vector<std::size_t> order(truth.size());  // those that count first
  std::iota(order.begin(), order.end(), 0);
  const auto ignored = [&](std::size_t g) { return truth[g]->crowd || outside(truth[g]->area); };
  const auto middle =
      std::stable_partition(order.begin(), order.end(), [&](std::size_t g) { return !ignored(g); });
  const std::size_t counting = static_cast<std::size_t>(middle - order.begin());

  for (Candidate& candidate : found) candidate.matched[area] = candidate.ignored[area] = 0;
  std::vector<char> taken(truth.size());
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  for (int t = 0; t < kThresholds; ++t) {
    const auto bit = static_cast<uint16_t>(1 << t);
    std::fill(taken.begin(), taken.end(), 0);
    for (std::size_t d = 0; d < found.size(); ++d) {
      double best = linspace(.5, .95, kThresholds, t);
      std::size_t chosen = kNone;
      for (std::size_t i = 0; i < order.size(); ++i) {
        const std::size_t g = order[i];
        if (taken[i] && !truth[g]->crowd) continue;
        if (chosen < counting && i >= counting) break;  // never leave a match that counts
        if (overlap.at(d, g) < best) continue;
        best = overlap.at(d, g);
        chosen = i;
      }
      if (chosen == kNone) continue;
      taken[chosen] = 1;
      // pycocotools marks matches by the annotation's id, so that id 0 reads as "unmatched".
      if (truth[order[chosen]]->id != 0) found[d].matched[area] |= bit;
      if (chosen >= counting) found[d].ignored[area] |= bit;
    }
  }
  for (Candidate& candidate : found) {
    if (outside(candidate.entry->area)) {
      candidate.ignored[area] |= static_cast<uint16_t>(~candidate.matched[area]);
    }
  }
  return static_cast<int>(counting);
}

struct Mean {
  double sum = 0;
  int64_t count = 0;
  void add(double value) {
    sum += value;
    ++count;
  }
  double value() const { return count == 0 ? -1 : sum / static_cast<double>(count); }
};

struct Means {
  Mean precision[kAreas][kThresholds];
  Mean recall[kAreas][kDetectionLimits.size()];
};

/// Precision at the recall points, and the final recall, of one category in one area range.
void accumulate(const std::vector<Candidate>& found, int area, int truths, Means& means) {
  std::vector<double> recall, precision;
  for (int t = 0; t < kThresholds; ++t) {
    const auto bit = static_cast<uint16_t>(1 << t);
    recall.clear();
    precision.clear();
    std::array<int64_t, kDetectionLimits.size()> hits{};
    double tp = 0, fp = 0;
    for (const Candidate& candidate : found) {
      if (!(candidate.ignored[area] & bit)) {
        const bool hit = candidate.matched[area] & bit;
        (hit ? tp : fp) += 1;
        for (std::size_t m = 0; m < hits.size(); ++m) {
          hits[m] += hit && candidate.rank < kDetectionLimits[m];
        }
      }
      recall.push_back(tp / truths);
      precision.push_back(tp / (fp + tp + std::numeric_limits<double>::epsilon()));
    }
    for (std::size_t m = 0; m < hits.size(); ++m) {
      means.recall[area][m].add(static_cast<double>(hits[m]) / truths);
    }
    for (std::size_t i = precision.size(); i-- > 1;) {
      precision[i - 1] = std::max(precision[i - 1], precision[i]);
    }
    std::size_t i = 0;
    for (int r = 0; r < kRecalls; ++r) {
      const double wanted = linspace(0, 1, kRecalls, r);
      while (i < recall.size() && recall[i] < wanted) ++i;
      means.precision[area][t].add(i < recall.size() ? precision[i] : 0);
    }
  }
}

/// Pointers to `entries`, by category, then picture, then file order.
template <class Entry>
std::vector<const Entry*> by_category_and_image(const std::vector<Entry>& entries) {
  std::vector<const Entry*> order;
  order.reserve(entries.size());
  for (const Entry& entry : entries) order.push_back(&entry);
  std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->category, a->image) < std::pair(b->category, b->image);
  });
  return order;
}

/// Takes the leading pointers of one category and picture off `rest`.
template <class Entry>
std::span<const Entry*> take(std::span<const Entry*>& rest, int category, int image) {
  std::size_t n = 0;
  while (n < rest.size() && rest[n]->category == category && rest[n]->image == image) ++n;
  const std::span<const Entry*> taken = rest.first(n);
  rest = rest.subspan(n);
  return taken;
}

CocoSummary summarise(const Means& means) {
  const auto average_precision = [&](int area) {
    Mean all;
    for (const Mean& mean : means.precision[area]) {
      all.sum += mean.sum;
      all.count += mean.count;
    }
    return all.value();
  };
  CocoSummary summary;
  summary.stats = {
      average_precision(0),       means.precision[0][0].value(), means.precision[0][5].value(),
      average_precision(1),       average_precision(2),          average_precision(3),
      means.recall[0][0].value(), means.recall[0][1].value(),    means.recall[0][2].value(),
      means.recall[1][2].value(), means.recall[2][2].value(),    means.recall[3][2].value()};
  return summary;
}

}  // namespace

CocoSummary evaluate(const GroundTruth& truth, const std::vector<ResultEntry>& results,
                     IouType type) {
  std::vector<const TruthEntry*> truth_order = by_category_and_image(truth.entries);
  std::vector<const ResultEntry*> result_order = by_category_and_image(results);
  std::span<const TruthEntry*> truths(truth_order);
  std::span<const ResultEntry*> founds(result_order);
  Means means;
  std::vector<Candidate> candidates;  // of one category
  bool warned_of_sizes = false;
  while (!truths.empty() || !founds.empty()) {
    const int category = std::min(truths.empty() ? INT32_MAX : truths.front()->category,
                                  founds.empty() ? INT32_MAX : founds.front()->category);
    candidates.clear();
    std::array<int, kAreas> counting{};
    while (true) {
      int image = INT32_MAX;
      if (!truths.empty() && truths.front()->category == category) image = truths.front()->image;
      if (!founds.empty() && founds.front()->category == category) {
        image = std::min(image, founds.front()->image);
      }
      if (image == INT32_MAX) break;
      const auto picture_truth = take(truths, category, image);
      auto found = take(founds, category, image);
      std::stable_sort(found.begin(), found.end(), [](const ResultEntry* a, const ResultEntry* b) {
        return a->score > b->score;
      });
      found = found.first(std::min<std::size_t>(found.size(), kMaxDetections));
      const OverlapTable overlap(found, picture_truth, type, warned_of_sizes);
      const std::size_t first = candidates.size();
      for (std::size_t i = 0; i < found.size(); ++i) {
        candidates.push_back({found[i], static_cast<int>(i), {}, {}});
      }
      for (int area = 0; area < kAreas; ++area) {
        counting[area] += match(std::span(candidates).subspan(first), picture_truth, overlap, area);
      }
    }
    std::stable_sort(
        candidates.begin(), candidates.end(),
        [](const Candidate& a, const Candidate& b) { return a.entry->score > b.entry->score; });
    for (int area = 0; area < kAreas; ++area) {
      if (counting[area] > 0) accumulate(candidates, area, counting[area], means);
    }
  }
  return summarise(means);
}

CocoSummary evaluate_coco(const std::string& ground_truth_json, const std::string& results_json,
                          IouType type) {
  JsonBytes truth_source(ground_truth_json);
  const GroundTruth truth = load_ground_truth(truth_source, type);
  JsonBytes results_source(results_json);
  std::size_t boxes_as_masks = 0;
  const auto results = load_results(results_source, truth, type, &boxes_as_masks);
  CocoSummary summary = evaluate(truth, results, type);
  summary.boxes_as_masks = boxes_as_masks;
  summary.results = results.size();
  std::vector<bool> annotated(truth.image_ids.size()), found(truth.image_ids.size());
  for (const TruthEntry& entry : truth.entries)
    annotated[static_cast<std::size_t>(entry.image)] = true;
  for (const ResultEntry& entry : results) found[static_cast<std::size_t>(entry.image)] = true;
  for (std::size_t i = 0; i < annotated.size(); ++i) {
    summary.annotated += annotated[i];
    summary.without_results += annotated[i] && !found[i];
  }
  return summary;
}

std::string CocoSummary::table(IouType) const {
  struct Row {
    const char* iou;
    const char* area;
    int limit;
    bool precision;
  };
  static constexpr Row kRows[] = {
      {"0.50:0.95", "all", 100, true},     {"0.50", "all", 100, true},
      {"0.75", "all", 100, true},          {"0.50:0.95", "small", 100, true},
      {"0.50:0.95", "medium", 100, true},  {"0.50:0.95", "large", 100, true},
      {"0.50:0.95", "all", 1, false},      {"0.50:0.95", "all", 10, false},
      {"0.50:0.95", "all", 100, false},    {"0.50:0.95", "small", 100, false},
      {"0.50:0.95", "medium", 100, false}, {"0.50:0.95", "large", 100, false}};
  std::string text;
  for (std::size_t i = 0; i < stats.size(); ++i) {
    const Row& row = kRows[i];
    text += fmt::format(" {:<18} {} @[ IoU={:<9} | area={:>6s} | maxDets={:>3d} ] = {:0.3f}\n",
                        row.precision ? "Average Precision" : "Average Recall",
                        row.precision ? "(AP)" : "(AR)", row.iou, row.area, row.limit, stats[i]);
  }
  return text;
}

}  // namespace rfseg
