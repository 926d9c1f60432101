#include "checkpoint/identify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <optional>

#include "checkpoint/byte_source.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor_facts.h"
#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using nlohmann::json;

constexpr int kMaxResolution = 8192;
constexpr int kMaxQueries = 100'000;

std::string letters(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

class Identifier {
 public:
  Identifier(const WeightSource& weights, const StoredConfig& stored, const ModelOptions& options)
      : weights_(weights), stored_(stored), options_(options), facts_(read_tensor_facts(weights)) {}

  ModelConfig identify() {
    refuse_unsupported_fields();
    ModelConfig c;
    c.patch = facts_.patch;
    c.enc_dim = facts_.enc_dim;
    c.enc_heads = facts_.enc_dim / 64;
    c.dec_layers = facts_.dec_layers;
    c.dim = facts_.dim;
    c.sa_heads = facts_.dim / 32;
    c.ca_heads = facts_.ca_heads;
    c.points = facts_.points;
    c.ffn_dim = facts_.ffn_dim;
    c.levels = facts_.levels;
    c.seg = facts_.seg;
    c.logits = facts_.logits;
    c.pos_grid = int_field("positional_encoding_size", 1, 1024).value_or(facts_.pos_grid);
    if (const auto patch = int_field("patch_size", 1, 1024); patch && *patch != facts_.patch) {
      fail(fmt::format("the stored configuration has patch_size {}, the patch embedding {}", *patch,
                       facts_.patch));
    }
    choose_candidates();
    c.windows = require<int>("num_windows", int_field("num_windows", 1, 64),
                             [](const ModelConfig& v) { return v.windows; });
    c.taps = require<std::vector<int>>("out_feature_indexes", taps_field(),
                                       [](const ModelConfig& v) { return v.taps; });
    check_taps(c.taps);
    c.enc_layers = c.taps.back();
    c.queries = require<int>("num_queries", int_field("num_queries", 1, kMaxQueries),
                             [&](const ModelConfig& v) { return stock_queries(v); });
    if (c.queries > facts_.query_rows) {
      fail(fmt::format("the stored configuration has {} queries, 'query_feat.weight' {} rows",
                       c.queries, facts_.query_rows));
    }
    c.num_select = int_field("num_select", 1, 1 << 30).value_or(c.queries);
    set_resolution(c);
    c.variant = variant_name(c);
    if (!options_.variant.empty() && !is_named(c, options_.variant)) {
      log_warning(fmt::format("{}: --variant {} is ignored: the file says what it is ({})",
                              weights_.origin(), options_.variant, c.variant));
    }
    override_shape(c);
    c.class_names = column_class_names(stored_, c.logits);
    return c;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_model(weights_.origin(), what); }

  const json* field(const char* name) const {
    const auto found = stored_.fields.find(name);
    return found == stored_.fields.end() || found->is_null() ? nullptr : &*found;
  }

  std::optional<int> int_field(const char* name, int low, int high) const {
    const json* value = field(name);
    if (value == nullptr || !value->is_number_integer()) return std::nullopt;
    const auto number = value->get<int64_t>();
    if (number < low || number > high) {
      fail(fmt::format("the stored configuration has {} = {}; accepted: {} to {}", name, number,
                       low, high));
    }
    return static_cast<int>(number);
  }

  std::optional<std::vector<int>> taps_field() const {
    const json* value = field("out_feature_indexes");
    if (value == nullptr || !value->is_array() || value->empty()) return std::nullopt;
    std::vector<int> taps;
    for (const json& tap : *value) {
      if (!tap.is_number_integer() || tap < 0 || tap > 1000) {
        fail(fmt::format("the stored configuration has out_feature_indexes {}",
                         printable(value->dump(-1, ' ', false, json::error_handler_t::replace))));
      }
      taps.push_back(tap.get<int>());
    }
    return taps;
  }

  void refuse_unsupported_fields() const {
    const auto expect = [&](const char* name, const json& accepted) {
      const json* value = field(name);
      if (value != nullptr && *value != accepted) {
        fail(fmt::format(
            "the stored configuration has {} = {}, which is not supported; accepted: {}", name,
            printable(value->dump(-1, ' ', false, json::error_handler_t::replace)),
            accepted.dump()));
      }
    };
    if (const json* encoder = field("encoder"); encoder != nullptr && encoder->is_string()) {
      const auto name = encoder->get<std::string>();
      if (name.find("pe_core") != std::string::npos) {
        fail(fmt::format(
            "an RF-DETR atto, femto or pico model (encoder '{}'), which is not supported",
            printable(name)));
      }
      if (name.find("registers") != std::string::npos) {
        fail(fmt::format("encoder '{}' has register tokens, which is not supported",
                         printable(name)));
      }
    }
    for (const char* name : {"two_stage", "bbox_reparam", "lite_refpoint_refine", "layer_norm"}) {
      expect(name, true);
    }
    for (const char* name : {"use_grouppose_keypoints", "dual_projector"}) expect(name, false);
    for (const char* name : {"num_decoder_registers", "num_register_tokens"}) expect(name, 0);
    expect("mask_downsample_ratio", 4);
    expect("num_channels", 3);
    expect("sa_nheads", facts_.dim / 32);
    expect("ca_nheads", facts_.ca_heads);
  }

  // Published sizes whose tensors have these shapes.
  bool fits_tensors(const ModelConfig& v) const {
    return v.patch == facts_.patch && v.enc_dim == facts_.enc_dim && v.dim == facts_.dim &&
           v.dec_layers == facts_.dec_layers && v.seg == facts_.seg && v.levels == facts_.levels &&
           v.points == facts_.points && static_cast<int>(v.taps.size()) == facts_.taps &&
           v.taps.back() <= facts_.depth;
  }

  // The rows of one query group decide between sizes, but for seg-large, whose published file is
  // thought to hold 300 where the model runs 200.
  bool fits_queries(const ModelConfig& v) const {
    if (facts_.groups < 2 || facts_.query_rows % facts_.groups != 0) return true;
    const int stored = facts_.query_rows / facts_.groups;
    return stored == v.queries || v.variant == "seg-large";
  }

  void keep_if(const std::function<bool(const ModelConfig&)>& fits) {
    std::vector<ModelConfig> kept;
    std::copy_if(candidates_.begin(), candidates_.end(), std::back_inserter(kept), fits);
    if (!kept.empty()) candidates_ = std::move(kept);
  }

  void choose_candidates() {
    for (const std::string& name : stock_variants()) {
      ModelConfig config = stock_config(name);
      if (fits_tensors(config)) candidates_.push_back(std::move(config));
    }
    const std::optional<int> windows = int_field("num_windows", 1, 64);
    if (windows) keep_if([&](const ModelConfig& v) { return v.windows == *windows; });
    if (const auto taps = taps_field())
      keep_if([&](const ModelConfig& v) { return v.taps == *taps; });
    const std::string own = string_field("variant");
    if (!own.empty()) keep_if([&](const ModelConfig& v) { return v.variant == own; });
    if (const auto queries = int_field("num_queries", 1, kMaxQueries)) {
      keep_if([&](const ModelConfig& v) { return v.queries == *queries; });
    }
    // A model built at another resolution has a table of its own grid, split evenly.
    std::erase_if(candidates_, [&](const ModelConfig& v) {
      return !windows && v.pos_grid != facts_.pos_grid && facts_.pos_grid % v.windows != 0;
    });
    // Names before the table's grid: seg-nano built at 384 has the tensors of seg-small.
    const bool named = std::any_of(stored_.hints.begin(), stored_.hints.end(),
                                   [&](const std::string& hint) { return keep_named(hint); });
    const bool asked = !options_.variant.empty() && apply_option(named);
    const auto is_exact = [&](const ModelConfig& v) { return v.pos_grid == facts_.pos_grid; };
    exact_ = std::any_of(candidates_.begin(), candidates_.end(), is_exact);
    if (exact_) {
      keep_if(is_exact);
    } else if (!named && !asked) {
      keep_if([&](const ModelConfig& v) { return fits_queries(v); });
      const std::string& path = weights_.origin();
      keep_named(path.substr(path.find_last_of('/') + 1));
    }
  }

  // Keeps only the variant that a name tells, if it is a candidate.
  bool keep_named(const std::string& text) {
    const std::string name = variant_of_name(text);
    const auto matches = [&](const ModelConfig& v) { return v.variant == name; };
    if (std::none_of(candidates_.begin(), candidates_.end(), matches)) return false;
    keep_if(matches);
    return true;
  }

  // options.variant chooses among the candidates that the file's own names leave open.
  bool apply_option(bool named) {
    const ModelConfig asked = stock_config(options_.variant);  // throws on unknown names
    if (asked.patch != facts_.patch || asked.enc_dim != facts_.enc_dim || asked.seg != facts_.seg ||
        asked.dim != facts_.dim) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--variant {} does not fit {}: it has patch {}, encoder width {}, "
                              "decoder width {}{}; the file {}, {}, {}{}",
                              options_.variant, weights_.origin(), asked.patch, asked.enc_dim,
                              asked.dim, asked.seg ? " and masks" : "", facts_.patch,
                              facts_.enc_dim, facts_.dim, facts_.seg ? " and masks" : ""));
    }
    const auto matches = [&](const ModelConfig& v) { return v.variant == options_.variant; };
    if (candidates_.empty()) {
      candidates_.push_back(
          asked);  // an unusual depth: the variant gives what the file leaves open
      return true;
    }
    if (named || std::none_of(candidates_.begin(), candidates_.end(), matches)) return false;
    for (const ModelConfig& v : candidates_) {
      if (v.pos_grid == facts_.pos_grid && v.variant != options_.variant) {
        log_warning(
            fmt::format("{}: taken as {} by --variant, though its position table is that of {}",
                        weights_.origin(), options_.variant, v.variant));
      }
    }
    keep_if(matches);
    return true;
  }

  std::string string_field(const char* name) const {
    const json* value = field(name);
    return value != nullptr && value->is_string() ? value->get<std::string>() : "";
  }

  // A stored value, else what all remaining published sizes agree on.
  template <class T, class Get>
  T require(const char* name, const std::optional<T>& stored, const Get& get) const {
    if (stored) return *stored;
    if (candidates_.empty()) {
      fail(fmt::format(
          "the file does not store {} and no published variant has these tensors (patch "
          "{}, position grid {}, {} encoder blocks of width {}, {} decoder layers of "
          "width {}{}); name the one that it was made from with --variant: {}",
          name, facts_.patch, facts_.pos_grid, facts_.depth, facts_.enc_dim, facts_.dec_layers,
          facts_.dim, facts_.seg ? ", masks" : "", fmt::join(stock_variants(), ", ")));
    }
    T first = get(candidates_[0]);
    for (const ModelConfig& other : candidates_) {
      if (get(other) == first) continue;
      std::vector<std::string> names;
      for (const ModelConfig& v : candidates_) names.push_back(v.variant);
      fail(
          fmt::format("the file does not store {} and its tensors fit several variants; choose one "
                      "with --variant: {}",
                      name, fmt::join(names, ", ")));
    }
    return first;
  }

  // As rfdetr: a variant runs its own number of queries, less if the file has fewer.
  int stock_queries(const ModelConfig& v) const {
    const int stored = facts_.groups > 0 && facts_.query_rows % facts_.groups == 0
                           ? facts_.query_rows / facts_.groups
                           : facts_.query_rows;
    return std::min(v.queries, stored);
  }

  void check_taps(const std::vector<int>& taps) const {
    const bool ascending =
        std::adjacent_find(taps.begin(), taps.end(), std::greater_equal<>()) == taps.end();
    if (taps.empty() || !ascending || taps.front() < 1 || taps.back() > facts_.depth ||
        static_cast<int>(taps.size()) != facts_.taps) {
      fail(
          fmt::format("out_feature_indexes [{}] do not fit {} encoder blocks and a projector of {} "
                      "taps",
                      fmt::join(taps, ", "), facts_.depth, facts_.taps));
    }
  }

  void set_resolution(ModelConfig& c) const {
    if (const json* value = field("resolution"); value != nullptr) {
      if (value->is_array() && value->size() == 2 && (*value)[0].is_number_integer() &&
          (*value)[1].is_number_integer()) {
        const auto rows = (*value)[0].get<int64_t>(), columns = (*value)[1].get<int64_t>();
        if (rows > 0 && columns > 0 && rows <= kMaxResolution && columns <= kMaxResolution) {
          c.height = static_cast<int>(rows);
          c.width = static_cast<int>(columns);
        }
      } else if (const auto side = int_field("resolution", 1, kMaxResolution)) {
        c.height = c.width = *side;
      }
    }
    if (c.height == 0 && exact_) {
      c.height = candidates_[0].height;
      c.width = candidates_[0].width;
    }
    if (c.height == 0) c.height = c.width = c.patch * c.pos_grid;
    check_shape(c, fmt::format("{}: the resolution", weights_.origin()), ErrorCode::kModel);
  }

  static void check_shape(const ModelConfig& c, const std::string& what, ErrorCode code) {
    const int step = c.patch * c.windows;
    for (const int side : {c.height, c.width}) {
      if (side >= step && side % step == 0 && side <= kMaxResolution) continue;
      throw Error(code,
                  fmt::format("{} {}x{} does not fit: each side must be a multiple of {} "
                              "(patch {} x {} windows) up to {}",
                              what, c.height, c.width, step, c.patch, c.windows, kMaxResolution));
    }
  }

  void override_shape(ModelConfig& c) const {
    if (options_.height == 0 && options_.width == 0) return;
    if (options_.height != 0) c.height = options_.height;
    if (options_.width != 0) c.width = options_.width;
    check_shape(c, "the network input shape", ErrorCode::kUsage);
  }

  static bool is_named(const ModelConfig& c, const std::string& variant) {
    return c.variant == variant;
  }

  // The published size that this is, or was fine-tuned from.
  std::string variant_name(const ModelConfig& c) const {
    const auto like = [&](const ModelConfig& v) {
      return v.windows == c.windows && v.taps == c.taps && fits_tensors(v);
    };
    std::vector<std::string> names;
    for (const ModelConfig& v : candidates_) {
      if (like(v)) names.push_back(v.variant);
    }
    if (names.size() == 1) return names[0];
    for (const ModelConfig& v : candidates_) {
      if (like(v) && v.height == c.height && v.pos_grid == c.pos_grid && v.queries == c.queries) {
        return v.variant;
      }
    }
    return "custom";
  }

  const WeightSource& weights_;
  const StoredConfig& stored_;
  const ModelOptions& options_;
  TensorFacts facts_;
  std::vector<ModelConfig> candidates_;
  bool exact_ = false;
};

