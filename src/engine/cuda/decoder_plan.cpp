#include "engine/cuda/decoder_plan.h"

#include <cstring>

namespace rfseg::cuda {
namespace {

using Then = DecoderStep::Then;

/// Shares a product of `columns` columns and `k` among warps: the fewest steps in a row, then the
/// fewest parts, whose sums must be added.
void share(DecoderStep& s, int columns, int k, bool whole) {
  const int tiles = (columns + 7) / 8;
  int best = 0;
  for (int parts = 1; parts <= (whole ? 1 : kDecoderWarps); parts *= 2) {
    if (k / 32 % parts != 0) break;
    const int groups = kDecoderWarps / parts;
    const int per_warp = (tiles + groups - 1) / groups;
    const int cost = 8 * per_warp * (k / 32 / parts) + parts;
    const bool fits = parts == 1 || parts * groups * per_warp <= 32;
    if (best != 0 && (cost >= best || !fits)) continue;
    best = cost;
    s.parts = parts;
    s.per_warp = per_warp;
    s.steps = k / 32 / parts;
  }
}

class Planner {
 public:
  explicit Planner(DecoderLayerPlan& to) : to_(to) {}

  /// Columns dealt to the blocks in runs.
  DecoderStep& add(Then then, DecoderStep::Operand a, const Matrix& m, int rows,
                   int first_row = 0) {
    const int width = (rows + kDecoderBlocks - 1) / kDecoderBlocks;
    return place(then, a, {&m, first_row, false, false}, width, width, 0, rows, m.k);
  }
  DecoderStep& add_runs(Then then, DecoderStep::Operand a, const Matrix& m, int rows, int runs) {
    const int width = rows / runs / kDecoderBlocks;
    return place(then, a, {&m, 0, false, false}, width * runs, width, rows / runs, rows, m.k);
  }
  /// All columns of the first block.
  DecoderStep& add_alone(Then then, DecoderStep::Operand a, const Matrix& m) {
    return place(then, a, {&m, 0, false, false}, m.n, m.n, 0, m.n, m.k);
  }
  DecoderStep& add_sampling(DecoderStep::Operand a, const Matrix& m) {
    const int own = m.n / kDecoderBlocks;
    return place(Then::kSample, a, {&m, 0, false, true}, own, own, 0, m.n, m.k);
  }
  DecoderStep& add_split_k(Then then, DecoderStep::Operand a, const Matrix& m) {
    return place(then, a, {&m, 0, true, false}, m.n, m.n, 0, m.n, m.k / kDecoderBlocks);
  }

 private:
  DecoderStep& place(Then then, DecoderStep::Operand a, const DecoderSource& source, int columns,
                     int width, int stride, int limit, int k) {
    DecoderStep& s = to_.plan.step[to_.plan.count];
    to_.source[to_.plan.count++] = source;
    s.then = then;
    s.a = a;
    s.columns = columns;
    s.width = width;
    s.stride = stride;
    s.limit = limit;
    const bool whole =
        then == Then::kHidden || then == Then::kReduceNorm || then == Then::kReduceGather;
    share(s, columns, k, whole);
    s.bias = to_.plan.constants;
    to_.plan.constants += s.padded_columns();
    steps_ += s.per_warp * s.steps;
    to_.plan.chunks = (steps_ + kChunkSteps - 1) / kChunkSteps;
    return s;
  }

