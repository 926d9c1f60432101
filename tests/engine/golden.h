#pragma once

#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "engine/engine.h"
#include "engine/hash_weights.h"

namespace rfseg::testing {

/// What the PyTorch implementation gave at one named point; see make_goldens.py.
struct GoldenPoint {
  std::string name;
  Shape shape;
  double norm = 0;
  std::vector<float> values;  ///< all values if there are at most 512, else 512 at hashed positions
};

/// One network with hashed weights and its input.
struct Golden {
  ModelConfig config;
  HashOptions options;
  std::vector<GoldenPoint> points;  ///< in the order of computation, outputs last

  HashWeights weights() const { return HashWeights(config, options); }
  Tensor input() const { return hash_input(config, 1, options.seed); }
  const GoldenPoint& point(const std::string& name) const;
};

/// Reads goldens/NAME.bin.
Golden load_golden(const std::string& name);

/// Every stock variant, small ones first.
std::vector<std::string> stock_variants();
/// Small networks with what no stock variant has: rectangles, other K and Q, fewer cells than Q.
std::vector<std::string> custom_networks();

/// Backends of this build; the reference always is one.
std::vector<Backend> built_backends();
std::string backend_label(Backend backend);

/// Fails the test unless shape, norm and values agree: each value within `tolerance` of the range
/// of the golden values, the norm within `tolerance` of itself. NaN never agrees. Returns the
/// largest difference over the range.
double expect_matches(const GoldenPoint& golden, const Tensor& found, double tolerance);

/// Fails the test unless every value of `found` is within `tolerance` of the range of `expected`.
double expect_close(const std::string& name, const Tensor& expected, const Tensor& found,
                    double tolerance);

}  // namespace rfseg::testing