bool are_coco_names(const std::vector<std::string>& names) {
  std::vector<std::string> coco;
  for (const std::string& name : coco_class_names()) {
    if (!name.empty()) coco.push_back(name);
  }
  return names == coco;
}

}  // namespace

ModelConfig identify_model(const WeightSource& weights, const StoredConfig& stored,
                           const ModelOptions& options) {
  return Identifier(weights, stored, options).identify();
}

std::string variant_of_name(const std::string& name) {
  // Endings of published file names, then the names themselves, longest first: "nano" is in
  // "segnano".
  static const std::pair<const char*, const char*> kAliases[] = {
      {"segxxlarge", "seg-2xlarge"}, {"seg2xlft", "seg-2xlarge"}, {"segxlft", "seg-xlarge"},
      {"seglft", "seg-large"},       {"segmft", "seg-medium"},    {"segsft", "seg-small"},
      {"segnft", "seg-nano"},        {"xxlarge", "2xlarge"}};
  const std::string text = letters(name);
  if (text.find("rfdetr") == std::string::npos && text.find("seg") == std::string::npos) return "";
  for (const auto& [alias, variant] : kAliases) {
    if (text.find(alias) != std::string::npos) return variant;
  }
  std::string best;
  for (const std::string& variant : stock_variants()) {
    if (text.find(letters(variant)) != std::string::npos &&
        letters(variant).size() > letters(best).size()) {
      best = variant;
    }
  }
  return best;
}

std::vector<std::string> column_class_names(const StoredConfig& stored, int columns) {
  const auto count = static_cast<std::size_t>(columns);
  std::vector<std::string> names = stored.class_names;
  if (!stored.names_by_column) {
    const bool coco = names.empty() ? columns == 91 : are_coco_names(names) && columns > 81;
    if (coco) {
      names = coco_class_names();
    } else if (!names.empty() && names.size() < count) {
      names.resize(count);
      names.back() = "__background__";
    }
  }
  if (!names.empty()) names.resize(count);
  return names;
}

}  // namespace rfseg