  DecoderLayerPlan& to_;
  int steps_ = 0;
};

/// Row of the matrix that is column `c` of block `b`; -1 for padding.
int row_of(const ModelConfig& config, const DecoderStep& s, const DecoderSource& source, int b,
           int c) {
  if (c >= s.columns) return -1;
  if (source.splits_k || source.everywhere) return c;
  if (source.sampling) {
    const int samples = static_cast<int>(config.levels.size()) * config.points;
    const int heads = config.ca_heads / kDecoderBlocks;
    const int head = b * heads + c / (3 * samples), i = c % (3 * samples);
    return i < 2 * samples ? head * 2 * samples + i
                           : 2 * config.ca_heads * samples + head * samples + i - 2 * samples;
  }
  const int row = c / s.width * s.stride + b * s.width + c % s.width;
  return row < s.limit ? source.first_row + row : -1;
}

}  // namespace

bool decoder_kernel_takes(const ModelConfig& c) {
  return c.dim % 128 == 0 && c.dim <= 512 && c.ca_heads % kDecoderBlocks == 0 &&
         c.ffn_dim % (kDecoderBlocks * 32) == 0 && c.ffn_dim <= kDecoderBlocks * 512;
}

DecoderLayerPlan plan_decoder_layer(const ModelConfig& config, const DecoderWeights& decoder,
                                    const SegmentationWeights& segmentation, int layer) {
  DecoderLayerPlan to;
  Planner plan(to);
  const DecoderLayer& l = decoder.layers[layer];
  const int c = config.dim;
  const bool last = layer + 1 == config.dec_layers;
  DecoderStep* normed[3];
  normed[0] = &plan.add(Then::kAddNorm, DecoderStep::kContent, l.out_proj, c);
  normed[0]->to = DecoderStep::kPositioned;
  plan.add_sampling(DecoderStep::kPositioned, l.sampling);
  normed[1] = &plan.add(Then::kAddNorm, DecoderStep::kContent, l.output_proj, c);
  normed[1]->to = DecoderStep::kContent;
  DecoderStep& hidden = plan.add(Then::kHidden, DecoderStep::kContent, l.linear1, config.ffn_dim);
  hidden.activation = Activation::kRelu;
  normed[2] = &plan.add_split_k(Then::kReduceNorm, DecoderStep::kOwnHidden, l.linear2);
  if (!last) {
    const Matrix& next = decoder.layers[layer + 1].in_proj;
    plan.add_runs(Then::kStore, DecoderStep::kPositioned, next, 2 * c, 2);
    plan.add(Then::kStore, DecoderStep::kContent, next, c, 2 * c);  // values have no position
  } else {
    // Positioned is hs, content is what query_norm made of it.
    if (config.seg) {
      DecoderStep& first =
          plan.add(Then::kHidden, DecoderStep::kContent, segmentation.query1, 4 * c);
      first.activation = Activation::kGelu;
      plan.add_split_k(Then::kReduceGather, DecoderStep::kOwnHidden, segmentation.query2).to =
          DecoderStep::kOne;
      plan.add(Then::kStore, DecoderStep::kOne, segmentation.query_mask, c);
      plan.add_alone(Then::kStoreFloat, DecoderStep::kOne, segmentation.query_constant);
    }
    plan.add(Then::kStoreFloat, DecoderStep::kPositioned, decoder.classes, config.logits);
    DecoderStep& first =
        plan.add(Then::kGather, DecoderStep::kPositioned, decoder.box.layers[0], c);
    first.activation = Activation::kRelu;
    first.to = DecoderStep::kTwo;
    DecoderStep& second = plan.add(Then::kGather, DecoderStep::kTwo, decoder.box.layers[1], c);
    second.activation = Activation::kRelu;
    second.to = DecoderStep::kOne;
    plan.add_alone(Then::kBox, DecoderStep::kOne, decoder.box.layers[2]);
  }
  to.norms = {&l.norm1, &l.norm2, &l.norm3};
  if (last) to.norms.push_back(&decoder.norm);
  if (last && config.seg) to.norms.push_back(&segmentation.query_norm);
  to.plan.norms = to.plan.constants;
  to.plan.norm_count = static_cast<int>(to.norms.size());
  for (int i = 0; i < 3; ++i) normed[i]->norm = to.plan.norms + i * 2 * c;
  to.plan.constants += to.plan.norm_count * 2 * c;
  return to;
}

DecoderLayerPlan plan_decoder_start(const ModelConfig& config, const DecoderWeights& decoder) {
  DecoderLayerPlan to;
  Planner plan(to);
  const int c = config.dim;
  DecoderStep& first = plan.add(Then::kGather, DecoderStep::kContent, decoder.enc_box.layers[0], c);
  first.activation = Activation::kRelu;
  first.to = DecoderStep::kTwo;
  DecoderStep& second = plan.add(Then::kGather, DecoderStep::kTwo, decoder.enc_box.layers[1], c);
  second.activation = Activation::kRelu;
  second.to = DecoderStep::kOne;
  plan.add_alone(Then::kReference, DecoderStep::kOne, decoder.enc_box.layers[2]);
  to.source[to.plan.count - 1].everywhere = true;
  DecoderStep& wide =
      plan.add_split_k(Then::kReduceGather, DecoderStep::kOwnHidden, decoder.position[0]);
  wide.activation = Activation::kRelu;
  wide.to = DecoderStep::kTwo;
  plan.add(Then::kPosition, DecoderStep::kTwo, decoder.position[1], c).to =
      DecoderStep::kPositioned;
  const Matrix& in_proj = decoder.layers[0].in_proj;
  plan.add_runs(Then::kStore, DecoderStep::kPositioned, in_proj, 2 * c, 2);
  plan.add(Then::kStore, DecoderStep::kOne, in_proj, c, 2 * c);  // the learned queries
  return to;
}

void pack_decoder_layer(const ModelConfig& config, const DecoderLayerPlan& layer,
                        const std::function<const void*(const void*)>& at, std::byte* stream,
                        float* constants) {
  const DecoderPlan& plan = layer.plan;
  const int c = config.dim;
  for (int b = 0; b < kDecoderBlocks; ++b) {
    float* own = constants + int64_t{b} * plan.constants;
    for (int i = 0; i < plan.count; ++i) {
      const DecoderStep& s = plan.step[i];
      const float* bias = static_cast<const float*>(at(layer.source[i].matrix->bias));
      for (int column = 0; column < s.padded_columns(); ++column) {
        const int row = row_of(config, s, layer.source[i], b, column);
        own[s.bias + column] = row >= 0 ? bias[row] : 0.0f;
      }
    }
    for (int i = 0; i < plan.norm_count; ++i) {
      float* to = own + plan.norms + i * 2 * c;
      std::memcpy(to, at(layer.norms[i]->gamma), sizeof(float) * static_cast<std::size_t>(c));
      std::memcpy(to + c, at(layer.norms[i]->beta), sizeof(float) * static_cast<std::size_t>(c));
    }
    for (int warp = 0; warp < kDecoderWarps; ++warp) {
      std::byte* to =
          stream + (int64_t{b} * kDecoderWarps + warp) * plan.chunks * int64_t{kChunkBytes};
      std::memset(to, 0, static_cast<std::size_t>(plan.chunks) * kChunkBytes);
      for (int i = 0; i < plan.count; ++i) {
        const DecoderStep& s = plan.step[i];
        const DecoderSource& source = layer.source[i];
        const uint16_t* data = static_cast<const uint16_t*>(at(source.matrix->data));
        const int ld = source.matrix->k;
        const int first_k = warp % s.parts * s.steps * 32 +
                            (source.splits_k ? b * (source.matrix->k / kDecoderBlocks) : 0);
        // As the kernel consumes them: up to four tiles side by side.
        for (int first = 0; first < s.per_warp; first += 4) {
          const int tiles = s.per_warp - first < 4 ? s.per_warp - first : 4;
          for (int step = 0; step < s.steps; ++step) {
            for (int tile = 0; tile < tiles; ++tile, to += kStepBytes) {
              const int column = (warp / s.parts * s.per_warp + first + tile) * 8;
              for (int lane = 0; lane < 32; ++lane) {
                const int row = row_of(config, s, source, b, column + lane / 4);
                if (row < 0) continue;
                const uint16_t* from =
                    data + int64_t{row} * ld + first_k + step * 32 + lane % 4 * 2;
                for (int word = 0; word < 4; ++word) {
                  std::memcpy(to + lane * 16 + word * 4, from + word * 8, 4);
                }
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace rfseg::cuda
