#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/statistics.h"
#include "eval/run_results.h"

// Two runs over the same pictures, side by side.

namespace rfseg {

struct ParityOptions {
  /// The runs' score threshold; not set: the lowest score of both.
  std::optional<double> threshold;
  /// By class id, over `threshold`.
  std::vector<float> class_thresholds;
  /// Detections without a partner whose score is no further from the threshold are listed apart: a
  /// rounding error decided whether they are there.
  double score_margin = 0.01;
  double match_iou = 0.5;  ///< least overlap of partners
};

/// A detection as the report names it.
struct ParityDetection {
  std::string file;
  std::optional<int64_t> frame;
  int64_t class_id = 0;
  std::string class_name;
  double score = 0;
};

struct ParityReport {
  std::size_t pictures = 0;                 ///< of either run
  std::vector<std::string> only_a, only_b;  ///< pictures that the other run lacks
  std::size_t by_name = 0;                  ///< pictures matched by the end of their paths alone
  std::vector<std::string> size_changes;    ///< pictures of two sizes, which is described
  std::size_t detections_a = 0, detections_b = 0, matched = 0;
  std::vector<ParityDetection> unmatched_a, unmatched_b;            ///< but for those near_
  std::vector<ParityDetection> near_threshold_a, near_threshold_b;  ///< without a partner
  struct ClassChange {
    ParityDetection a, b;
  };
  /// Of the unmatched ones those that lie on each other with different classes.
  std::vector<ClassChange> class_changes;
  std::optional<double>
      threshold;                 ///< that near_threshold_ was decided by; none without detections
  bool threshold_named = false;  ///< else it was guessed, from the lowest score
  Distribution box_px;           ///< of matched pairs: the largest of the four differences
  Distribution score;            ///< of matched pairs: |a - b|
  std::size_t mask_pairs = 0;    ///< matched pairs with a mask on either side
  std::size_t one_sided_masks = 0;  ///< of these, with a mask on one side; their IoU is 0
  std::size_t identical = 0;        ///< of these, with the same size and run lengths
  Distribution mask_iou;            ///< of those with more than 100 pixels on either side
  std::size_t small_masks = 0;      ///< the others, whose IoU one pixel changes much

  std::size_t unmatched() const { return unmatched_a.size() + unmatched_b.size(); }
  /// NaN where there is no mask at all.
  double identical_share() const;
};

/// What a run may differ by; what is not set is not checked.
struct ParityBounds {
  std::optional<double> max_box_px, max_score, min_mask_iou, min_mean_iou, min_identical;
  std::optional<int64_t> max_unmatched;  ///< of both runs together

  bool any() const;
  /// Whether there is one beside max_unmatched.
  bool any_difference() const;
};

/// Matches picture by picture (file and frame; of equal ones the first with the first; files that
/// the other run lacks by the shortest end of their paths that only one file of each run has) and
/// detection by detection: those of `a` by descending score, equal ones in file order, each take
/// what overlaps most of the detections of their class that `b` has left, match_iou at least; equal
/// overlaps: the nearer score, then file order. The overlap is the IoU of masks where both have 100
/// pixels, else that of boxes. Throws Error(kInput) where one run is a COCO array and the other is
/// not, or neither has a picture.
ParityReport compare_runs(const RunResults& a, const RunResults& b, const ParityOptions& options);

/// One line for each bound that does not hold. Detections near a threshold that was only guessed
/// count as unmatched here. Where any bound is set, it is a line that no detection has a partner,
/// a picture that one run lacks or that has two sizes is such a line too, and so is a bound that
/// holds of nothing: on differences where there is no detection, on masks where matched detections
/// have none, on their IoU where all are small.
std::vector<std::string> violations(const ParityReport& report, const ParityBounds& bounds);

}  // namespace rfseg
