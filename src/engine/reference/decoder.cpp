#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/model_weights.h"
#include "engine/reference/gemm.h"
#include "engine/reference/network.h"
#include "engine/reference/ops.h"

// Two-stage selection and deformable decoder: models/transformer.py and
// models/ops/functions/ms_deform_attn_func.py of roboflow/rf-detr 1.4.1.

namespace rfseg::reference {
namespace {

constexpr float kNormEps = 1e-5f;

/// Rows `index` of x [n, C].
Tensor gather(const Tensor& x, const std::vector<int32_t>& index) {
  const int64_t width = x.dim(1);
  Tensor result({static_cast<int64_t>(index.size()), width});
  float* out = result.data.data();
  for (int32_t i : index) out = std::copy_n(x.data.data() + i * width, width, out);
  return result;
}

Tensor as_tensor(const std::vector<int32_t>& index) {
  Tensor result({static_cast<int64_t>(index.size())});
  std::transform(index.begin(), index.end(), result.data.begin(),
                 [](int32_t i) { return static_cast<float>(i); });
  return result;
}

Tensor sum(const Tensor& x, const Tensor& y) {
  Tensor result = x;
  add(result, y);
  return result;
}

/// x W^T + b with rows [first, first + rows) of the stacked q, k, v projection.
Tensor in_projection(Context& context, const Tensor& x, const std::string& key, int64_t first) {
  const int64_t dim = context.config.dim;
  const Tensor& weight = context.weight(key + "self_attn.in_proj_weight");
  const Tensor& bias = context.weight(key + "self_attn.in_proj_bias");
  Tensor w({dim, dim}), b({dim});
  std::copy_n(weight.data.data() + first * dim, dim * dim, w.data.data());
  std::copy_n(bias.data.data() + first, dim, b.data.data());
  return linear(x, w, b, context.threads);
}

/// out += weight * the bilinear sample of a map's channels [d] at pixel position (px, py); corners
/// outside of the map count as zero. `cells` points at the head's channels of cell (0, 0).
void sample(const float* cells, const MapSize& map, int64_t channels, int64_t d, float px, float py,
            float weight, float* out) {
  const float x0 = std::floor(px), y0 = std::floor(py);
  for (int corner = 0; corner < 4; ++corner) {
    const int right = corner % 2, lower = corner / 2;
    const float x = x0 + static_cast<float>(right), y = y0 + static_cast<float>(lower);
    // Compared as floats: positions are unbounded and may not fit an integer.
    const bool inside =
        x >= 0 && x < static_cast<float>(map.cols) && y >= 0 && y < static_cast<float>(map.rows);
    if (!inside) continue;
    const float share = (1 - std::abs(px - x)) * (1 - std::abs(py - y)) * weight;
    const int64_t cell = static_cast<int64_t>(y) * map.cols + static_cast<int64_t>(x);
    for (int64_t c = 0; c < d; ++c) out[c] += cells[cell * channels + c] * share;
  }
}

/// Deformable cross-attention of queries [Q, C] over the levels of `memory` [N, C].
Tensor deformable(Context& context, const Tensor& queries, const Tensor& memory, const Tensor& ref,
                  const std::string& key) {
  const ModelConfig& config = context.config;
  const std::vector<MapSize>& levels = context.proposals.levels;
  const int64_t count = queries.dim(0), dim = config.dim, heads = config.ca_heads;
  const int64_t points = config.points, d = dim / heads;
  const int64_t samples = static_cast<int64_t>(levels.size()) * points;  // of one head
  const Tensor offsets = context.linear(queries, key + "sampling_offsets");
  Tensor attention = context.linear(queries, key + "attention_weights");
  const Tensor value = context.linear(memory, key + "value_proj");
  const float reach = 0.5f / static_cast<float>(points);

  Tensor result({count, dim});
  std::fill(result.data.begin(), result.data.end(), 0.0f);
  for (int64_t q = 0; q < count; ++q) {
    const float* box = ref.data.data() + q * 4;
    for (int64_t head = 0; head < heads; ++head) {
      float* weights = attention.data.data() + (q * heads + head) * samples;
      softmax(weights, samples);
      const float* offset = offsets.data.data() + (q * heads + head) * samples * 2;
      const float* cells = value.data.data() + head * d;
      for (const MapSize& map : levels) {
        for (int64_t p = 0; p < points; ++p, offset += 2, ++weights) {
          const float x = box[0] + offset[0] * box[2] * reach;
          const float y = box[1] + offset[1] * box[3] * reach;
          sample(cells, map, dim, d, x * static_cast<float>(map.cols) - 0.5f,
                 y * static_cast<float>(map.rows) - 0.5f, *weights,
                 result.data.data() + q * dim + head * d);
        }
        cells += map.cells() * dim;
      }
    }
  }
  return context.linear(result, key + "output_proj");
}

}  // namespace

Tensor select_queries(Context& context, const Tensor& memory, const int32_t* forced, int image) {
  const ModelConfig& config = context.config;
  const Proposals& proposals = context.proposals;
  const int64_t dim = config.dim;
  Tensor masked = memory;
  for (int64_t i = 0; i < proposals.count; ++i) {
    if (!proposals.valid[i]) std::fill_n(masked.data.data() + i * dim, dim, 0.0f);
  }
  const Tensor output = context.norm(context.linear(masked, kTransformerPrefix + "enc_output.0"),
                                     kTransformerPrefix + "enc_output_norm.0", kNormEps);
  const Tensor logits = context.linear(output, kTransformerPrefix + "enc_out_class_embed.0");
  Tensor score({proposals.count});
  for (int64_t i = 0; i < proposals.count; ++i) {
    const float* row = logits.data.data() + i * config.logits;
    score.data[i] = *std::max_element(row, row + config.logits);
  }
  context.trace.keep("enc_score", score);
  const std::vector<int32_t> chosen =
      choose_queries(config, forced, image, score.data.data(), proposals.count);
  context.trace.keep("topk", as_tensor(chosen));

  const Tensor delta =
      context.mlp(gather(output, chosen), kTransformerPrefix + "enc_out_bbox_embed.0", 3);
  const Tensor base = gather(proposals.boxes, chosen);
  // Rows beyond the number of cells keep the learned box as it is.
  const Tensor& learned = context.weight("refpoint_embed.weight");
  Tensor ref({config.queries, 4});
  std::copy_n(learned.data.data(), ref.size(), ref.data.data());
  for (std::size_t j = 0; j < chosen.size(); ++j) {
    float box[4];
    refine_box(delta.data.data() + j * 4, base.data.data() + j * 4, box);
    refine_box(learned.data.data() + j * 4, box, ref.data.data() + j * 4);
  }
  context.trace.keep("ref", ref);
  return ref;
}

Tensor decode(Context& context, const Tensor& memory, const Tensor& ref) {
  const ModelConfig& config = context.config;
  const int64_t count = config.queries, dim = config.dim;
  Tensor sine({count, 2 * dim});
  sine_embedding(ref.data.data(), count, config.dim, sine.data.data());
  const Tensor position =
      context.mlp(std::move(sine), kTransformerPrefix + "decoder.ref_point_head", 2);
  Tensor x = context.weight("query_feat.weight");
  for (int layer = 0; layer < config.dec_layers; ++layer) {
    const std::string b = fmt::format("{}decoder.layers.{}.", kTransformerPrefix, layer);
    const Tensor y = sum(x, position);
    const Tensor q = in_projection(context, y, b, 0);
    const Tensor k = in_projection(context, y, b, dim);
    const Tensor v = in_projection(context, x, b, 2 * dim);
    Tensor attended({count, dim});
    attention(q.data.data(), k.data.data(), v.data.data(), count, count, dim, config.sa_heads,
              attended.data.data(), context.threads);
    add(x, context.linear(attended, b + "self_attn.out_proj"));
    x = context.norm(x, b + "norm1", kNormEps);
    add(x, deformable(context, sum(x, position), memory, ref, b + "cross_attn."));
    x = context.norm(x, b + "norm2", kNormEps);
    Tensor hidden = context.linear(x, b + "linear1");
    relu(hidden);
    add(x, context.linear(hidden, b + "linear2"));
    x = context.norm(x, b + "norm3", kNormEps);
    context.trace.keep(fmt::format("decoder{}", layer), x);
  }
  Tensor hs = context.norm(x, kTransformerPrefix + "decoder.norm", kNormEps);
  context.trace.keep("hs", hs);
  return hs;
}

}  // namespace rfseg::reference
