#include "checkpoint/tensor_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <unordered_map>

#include "checkpoint/names.h"

namespace rfseg {
namespace {

using std::string_view;

struct Rename {
  string_view from, to;
};

// Whole leading paths, tried in order on the name without its `model.` prefixes.
constexpr std::array<Rename, 22> kLeading = {{
    {"backbone.backbone.encoder.layer.", "backbone.0.encoder.encoder.encoder.layer."},
    {"backbone.backbone.", "backbone.0.encoder.encoder."},
    {"backbone.projector.scale_layers.0.projector_layer.", "backbone.0.projector.stages.0.0."},
    {"backbone.projector.scale_layers.0.layer_norm.", "backbone.0.projector.stages.0.1."},
    {"backbone.projector.projector_layer.", "backbone.0.projector.stages.0.0."},
    {"backbone.projector.layer_norm.", "backbone.0.projector.stages.0.1."},
    {"decoder.layernorm.", "transformer.decoder.norm."},
    {"decoder.", "transformer.decoder."},
    {"enc_output", "transformer.enc_output"},
    {"enc_out_", "transformer.enc_out_"},
    {"reference_point_embed.", "refpoint_embed."},
    {"query_feat.", "query_feat."},
    {"class_embed.", "class_embed."},
    {"bbox_embed.", "bbox_embed."},
    {"segmentation_bias", "segmentation_head.bias"},
    {"query_features_block.mlp.fc1.", "segmentation_head.query_features_block.layers.0."},
    {"query_features_block.mlp.fc2.", "segmentation_head.query_features_block.layers.2."},
    {"query_features_block.norm.", "segmentation_head.query_features_block.norm_in."},
    {"query_features_proj.", "segmentation_head.query_features_proj."},
    {"spatial_features_proj.", "segmentation_head.spatial_features_proj."},
    {"blocks.", "segmentation_head.blocks."},
    {"transformer.", "transformer."},
}};

// Inner paths by the upstream module they are in.
constexpr std::array<Rename, 4> kEncoderInner = {{
    {".attention.q_proj.", ".attention.attention.query."},
    {".attention.k_proj.", ".attention.attention.key."},
    {".attention.v_proj.", ".attention.attention.value."},
    {".attention.o_proj.", ".attention.output.dense."},
}};
constexpr std::array<Rename, 5> kProjectorInner = {{
    {".bottlenecks.", ".m."},
    {".conv1.conv.", ".cv1.conv."},
    {".conv2.conv.", ".cv2.conv."},
    {".conv1.norm.", ".cv1.bn."},
    {".conv2.norm.", ".cv2.bn."},
}};
constexpr std::array<Rename, 6> kDecoderInner = {{
    {".self_attn.o_proj.", ".self_attn.out_proj."},
    {".self_attn_layer_norm.", ".norm1."},
    {".cross_attn_layer_norm.", ".norm2."},
    {".layer_norm.", ".norm3."},
    {".mlp.fc1.", ".linear1."},
    {".mlp.fc2.", ".linear2."},
}};
constexpr std::array<Rename, 3> kMaskInner = {{
    {".layernorm.", ".norm."},
    {".depthwise_conv.", ".dwconv."},
    {".pointwise_conv.", ".pwconv1."},
}};

template <std::size_t N>
void rename_inner(std::string& name, const std::array<Rename, N>& renames) {
  for (const Rename& r : renames) {
    const std::size_t at = name.find(r.from);
    if (at != std::string::npos) name.replace(at, r.from.size(), r.to);
  }
}

std::string upstream_name(string_view name) {
  while (name.starts_with("model.")) name.remove_prefix(6);
  for (const Rename& r : kLeading) {
    if (!name.starts_with(r.from)) continue;
    std::string out = std::string(r.to) + std::string(name.substr(r.from.size()));
    if (out.starts_with("backbone.0.encoder.")) rename_inner(out, kEncoderInner);
    if (out.starts_with("backbone.0.projector.")) rename_inner(out, kProjectorInner);
    if (out.starts_with("transformer.decoder.layers.")) rename_inner(out, kDecoderInner);
    if (out.starts_with("segmentation_head.blocks.")) rename_inner(out, kMaskInner);
    return out;
  }
  return std::string(name);
}

}  // namespace

bool has_huggingface_names(const std::vector<TensorRecord>& records) {
  return std::any_of(records.begin(), records.end(), [](const TensorRecord& r) {
    return string_view(r.name).ends_with("reference_point_embed.weight");
  });
}

std::vector<TensorRecord> from_huggingface_names(std::vector<TensorRecord> records,
                                                 const std::string& origin) {
  std::vector<TensorRecord> out;
  // "....self_attn." -> its query, key and value parts, for weight and bias.
  std::map<std::string, std::array<const StridedPart*, 3>> split;
  for (TensorRecord& record : records) {
    record.name = upstream_name(record.name);
    const std::size_t at = record.name.find(".self_attn.");
    if (at == std::string::npos || !record.name.starts_with("transformer.decoder.")) continue;
    const std::string tail = record.name.substr(at + 11);
    for (std::size_t i = 0; i < 3; ++i) {
      for (const string_view kind : {"weight", "bias"}) {
        if (tail != fmt::format("{}_proj.{}", "qkv"[i], kind)) continue;
        split[fmt::format("{}.self_attn.in_proj_{}", record.name.substr(0, at), kind)][i] =
            &record.parts[0];
      }
    }
  }
  for (const auto& [name, parts] : split) {
    TensorRecord joined{name, {}};
    for (std::size_t i = 0; i < 3; ++i) {
      if (parts[i] == nullptr) {
        fail_model(origin, fmt::format("the {} part of '{}' is missing",
                                       std::array{"query", "key", "value"}[i], printable(name)));
      }
      const Shape& shape = parts[i]->shape;
      if (shape.empty() || shape.size() > 2 || (i > 0 && shape != joined.parts[0].shape)) {
        fail_model(origin, fmt::format("the query, key and value parts of '{}' differ in shape",
                                       printable(name)));
      }
      joined.parts.push_back(*parts[i]);
    }
    out.push_back(std::move(joined));
  }
  for (TensorRecord& record : records) {
    const bool is_split = record.name.find(".self_attn.") != std::string::npos &&
                          record.name.find("_proj.") != std::string::npos &&
                          record.name.find(".out_proj.") == std::string::npos;
    if (!is_split) out.push_back(std::move(record));
  }
  return out;
}

std::vector<TensorRecord> strip_wrapper_prefix(std::vector<TensorRecord> records) {
  constexpr string_view kWrappers[] = {"model.", "module.", "_orig_mod."};
  const auto prefix_length = [&](string_view name) {
    const string_view whole = name;
    for (bool again = true; again;) {
      again = false;
      for (const string_view wrapper : kWrappers) {
        if (!name.starts_with(wrapper)) continue;
        name.remove_prefix(wrapper.size());
        again = true;
      }
    }
    return whole.size() - name.size();
  };
  // The class head tells the prefix (a semantic model's has another name).
  std::string prefix;
  for (const TensorRecord& record : records) {
    const std::size_t length = prefix_length(record.name);
    const string_view rest = string_view(record.name).substr(length);
    if (rest == "class_embed.weight" || rest == "semantic_embed.weight") {
      prefix = record.name.substr(0, length);
      break;
    }
  }
  if (prefix.empty()) return records;
  std::vector<TensorRecord> kept;
  for (TensorRecord& record : records) {
    if (!record.name.starts_with(prefix)) continue;
    record.name.erase(0, prefix.size());
    kept.push_back(std::move(record));
  }
  return kept;
}

void refuse_foreign_models(const std::vector<TensorRecord>& records, const std::string& origin) {
  const auto refuse = [&](const char* kind, const std::string& tensor) {
    fail_model(origin, fmt::format("{} (it has '{}'); accepted: RF-DETR detection and instance "
                                   "segmentation models",
                                   kind, printable(tensor)));
  };
  bool class_head = false, dino = false, transformer = false;
  const std::string* semantic = nullptr;
  for (const TensorRecord& record : records) {
    const std::string& name = record.name;
    const auto has = [&](string_view part) { return name.find(part) != std::string::npos; };
    const bool empty = element_count(record.parts[0].shape) == 0;
    if (name.starts_with("backbone.0.encoder.base_model.model.") || has(".lora_") ||
        has(".lora_magnitude_vector")) {
      refuse(
          "a model with unmerged LoRA or DoRA adapters: merge them (merge_and_unload) and save "
          "again",
          name);
    }
    if ((name == "_kp_active_mask" && !empty) || name.starts_with("keypoint_embed.") ||
        name.starts_with("backbone.0.cross_attn_projector.") ||
        name.starts_with("transformer.keypoint_query_initializer")) {
      refuse("an RF-DETR keypoint model, which is not supported", name);
    }
    if (has("register_tokens"))
      refuse("an encoder with register tokens, which is not supported", name);
    if (name.ends_with(".running_mean")) {
      refuse("a projector with batch normalisation, which is not supported", name);
    }
    if (name == "semantic_embed.weight") semantic = &name;
    if (name == kPatchWeight) {
      const Shape& shape = record.parts[0].shape;
      if (shape.size() == 4 && shape[1] != 3) {
        fail_model(origin, fmt::format("a model for pictures of {} channels; accepted: 3 ('{}' has "
                                       "shape {})",
                                       shape[1], name, to_string(shape)));
      }
    }
    class_head |= name == "class_embed.weight";
    dino |= name == kClassToken;
    transformer |= name.starts_with("transformer.");
  }
  if (semantic != nullptr && !class_head) {
    refuse("an RF-DETR semantic segmentation model, which is not supported", *semantic);
  }
  if (!dino && class_head && transformer) {
    fail_model(origin, fmt::format("a model without a DINOv2 encoder (no '{}'), such as RF-DETR "
                                   "atto, femto or pico, which is not supported",
                                   kClassToken));
  }
}

}  // namespace rfseg
