#include "pipeline/conventions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/nearest_word.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

std::vector<int> ids_of(const std::string& name, const std::vector<std::string>& names,
                        const char* option) {
  std::vector<int> ids;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!name.empty() && names[i] == name) ids.push_back(static_cast<int>(i));
  }
  if (!ids.empty()) return ids;
  const std::string meant = did_you_mean(name, names);
  std::string known;
  for (const std::string& candidate : names) {
    if (candidate.empty()) continue;
    if (known.size() > 200) {
      known += ", ...";
      break;
    }
    known += (known.empty() ? "" : ", ") + candidate;
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: the model has no class '{}'{}; it has: {}", option, name, meant,
                          known.empty() ? "no class names (give them with --classes)" : known));
}

void check_threshold(float threshold, const char* option) {
  if (!std::isfinite(threshold) || threshold < 0 || threshold > 1) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {} is not in 0..1", option, threshold));
  }
}

}  // namespace

ResolvedOptions resolve_options(const PredictOptions& options, const ModelConfig& config) {
  ResolvedOptions resolved;
  const bool inference = options.like == Convention::kInference;
  resolved.class_names = options.class_names.empty() ? config.class_names : options.class_names;
  const std::vector<std::string>& names = resolved.class_names;

  PreprocessSpec& pre = resolved.preprocess;
  pre.network_height = config.height;
  pre.network_width = config.width;
  pre.resize = options.resize.value_or(options.like == Convention::kRfdetr ? ResizeMode::kBilinear
                                                                           : ResizeMode::kPil);

  PostprocessSpec& post = resolved.postprocess;
  post.like = options.like;
  post.masks = config.seg ? options.masks : MaskFormat::kNone;
  if (options.threshold) {
    check_threshold(*options.threshold, "--threshold");
    post.threshold = *options.threshold;
  } else {
    post.threshold = inference ? 0.4f : options.like == Convention::kRfdetrEval ? -1.0f : 0.5f;
  }
  if (options.max_detections < 1) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--max-detections: {} is not at least 1", options.max_detections));
  }
  if (options.num_select < 0) {
    throw Error(ErrorCode::kUsage, fmt::format("--num-select: {} is negative", options.num_select));
  }
  post.max_detections = options.max_detections;
  post.num_select = options.num_select > 0 ? options.num_select
                    : inference            ? config.queries
                                           : config.num_select;

  const auto columns = static_cast<std::size_t>(config.logits);
  if (!options.class_thresholds.empty()) {
    post.class_thresholds.assign(columns, post.threshold);
    for (const auto& [name, threshold] : options.class_thresholds) {
      check_threshold(threshold, "--class-threshold");
      for (const int id : ids_of(name, names, "--class-threshold")) {
        if (static_cast<std::size_t>(id) < columns) {
          post.class_thresholds[static_cast<std::size_t>(id)] = threshold;
        }
      }
    }
  }

  // Class ids never change meaning: a dropped class maps to -1, the others to themselves.
  // roboflow/inference also drops columns beyond its list of names (the no-object column).
  const bool cut = inference && !names.empty() && names.size() < columns;
  if (!options.keep.empty() || !options.drop.empty() || cut) {
    post.class_map.resize(columns);
    for (std::size_t c = 0; c < columns; ++c) {
      post.class_map[c] =
          options.keep.empty() && !(cut && c >= names.size()) ? static_cast<int>(c) : -1;
    }
    const auto set = [&](const std::string& name, const char* option, bool kept) {
      for (const int id : ids_of(name, names, option)) {
        if (static_cast<std::size_t>(id) < columns) {
          post.class_map[static_cast<std::size_t>(id)] = kept ? id : -1;
        }
      }
    };
    for (const std::string& name : options.keep) set(name, "--keep", true);
    for (const std::string& name : options.drop) set(name, "--drop", false);
  }
  return resolved;
}

}  // namespace rfseg
