#include <algorithm>
#include <cstring>

#include "engine/cpu/stages.h"

namespace rfseg::cpu {
namespace {

constexpr float kEps = 1e-5f;

void box_mlp(const Kernels& k, Worker& worker, const BoxMlp& w, int count, ConstRows in, float* a,
             float* b, float* out) {
  const int64_t dim = w.layers[0].n;
  multiply(k, worker, w.layers[0], count, in, {a, dim}, Epilogue::kRelu);
  multiply(k, worker, w.layers[1], count, {a, dim}, {b, dim}, Epilogue::kRelu);
  multiply(k, worker, w.layers[2], count, {b, dim}, {out, 4});
}

/// Self-attention's inputs of layer `layer` for a run of queries.
void project_qkv(const Pass& p, Worker& worker, int layer, int first, int count, float* scratch) {
  const DecoderLayer& w = p.net.decoder.layers[layer];
  const int64_t c = p.net.config.dim;
  const Kernels& k = p.ex.kernels;
  const float* x = p.buffers.queries + first * c;
  float* qkv = p.buffers.query_qkv + first * 3 * c;
  k.add(x, p.buffers.position + first * c, static_cast<int>(count * c), scratch);
  multiply(k, worker, w.query_key, count, {scratch, c}, {qkv, 3 * c});
  multiply(k, worker, w.value, count, {x, c}, {qkv + 2 * c, 3 * c});
}

/// Reference boxes and query positions of the selected cells, and the first layer's q, k, v.
void start_queries(const Pass& p, const std::vector<std::vector<int32_t>>& selected) {
  const ModelConfig& c = p.net.config;
  const DecoderWeights& w = p.net.decoder;
  const Proposals& proposals = p.net.proposals;
  const Kernels& k = p.ex.kernels;
  const int64_t dim = c.dim;
  for_rows(p.ex, p.batch * c.queries, [&](int first, int count, Worker& worker) {
    const auto [a, b, encoded, delta] =
        carve(worker, {count * 2 * dim, count * dim, count * dim, count * 4});
    // Queries beyond the number of cells have no proposal.
    const auto cell = [&](int row) -> int64_t {
      const int picture = (first + row) / c.queries, query = (first + row) % c.queries;
      return query < static_cast<int>(selected[picture].size()) ? selected[picture][query] : -1;
    };
    const auto input = [&](int row, int) -> const float* {
      const int64_t at = cell(row);
      if (at < 0 || !proposals.valid[at]) return p.geometry.zeros.data();
      return p.buffers.maps + ((first + row) / c.queries * proposals.count + at) * dim;
    };
    multiply_rows(k, worker, w.enc_output, count, 1, Epilogue::kBias, nullptr, input,
                  Rows{encoded, dim}, ConstRows{nullptr, 0});
    k.layer_norm(encoded, dim, encoded, dim, count, c.dim, w.enc_norm.weight, w.enc_norm.bias, kEps,
                 Activation::kNone);
    box_mlp(k, worker, w.enc_box, count, {encoded, dim}, a, b, delta);
    float* reference = p.buffers.reference + int64_t{first} * 4;
    for (int r = 0; r < count; ++r) {
      const float* learned = w.reference_points + (first + r) % c.queries * 4;
      float* box = reference + r * 4;
      if (cell(r) < 0) {
        std::copy_n(learned, 4, box);
        continue;
      }
      refine_box(delta + r * 4, proposals.boxes.data.data() + cell(r) * 4, box);
      refine_box(learned, box, box);
    }
    sine_embedding(reference, count, c.dim, a);
    multiply(k, worker, w.position[0], count, {a, 2 * dim}, {b, dim}, Epilogue::kRelu);
    multiply(k, worker, w.position[1], count, {b, dim}, {p.buffers.position + first * dim, dim});
    for (int r = 0; r < count; ++r) {
      std::memcpy(p.buffers.queries + (first + r) * dim, w.content + (first + r) % c.queries * dim,
                  sizeof(float) * dim);
    }
    project_qkv(p, worker, 0, first, count, a);
  });
}

/// Class logits, boxes and mask weights of a run of queries.
void predict(const Pass& p, Worker& worker, int first, int count, const float* hs, float* a,
             float* b, float* hidden, const Heads& heads) {
  const ModelConfig& c = p.net.config;
  const DecoderWeights& w = p.net.decoder;
  const Kernels& k = p.ex.kernels;
  const int64_t dim = c.dim;
  multiply(k, worker, w.classes, count, {hs, dim},
           {heads.logits + int64_t{first} * c.logits, c.logits});
  float* boxes = heads.boxes + int64_t{first} * 4;
  box_mlp(k, worker, w.box, count, {hs, dim}, a, b, boxes);
  for (int r = 0; r < count; ++r) {
    refine_box(boxes + r * 4, p.buffers.reference + (int64_t{first} + r) * 4, boxes + r * 4);
  }
  if (!heads.masks) return;
  const SegmentationWeights& s = p.net.segmentation;
  const int64_t hidden_ld = 4 * dim + 16;
  k.layer_norm(hs, dim, a, dim, count, c.dim, s.query_norm.weight, s.query_norm.bias, kEps,
               Activation::kNone);
  multiply(k, worker, s.query1, count, {a, dim}, {hidden, hidden_ld}, Epilogue::kGelu);
  multiply(k, worker, s.query2, count, {hidden, hidden_ld}, {b, dim}, Epilogue::kAdd, {hs, dim});
  multiply(k, worker, s.query_mask, count, {b, dim},
           {p.buffers.query_masks + first * (dim + 1), dim + 1});
}

/// Everything of a layer after its self-attention, and what follows before the next one.
void finish_layer(const Pass& p, int layer, const Heads& heads) {
  const ModelConfig& c = p.net.config;
  const DecoderLayer& w = p.net.decoder.layers[layer];
  const Kernels& k = p.ex.kernels;
  const int64_t dim = c.dim;
  const int64_t hidden_ld = std::max<int64_t>(c.ffn_dim, 4 * dim) + 16;
  const int64_t sampling_ld = (w.sampling.n + 15) / 16 * 16;
  for_rows(p.ex, p.batch * c.queries, [&](int first, int count, Worker& worker) {
    const auto [a, b, hs, hidden] = carve(
        worker, {count * dim, count * std::max(dim, sampling_ld), count * dim, count * hidden_ld});
    float* x = p.buffers.queries + first * dim;
    const auto norm = [&](const Norm& n, float* to) {
      k.layer_norm(x, dim, to, dim, count, c.dim, n.weight, n.bias, kEps, Activation::kNone);
    };
    multiply(k, worker, w.out_proj, count, {p.buffers.query_qkv + first * 3 * dim, 3 * dim},
             {x, dim}, Epilogue::kAdd, {x, dim});
    norm(w.norm1, x);

    k.add(x, p.buffers.position + first * dim, static_cast<int>(count * dim), a);
    multiply(k, worker, w.sampling, count, {a, dim}, {b, sampling_ld});
    for (int r = 0; r < count; ++r) {
      DeformableQuery q;
      q.ld = dim * c.dec_layers;
      q.values =
          p.buffers.values + (first + r) / c.queries * p.net.proposals.count * q.ld + layer * dim;
      q.heads = c.ca_heads;
      q.levels = static_cast<int>(c.levels.size());
      q.points = c.points;
      q.head_dim = c.dim / c.ca_heads;
      q.rows = p.geometry.rows.data();
      q.cols = p.geometry.cols.data();
      q.first_cell = p.geometry.first_cell.data();
      q.reference = p.buffers.reference + (int64_t{first} + r) * 4;
      q.projected = b + r * sampling_ld;
      q.out = a + r * dim;
      k.deformable(q);
    }
    multiply(k, worker, w.output_proj, count, {a, dim}, {x, dim}, Epilogue::kAdd, {x, dim});
    norm(w.norm2, x);

    multiply(k, worker, w.linear1, count, {x, dim}, {hidden, hidden_ld}, Epilogue::kRelu);
    multiply(k, worker, w.linear2, count, {hidden, hidden_ld}, {x, dim}, Epilogue::kAdd, {x, dim});
    norm(w.norm3, x);
    if (layer + 1 < c.dec_layers) {
      project_qkv(p, worker, layer + 1, first, count, a);
    } else {
      norm(p.net.decoder.norm, hs);
      predict(p, worker, first, count, hs, a, b, hidden, heads);
    }
  });
}

}  // namespace

void decode(const Pass& p, const int32_t* forced, const Heads& heads) {
  const ModelConfig& c = p.net.config;
  const int64_t cells = p.net.proposals.count;
  std::vector<std::vector<int32_t>> selected(p.batch);
  for (int b = 0; b < p.batch; ++b) {
    selected[b] = choose_queries(c, forced, b, p.buffers.scores + b * cells, cells);
  }
  start_queries(p, selected);
  for (int layer = 0; layer < c.dec_layers; ++layer) {
    attend(p.ex, p.buffers.query_qkv, p.batch, c.queries, c.sa_heads, c.dim / c.sa_heads);
    finish_layer(p, layer, heads);
  }
}

}  // namespace rfseg::cpu
