#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace rfseg {

/// Quantile `p` (0..1) of ascending values, linear between neighbours; NaN where there are none.
inline double quantile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
}

/// What tables say of a list of values; NaN where there are none.
struct Distribution {
  std::size_t count = 0;
  double mean = std::numeric_limits<double>::quiet_NaN();
  double p50 = mean, p90 = mean, p99 = mean, min = mean, max = mean;

  static Distribution of(std::vector<double> values) {
    Distribution d;
    if (values.empty()) return d;
    std::sort(values.begin(), values.end());
    d.count = values.size();
    d.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(d.count);
    d.p50 = quantile(values, 0.5);
    d.p90 = quantile(values, 0.9);
    d.p99 = quantile(values, 0.99);
    d.min = values.front();
    d.max = values.back();
    return d;
  }
};

}  // namespace rfseg
