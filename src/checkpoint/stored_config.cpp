#include "checkpoint/stored_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "checkpoint/byte_source.h"
#include "core/json_input.h"

namespace rfseg {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxClasses = 100'000;

constexpr std::array<const char*, 32> kFields = {"encoder",
                                                 "out_feature_indexes",
                                                 "dec_layers",
                                                 "two_stage",
                                                 "projector_scale",
                                                 "hidden_dim",
                                                 "patch_size",
                                                 "num_windows",
                                                 "sa_nheads",
                                                 "ca_nheads",
                                                 "dec_n_points",
                                                 "num_queries",
                                                 "num_select",
                                                 "bbox_reparam",
                                                 "lite_refpoint_refine",
                                                 "layer_norm",
                                                 "num_channels",
                                                 "resolution",
                                                 "group_detr",
                                                 "positional_encoding_size",
                                                 "segmentation_head",
                                                 "use_grouppose_keypoints",
                                                 "dual_projector",
                                                 "num_decoder_registers",
                                                 "num_register_tokens",
                                                 "mask_downsample_ratio",
                                                 "backbone_lora",
                                                 "num_keypoints_per_class",
                                                 "variant",
                                                 "height",
                                                 "width",
                                                 "license"};

bool is_scalar_list(const json& value) {
  return value.is_array() && value.size() <= 64 &&
         std::all_of(value.begin(), value.end(), [](const json& v) { return v.is_primitive(); });
}

// A list of names, or a dictionary from index (as text or number) to name.
std::vector<std::string> names_of(const json& value) {
  std::vector<std::string> names;
  if (value.is_array() && value.size() <= kMaxClasses) {
    for (const json& name : value) names.push_back(name.is_string() ? name.get<std::string>() : "");
  } else if (value.is_object() && value.size() <= kMaxClasses) {
    for (const auto& [key, name] : value.items()) {
      char* end = nullptr;
      const unsigned long index = std::strtoul(key.c_str(), &end, 10);
      if (key.empty() || *end != '\0' || index >= kMaxClasses || !name.is_string()) continue;
      if (index >= names.size()) names.resize(index + 1);
      names[index] = name.get<std::string>();
    }
  }
  return names;
}

void set_field(json& fields, const char* name, const json& value) {
  if (!value.is_null() && !fields.contains(name)) fields[name] = value;
}

}  // namespace

bool is_architecture_field(const std::string& name) {
  return std::find(kFields.begin(), kFields.end(), name) != kFields.end();
}

json parse_json(const std::string& text, const std::string& origin,
                const json::parser_callback_t& look) {
  if (json_depth(text) > 32) fail_model(origin, "the JSON nests deeper than 32 levels");
  try {
    return json::parse(text, look);
  } catch (const json::exception& error) {
    fail_model(origin, fmt::format("is no valid JSON: {}", json_problem(error.what())));
  }
}

void add_fields(StoredConfig& config, const json& object) {
  if (!object.is_object()) return;
  for (const auto& [name, value] : object.items()) {
    if (is_architecture_field(name) && (value.is_primitive() || is_scalar_list(value))) {
      set_field(config.fields, name.c_str(), value);
    }
  }
  for (const char* name : {"model_name", "pretrain_weights"}) {
    if (object.contains(name) && object[name].is_string()) {
      config.hints.push_back(object[name].get<std::string>());
    }
  }
  if (config.class_names.empty() && object.contains("class_names")) {
    config.class_names = names_of(object["class_names"]);
    config.names_by_column = object.value("names_by_column", json()) == true;
  }
}

void add_huggingface(StoredConfig& config, const json& object, const json& preprocessor) {
  if (!object.is_object()) return;
  const auto get = [](const json& from, const char* name) {
    return from.is_object() && from.contains(name) ? from[name] : json();
  };
  json& fields = config.fields;
  const json backbone = get(object, "backbone_config");
  json patch = get(backbone, "patch_size");
  if (is_scalar_list(patch) && !patch.empty()) patch = patch[0];
  set_field(fields, "patch_size", patch);
  set_field(fields, "num_windows", get(backbone, "num_windows"));
  json taps = get(backbone, "out_indices");
  const json features = get(backbone, "out_features");
  if (taps.is_null() && is_scalar_list(features)) {
    taps = json::array();
    for (const json& name : features) {
      const std::string text = name.is_string() ? name.get<std::string>() : "";
      if (text.rfind("stage", 0) == 0) taps.push_back(std::atoi(text.c_str() + 5));
    }
  }
  if (is_scalar_list(taps)) set_field(fields, "out_feature_indexes", taps);
  set_field(fields, "num_queries", get(object, "num_queries"));
  set_field(fields, "mask_downsample_ratio", get(object, "mask_downsample_ratio"));
  const json size = get(preprocessor, "size");
  const json height = get(size, "height"), width = get(size, "width");
  if (height.is_number_integer() && width.is_number_integer()) {
    set_field(fields, "resolution", json::array({height, width}));
  }
  std::vector<std::string> names = names_of(get(object, "id2label"));
  // The library fills in LABEL_0, LABEL_1, ... where nobody named the classes.
  const bool named = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return !name.empty() && name.rfind("LABEL_", 0) != 0;
  });
  if (config.class_names.empty() && named) {
    for (std::string& name : names) {
      if (name.rfind("LABEL_", 0) == 0 || name == "N/A") name.clear();
    }
    config.class_names = std::move(names);
    config.names_by_column = true;
  }
  const json version = get(object, "transformers_version");
  if (version.is_string()) config.metadata["transformers_version"] = version.get<std::string>();
}

}  // namespace rfseg
