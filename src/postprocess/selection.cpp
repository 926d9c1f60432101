#include "postprocess/selection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "postprocess/sigmoid.h"

namespace rfseg {
namespace {

/// Applies class map, threshold and max_detections to pairs in their final order.
class Survivors {
 public:
  Survivors(const NetworkOutputs& outputs, const PostprocessSpec& spec)
      : rules_(column_rules(spec, outputs.classes)),
        classes_(static_cast<uint32_t>(outputs.classes)),
        limit_(static_cast<std::size_t>(spec.max_detections)) {}

  bool full() const { return selected_.size() >= limit_; }
  void offer(uint32_t flat, float score) {
    const uint32_t query = flat / classes_;
    const ColumnRule& rule = rules_[flat - query * classes_];
    if (rule.class_id < 0 || !(score > rule.threshold)) return;
    selected_.push_back({static_cast<int>(query), rule.class_id, score});
  }
  const std::vector<ColumnRule>& rules() const { return rules_; }
  std::vector<Selected> take() { return std::move(selected_); }

 private:
  std::vector<ColumnRule> rules_;
  uint32_t classes_;
  std::size_t limit_;
  std::vector<Selected> selected_;
};

/// Bits of a float as an integer of the same order, and back; NaN excluded.
uint32_t ordered_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
float from_ordered_bits(uint32_t ordered) {
  return std::bit_cast<float>(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

}  // namespace

std::vector<ColumnRule> column_rules(const PostprocessSpec& spec, int classes) {
  std::vector<ColumnRule> rules(static_cast<std::size_t>(classes));
  for (std::size_t c = 0; c < rules.size(); ++c) {
    ColumnRule& rule = rules[c];
    if (spec.class_map.empty()) {
      rule.class_id = static_cast<int>(c);
    } else {
      rule.class_id = c < spec.class_map.size() ? spec.class_map[c] : -1;
    }
    rule.threshold = spec.threshold;
    if (rule.class_id >= 0 &&
        static_cast<std::size_t>(rule.class_id) < spec.class_thresholds.size()) {
      rule.threshold = spec.class_thresholds[static_cast<std::size_t>(rule.class_id)];
    }
  }
  return rules;
}

std::vector<Selected> select_reference(const NetworkOutputs& outputs, const PostprocessSpec& spec) {
  const std::size_t pairs = static_cast<std::size_t>(outputs.queries) * outputs.classes;
  std::vector<float> scores(pairs);
  std::vector<uint32_t> order;
  for (std::size_t i = 0; i < pairs; ++i) {
    scores[i] = sigmoid(outputs.logits[i]);
    if (!std::isnan(outputs.logits[i])) order.push_back(static_cast<uint32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(spec.num_select)));
  Survivors survivors(outputs, spec);
  for (const uint32_t flat : order) {
    if (survivors.full()) break;
    survivors.offer(flat, scores[flat]);
  }
  return survivors.take();
}

bool lowest_passing_logit(float threshold, float* logit) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (!(sigmoid(kInfinity) > threshold)) return false;
  if (sigmoid(-kInfinity) > threshold) {
    *logit = -kInfinity;
    return true;
  }
  // sigmoid is monotone (sigmoid.h): fails at `low`, passes at `high`.
  uint32_t low = ordered_bits(-kInfinity), high = ordered_bits(kInfinity);
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (sigmoid(from_ordered_bits(middle)) > threshold ? high : low) = middle;
  }
  *logit = from_ordered_bits(high);
  return true;
}

std::vector<Selected> select_fast(const NetworkOutputs& outputs, const PostprocessSpec& spec,
                                  const Kernels& kernels) {
  Survivors survivors(outputs, spec);
  float threshold = std::numeric_limits<float>::infinity();
  for (const ColumnRule& rule : survivors.rules()) {
    if (rule.class_id >= 0) threshold = std::min(threshold, rule.threshold);
  }
  float cut = 0;
  if (!lowest_passing_logit(threshold, &cut)) return {};

  const std::size_t pairs = static_cast<std::size_t>(outputs.queries) * outputs.classes;
  // Since sigmoid is monotone, the pairs at or above the cut come first in the order of all pairs.
  const std::unique_ptr<uint32_t[]> candidates(new uint32_t[pairs]);
  const std::size_t count = kernels.collect(outputs.logits, pairs, cut, candidates.get());

  // Descending score, then ascending flat index, as one integer in descending order.
  std::vector<uint64_t> keys(count);
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t score = std::bit_cast<uint32_t>(sigmoid(outputs.logits[candidates[i]]));
    keys[i] = uint64_t{score} << 32 | (0xffffffffu - candidates[i]);
  }
  const std::size_t kept = std::min(count, static_cast<std::size_t>(spec.num_select));
  const auto end = keys.begin() + static_cast<std::ptrdiff_t>(kept);
  if (kept < count) std::nth_element(keys.begin(), end, keys.end(), std::greater<>());
  std::sort(keys.begin(), end, std::greater<>());
  for (std::size_t i = 0; i < kept && !survivors.full(); ++i) {
    survivors.offer(0xffffffffu - static_cast<uint32_t>(keys[i]),
                    std::bit_cast<float>(static_cast<uint32_t>(keys[i] >> 32)));
  }
  return survivors.take();
}

}  // namespace rfseg
