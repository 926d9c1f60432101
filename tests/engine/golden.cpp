#include "engine/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace rfseg::testing {
namespace {

constexpr int64_t kSamples = 512;

Level level_from(const std::string& name) {
  if (name == "P3") return Level::kP3;
  if (name == "P4") return Level::kP4;
  if (name == "P5") return Level::kP5;
  throw std::runtime_error("golden: level " + name);
}

ModelConfig config_from(const nlohmann::json& json) {
  ModelConfig config;
  config.variant = json.at("variant");
  config.height = json.at("height");
  config.width = json.at("width");
  config.patch = json.at("patch");
  config.pos_grid = json.at("pos_grid");
  config.windows = json.at("windows");
  config.enc_dim = json.at("enc_dim");
  config.enc_heads = json.at("enc_heads");
  config.enc_layers = json.at("enc_layers");
  config.taps = json.at("taps").get<std::vector<int>>();
  config.dec_layers = json.at("dec_layers");
  config.queries = json.at("queries");
  config.num_select = json.at("num_select");
  config.dim = json.at("dim");
  config.sa_heads = json.at("sa_heads");
  config.ca_heads = json.at("ca_heads");
  config.points = json.at("points");
  config.ffn_dim = json.at("ffn_dim");
  for (const std::string level : json.at("levels")) config.levels.push_back(level_from(level));
  config.seg = json.at("seg");
  config.logits = json.at("logits");
  return config;
}

/// The value that stands at sample `i` of a golden of that name.
int64_t sample_position(const std::string& name, int64_t i, int64_t size) {
  if (size <= kSamples) return i;
  const uint64_t start = hash_name("sample " + name, 0);
  return static_cast<int64_t>(hash_at(start, static_cast<uint64_t>(i)) %
                              static_cast<uint64_t>(size));
}

template <class Values>
double range_of(const Values& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return static_cast<double>(*high) - *low;
}

}  // namespace

const GoldenPoint& Golden::point(const std::string& name) const {
  for (const GoldenPoint& p : points) {
    if (p.name == name) return p;
  }
  throw std::runtime_error("golden: no point " + name);
}

Golden load_golden(const std::string& name) {
  const std::string path = std::string(RFSEG_SOURCE_DIR) + "/tests/engine/goldens/" + name + ".bin";
  std::ifstream file(path, std::ios::binary);
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error("cannot read " + path);
  const nlohmann::json header = nlohmann::json::parse(line);
  Golden golden;
  golden.config = config_from(header.at("config"));
  golden.options.seed = header.at("seed");
  golden.options.selection_seed = header.at("selection_seed");
  golden.options.stored_pos_grid = header.at("stored_pos_grid");
  for (const nlohmann::json& entry : header.at("points")) {
    GoldenPoint point;
    point.name = entry.at("name");
    point.shape = entry.at("shape").get<Shape>();
    float row[kSamples + 1];
    if (!file.read(reinterpret_cast<char*>(row), sizeof row)) {
      throw std::runtime_error(path + " is cut short");
    }
    point.norm = row[0];
    point.values.assign(row + 1, row + 1 + std::min(kSamples, element_count(point.shape)));
    golden.points.push_back(std::move(point));
  }
  return golden;
}

std::vector<std::string> stock_variants() {
#if defined(__SANITIZE_THREAD__)
  return {};  // The plain engine has no threads of its own: the small networks are enough.
#elif defined(RFSEG_SANITIZED)
  // Sanitizers look at the code, not at the numbers, and take ten times longer.
  return {"seg-nano"};
#else
  return {"nano",       "seg-nano",    "small",      "medium",      "base",
          "seg-small",  "seg-preview", "seg-medium", "large",       "seg-large",
          "seg-xlarge", "xlarge",      "2xlarge",    "seg-2xlarge", "large-deprecated"};
#endif
}

std::vector<std::string> custom_networks() {
  return {"custom-rectangle", "custom-few-cells", "custom-two-levels", "custom-patch16"};
}

std::vector<Backend> built_backends() { return {Backend::kReference, Backend::kCpu}; }

std::string backend_label(Backend backend) {
  return backend == Backend::kReference ? "reference" : "cpu";
}

double expect_matches(const GoldenPoint& golden, const Tensor& found, double tolerance) {
  EXPECT_EQ(golden.shape, found.shape) << golden.name;
  if (golden.shape != found.shape) return INFINITY;
  double squares = 0;
  for (float v : found.data) squares += double{v} * v;
  EXPECT_NEAR(std::sqrt(squares), golden.norm, tolerance * golden.norm)
      << "norm of " << golden.name;

  // Indices are not measured values: they agree or not.
  const bool exact = golden.name == "topk";
  const double range = range_of(golden.values);
  const double limit = exact ? 0 : tolerance * range;
  double worst = 0;
  int64_t outside = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(golden.values.size()); ++i) {
    const float value = found.data[sample_position(golden.name, i, found.size())];
    const double difference = std::abs(double{value} - golden.values[i]);
    if (!(difference <= limit)) ++outside;
    worst = difference <= worst ? worst : difference;
  }
  EXPECT_EQ(outside, 0) << "of " << golden.values.size() << " values of " << golden.name
                        << "; the worst is off by " << worst << " at range " << range;
  return range > 0 ? worst / range : worst;
}

double expect_close(const std::string& name, const Tensor& expected, const Tensor& found,
                    double tolerance) {
  EXPECT_EQ(expected.shape, found.shape) << name;
  if (expected.shape != found.shape) return INFINITY;
  if (expected.empty()) return 0;
  const double range = range_of(expected.data);
  double worst = 0;
  int64_t outside = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(double{found.data[i]} - expected.data[i]);
    if (!(difference <= tolerance * range)) ++outside;
    worst = difference <= worst ? worst : difference;
  }
  EXPECT_EQ(outside, 0) << "of " << expected.size() << " values of " << name
                        << "; the worst is off by " << worst << " at range " << range;
  return range > 0 ? worst / range : worst;
}

}  // namespace rfseg::testing
