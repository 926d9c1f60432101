#include "checkpoint/tensor_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "checkpoint/byte_source.h"
#include "checkpoint/names.h"
#include "core/model_tensors.h"

namespace rfseg {
namespace {

constexpr int64_t kMaxSide = 1 << 20;
constexpr int kMaxIndex = 255;

class FactFinder {
 public:
  explicit FactFinder(const WeightSource& weights) : weights_(weights) {}

  TensorFacts find() {
    TensorFacts f;
    const Shape head = shape("class_embed.weight", 2);
    f.logits = side(head[0]);
    f.dim = side(head[1]);
    const Shape patch = shape(kPatchWeight, 4);
    f.enc_dim = side(patch[0]);
    f.patch = side(patch[2]);
    if (patch[2] != patch[3]) refuse(kPatchWeight, patch, "square patches");
    const Shape table = shape(kPositionTable, 3);
    f.pos_grid = static_cast<int>(std::lround(std::sqrt(static_cast<double>(side(table[1])) - 1)));
    if (int64_t{f.pos_grid} * f.pos_grid + 1 != table[1] || f.pos_grid < 1) {
      refuse(kPositionTable, table, "1 + a square number of rows");
    }
    if (f.enc_dim % 64 != 0) refuse(kPatchWeight, patch, "a width divisible by 64");
    if (f.dim % 32 != 0) refuse("class_embed.weight", head, "a width divisible by 32");
    f.ca_heads = f.dim / 16;
    f.depth = count(kEncoderPrefix + "encoder.layer.");
    f.dec_layers = count("transformer.decoder.layers.");
    f.groups = count("transformer.enc_output.");
    if (f.depth == 0 || f.dec_layers == 0) {
      fail_model(weights_.origin(),
                 fmt::format("has {} encoder blocks and {} decoder layers; at least one of each is "
                             "needed",
                             f.depth, f.dec_layers));
    }
    find_levels(f);
    const std::string first = "transformer.decoder.layers.0.";
    f.ffn_dim = side(shape(first + "linear1.weight", 2)[0]);
    const Shape attention = shape(first + "cross_attn.attention_weights.weight", 2);
    const int64_t per_point = int64_t{f.ca_heads} * static_cast<int64_t>(f.levels.size());
    if (attention[0] % per_point != 0 || attention[0] == 0 || attention[0] / per_point > 64) {
      refuse(first + "cross_attn.attention_weights.weight", attention,
             fmt::format("a multiple of {} rows (heads x levels)", per_point));
    }
    f.points = static_cast<int>(attention[0] / per_point);
    f.query_rows = side(shape("query_feat.weight", 2)[0]);
    f.seg =
        std::any_of(weights_.tensors().begin(), weights_.tensors().end(),
                    [](const TensorInfo& t) { return t.name.starts_with("segmentation_head."); });
    return f;
  }

 private:
  Shape shape(const std::string& name, std::size_t rank) const {
    const TensorInfo* info = weights_.find(name);
    if (info == nullptr) {
      std::string held;
      for (std::size_t i = 0; i < std::min<std::size_t>(3, weights_.tensors().size()); ++i) {
        held += (i ? ", '" : "'") + printable(weights_.tensors()[i].name) + "'";
      }
      fail_model(weights_.origin(),
                 fmt::format("tensor '{}' is missing, so this is no RF-DETR checkpoint ({})", name,
                             held.empty() ? "it holds no tensors" : "it holds " + held + ", ..."));
    }
    if (info->shape.size() != rank) refuse(name, info->shape, fmt::format("{} dimensions", rank));
    return info->shape;
  }

  [[noreturn]] void refuse(const std::string& name, const Shape& found,
                           const std::string& want) const {
    fail_model(weights_.origin(),
               fmt::format("tensor '{}' has shape {}, expected {}", name, to_string(found), want));
  }

  int side(int64_t value) const {
    if (value < 1 || value > kMaxSide) {
      fail_model(weights_.origin(),
                 fmt::format("a tensor has a side of {}; accepted: 1 to {}", value, kMaxSide));
    }
    return static_cast<int>(value);
  }

  // One more than the largest N in names "PREFIX N . ...".
  int count(const std::string& prefix) const {
    int largest = -1;
    for (const TensorInfo& info : weights_.tensors()) {
      if (!info.name.starts_with(prefix)) continue;
      int index = 0;
      std::size_t at = prefix.size();
      for (; at < info.name.size() && info.name[at] >= '0' && info.name[at] <= '9'; ++at) {
        index = index * 10 + (info.name[at] - '0');
        if (index > kMaxIndex) {
          fail_model(weights_.origin(),
                     fmt::format("'{}' counts further than {}", printable(info.name), kMaxIndex));
        }
      }
      if (at > prefix.size() && at < info.name.size() && info.name[at] == '.') {
        largest = std::max(largest, index);
      }
    }
    return largest + 1;
  }

  void find_levels(TensorFacts& f) const {
    const std::string& projector = kProjectorPrefix;
    const int levels = count(projector + "stages.");
    if (levels < 1 || levels > 4) {
      fail_model(weights_.origin(),
                 fmt::format("has {} projector levels; accepted: 1 to 4", levels));
    }
    for (int i = 0; i < levels; ++i) {
      const std::string sampling = projector + fmt::format("stages_sampling.{}.", i);
      const bool any =
          std::any_of(weights_.tensors().begin(), weights_.tensors().end(),
                      [&](const TensorInfo& t) { return t.name.starts_with(sampling); });
      if (!any) {
        f.levels.push_back(Level::kP4);
      } else if (weights_.find(sampling + "0.0.weight") != nullptr) {
        f.levels.push_back(Level::kP3);
      } else if (weights_.find(sampling + "0.0.conv.weight") != nullptr) {
        f.levels.push_back(Level::kP5);
      } else {
        fail_model(weights_.origin(), fmt::format("'{}*' samples in a way that is not supported; "
                                                  "accepted: projector levels P3, P4 and P5",
                                                  sampling));
      }
    }
    const std::string mix = projector + "stages.0.0.cv1.conv.weight";
    const Shape channels = shape(mix, 4);
    const int each = f.levels[0] == Level::kP3 ? f.enc_dim / 2 : f.enc_dim;
    if (channels[1] < 1 || channels[1] % each != 0 || channels[1] / each > kMaxIndex) {
      refuse(mix, channels, fmt::format("a multiple of {} columns", each));
    }
    f.taps = static_cast<int>(channels[1] / each);
  }

  const WeightSource& weights_;
};

}  // namespace

TensorFacts read_tensor_facts(const WeightSource& weights) { return FactFinder(weights).find(); }

}  // namespace rfseg
