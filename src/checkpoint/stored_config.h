#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rfseg {

/// What a checkpoint file says about itself, whatever its form, in the field names of rfdetr's
/// ModelConfig.
struct StoredConfig {
  /// Architecture fields by upstream name ("num_windows", "out_feature_indexes", ...): integers,
  /// booleans, strings and flat lists of them. Unknown fields are dropped.
  nlohmann::json fields = nlohmann::json::object();
  /// Names that tell a variant, best first: model_name, pretrain_weights.
  std::vector<std::string> hints;
  /// By class index of the training data; empty if the file has none.
  std::vector<std::string> class_names;
  /// class_names are by column of the class head already (Hugging Face's id2label).
  bool names_by_column = false;
  /// For people: rfdetr_version, model_name, epoch, ...
  std::map<std::string, std::string> metadata;
};

/// Whether `name` is a field that `StoredConfig::fields` keeps.
bool is_architecture_field(const std::string& name);

/// Adds what a JSON object of upstream field names says (this program's own metadata, or a stored
/// model_config). Fields that are there already stay.
void add_fields(StoredConfig& config, const nlohmann::json& object);

/// Adds a Hugging Face `rf_detr` config.json, and the input size of its preprocessor_config.json
/// (null if there is none).
void add_huggingface(StoredConfig& config, const nlohmann::json& object,
                     const nlohmann::json& preprocessor);

/// Parses JSON without ever nesting deeper than 32. Throws Error(kModel) naming `origin`. `look`,
/// if given, is the parser's callback.
nlohmann::json parse_json(const std::string& text, const std::string& origin,
                          const nlohmann::json::parser_callback_t& look = nullptr);

}  // namespace rfseg
