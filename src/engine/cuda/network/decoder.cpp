#include "engine/cuda/network/pass.h"

#include <fmt/format.h>

#include <algorithm>

// Two-stage selection and decoder: models/transformer.py of roboflow/rf-detr 1.4.1.

namespace rfseg::cuda {

constexpr float kQueryScale = 0.17677669529663687f;  // 1 / sqrt(32)

void Pass::select_queries() {
  const DecoderWeights& w = w_.decoder;
  const int c = c_.dim, m = batch_ * total_, q = batch_ * c_.queries;
  const void* memory = b_.memory;
  if (w.valid != nullptr) {
    mask_rows(main_.next(), math_, {b_.memory, w.valid, b_.masked, batch_, total_, c});
    memory = b_.masked;
  }
  GemmNormArguments g = product_norm(product(memory, c, m, w.enc_output), kDecoderEps, w.enc_norm);
  g.out = b_.cells;
  g.ldo = c;
  gemm_norm(main_.next(), math_, g);
  if (takes_class_scores({nullptr, false, lanes_.portable, lanes_.few_rows}, math_, m, c,
                         c_.logits)) {
    class_scores(main_.next(), math_,
                 {b_.cells, {w.enc_class.data, w.enc_class.bias}, b_.scores, m, c_.logits});
  } else {
    linear(main_, b_.cells, m, w.enc_class, b_.cell_logits, Activation::kNone, true);
    class_max(main_.next(), {b_.cell_logits, b_.scores, m, c_.logits});
  }
  trace("enc_score", {total_}, b_.scores, PointType::kFloat);
  select_cells(main_.next(), {b_.scores, forced_ ? b_.forced : nullptr, b_.chosen, b_.chosen_rows,
                              batch_, total_, c_.queries});
  trace("topk", {std::min(c_.queries, total_)}, b_.chosen, PointType::kInt32, c_.queries);

  if (in_clusters()) return start_in_clusters();
  GemmArguments first = product(b_.cells, c, q, w.enc_box.layers[0]);
  first.index = b_.chosen_rows;
  first.activation = Activation::kRelu;
  first.out = b_.mlp[0];
  first.ldo = c;
  gemm(main_.next(), math_, first);
  linear(main_, b_.mlp[0], q, w.enc_box.layers[1], b_.mlp[1], Activation::kRelu);
  linear(main_, b_.mlp[1], q, w.enc_box.layers[2], b_.delta, Activation::kNone, true);
  make_references(main_.next(), math_,
                  {b_.delta, b_.chosen, w.proposals, w.reference_points, b_.references, b_.sine,
                   batch_, c_.queries, c});
  trace("ref", {c_.queries, 4}, b_.references, PointType::kFloat);
  linear(main_, b_.sine, q, w.position[0], b_.mlp[0], Activation::kRelu);
  linear(main_, b_.mlp[0], q, w.position[1], b_.position, Activation::kNone, true);
  start_queries(
      main_.next(), math_,
      {w.content, b_.position, b_.queries, b_.content, b_.positioned, batch_, c_.queries, c});
}

bool Pass::in_clusters() const {
  const int samples = static_cast<int>(c_.levels.size()) * c_.points;
  return takes_query_layers({nullptr, false, lanes_.portable, lanes_.few_rows}, math_, batch_,
                            c_.queries, c_.dim, c_.ffn_dim, samples);
}

namespace {
QueryProduct product_of(const Matrix& m) { return {m.data, m.bias}; }
QueryNorm norm_of(const Norm& n) { return {n.gamma, n.beta}; }
}  // namespace

void Pass::start_in_clusters() {
  const DecoderWeights& w = w_.decoder;
  QueryStartArguments a;
  a.cells = b_.cells;
  a.rows = b_.chosen_rows;
  for (int i = 0; i < 3; ++i) a.box[i] = product_of(w.enc_box.layers[i]);
  a.chosen = b_.chosen;
  a.proposals = w.proposals;
  a.learned = w.reference_points;
  for (int i = 0; i < 2; ++i) a.position[i] = product_of(w.position[i]);
  a.content = w.content;
  a.next = product_of(w.layers[0].in_proj);
  a.references = b_.references;
  a.position_out = b_.position;
  a.x = b_.queries;
  a.qkv = b_.query_qkv;
  a.batch = batch_;
  a.queries = c_.queries;
  query_start(main_.next(), math_, a);
  trace("ref", {c_.queries, 4}, b_.references, PointType::kFloat);
}

void Pass::project_values(Lane& lane) {
  linear(lane, b_.memory, batch_ * total_, w_.decoder.values, b_.values);
}

void Pass::add_to_queries(const void* a, const Matrix& b, const Norm& norm) {
  GemmNormArguments g = product_norm(product(a, b.k, batch_ * c_.queries, b), kDecoderEps, norm);
  g.product.residual = b_.queries;
  g.product.ldr = c_.dim;
  g.out_float = b_.queries;
  g.ldo_float = c_.dim;
  g.out = b_.content;
  g.ldo = c_.dim;
  g.plus = b_.position;
  g.out_plus = b_.positioned;
  gemm_norm(main_.next(), math_, g);
}

void Pass::project_queries(const DecoderLayer& l) {
  GemmArguments g = product(b_.positioned, c_.dim, batch_ * c_.queries, l.in_proj);
  g.a2 = b_.content;  // values have no position
  g.split = 2 * c_.dim;
  g.out = b_.query_qkv;
  g.ldo = 3 * c_.dim;
  gemm(main_.next(), math_, g);
}
void Pass::attend_to_queries() {
  const int c = c_.dim;
  AttentionArguments a;
  a.q = b_.query_qkv;
  a.k = at(b_.query_qkv, c);
  a.v = at(b_.query_qkv, 2 * c);
  a.ldq = a.ldk = a.ldv = 3 * c;
  a.out = b_.attended;
  a.ldo = c;
  a.sequences = batch_;
  a.length = c_.queries;
  a.heads = c_.sa_heads;
  a.head_dim = c / c_.sa_heads;
  a.scale = kQueryScale;
  attention(main_.next(), math_, a);
}
SampleArguments Pass::samples_of(int layer) const {
  SampleArguments s;
  s.sampling = b_.sampling;
  s.references = b_.references;
  s.values = at(b_.values, int64_t{layer} * c_.dim);
  s.ldv = int64_t{c_.dec_layers} * c_.dim;
  s.out = b_.attended;
  s.batch = batch_;
  s.queries = c_.queries;
  s.heads = c_.ca_heads;
  s.points = c_.points;
  s.n = total_;
  s.levels = static_cast<int>(proposals_.levels.size());
  for (int level = 0; level < s.levels; ++level) {
    s.level_rows[level] = proposals_.levels[level].rows;
    s.level_cols[level] = proposals_.levels[level].cols;
  }
  return s;
}

void Pass::decode_in_clusters() {
  for (int i = 0; i < c_.dec_layers; ++i) {
    const DecoderLayer& l = w_.decoder.layers[i];
    QueryAttentionArguments a;
    a.qkv = b_.query_qkv;
    a.x = b_.queries;
    a.x_element = b_.content;
    a.position = b_.position;
    a.attended = product_of(l.out_proj);
    a.sampling = product_of(l.sampling);
    a.sampled = product_of(l.output_proj);
    a.norm1 = norm_of(l.norm1);
    a.norm2 = norm_of(l.norm2);
    a.scale = kQueryScale;
    a.eps = kDecoderEps;
    a.samples = samples_of(i);
    query_attention(main_.next(), math_, a);
    QueryForwardArguments f;
    f.x_element = b_.content;
    f.x = b_.queries;
    f.out_element = b_.content;
    f.position = b_.position;
    f.first = product_of(l.linear1);
    f.second = product_of(l.linear2);
    f.norm = norm_of(l.norm3);
    if (i + 1 < c_.dec_layers) f.next = product_of(w_.decoder.layers[i + 1].in_proj);
    f.qkv = b_.query_qkv;
    if (i + 1 == c_.dec_layers) {
      f.last = norm_of(w_.decoder.norm);
      f.hs = b_.hs;
      if (c_.seg) {
        f.then = norm_of(w_.segmentation.query_norm);
        f.hs_normed = b_.query_normed;
      }
    }
    f.rows = batch_ * c_.queries;
    f.eps = kDecoderEps;
    query_forward(main_.next(), math_, f);
    trace(fmt::format("decoder{}", i), {c_.queries, c_.dim}, b_.queries, PointType::kFloat);
  }
}

void Pass::decode_by_steps() {
  const int c = c_.dim, q = batch_ * c_.queries;
  for (int i = 0; i < c_.dec_layers; ++i) {
    const DecoderLayer& l = w_.decoder.layers[i];
    project_queries(l);
    attend_to_queries();
    add_to_queries(b_.attended, l.out_proj, l.norm1);

    linear(main_, b_.positioned, q, l.sampling, b_.sampling, Activation::kNone, true);
    sample_values(main_.next(), math_, samples_of(i));
    add_to_queries(b_.attended, l.output_proj, l.norm2);

    linear(main_, b_.content, q, l.linear1, b_.ffn, Activation::kRelu);
    add_to_queries(b_.ffn, l.linear2, l.norm3);
    trace(fmt::format("decoder{}", i), {c_.queries, c}, b_.queries, PointType::kFloat);
  }
}

void Pass::decode() {
  const int c = c_.dim, q = batch_ * c_.queries;
  if (in_clusters()) {
    decode_in_clusters();
    return trace("hs", {c_.queries, c}, b_.hs, PointType::kElement);
  }
  decode_by_steps();
  NormArguments n;
  n.x = b_.queries;
  n.ldx = c;
  n.m = q;
  n.n = c;
  n.gamma = w_.decoder.norm.gamma;
  n.beta = w_.decoder.norm.beta;
  n.eps = kDecoderEps;
  n.out = b_.hs;
  n.ldo = c;
  if (c_.seg) {
    n.then_gamma = w_.segmentation.query_norm.gamma;
    n.then_beta = w_.segmentation.query_norm.beta;
    n.then_eps = kDecoderEps;
    n.then_out = b_.query_normed;
  }
  norm_rows(main_.next(), math_, n);
  trace("hs", {c_.queries, c}, b_.hs, PointType::kElement);
}

void Pass::heads(Lane& lane) {
  const DecoderWeights& w = w_.decoder;
  const int q = batch_ * c_.queries;
  if (in_clusters() && c_.logits <= kMostHeadClasses) {
    QueryHeadsArguments a;
    a.hs = b_.hs;
    for (int i = 0; i < 3; ++i) a.box[i] = product_of(w.box.layers[i]);
    a.classes = product_of(w.classes);
    a.references = b_.references;
    a.boxes = b_.boxes;
    a.logits = b_.logits;
    a.rows = q;
    a.count = c_.logits;
    return query_heads(lane.next(), math_, a);
  }
  linear(lane, b_.hs, q, w.box.layers[0], b_.mlp[0], Activation::kRelu);
  linear(lane, b_.mlp[0], q, w.box.layers[1], b_.mlp[1], Activation::kRelu);
  linear(lane, b_.mlp[1], q, w.box.layers[2], b_.delta, Activation::kNone, true);
  linear(lane, b_.hs, q, w.classes, b_.logits, Activation::kNone, true);
  refine_boxes(lane.next(), {b_.delta, b_.references, b_.boxes, q});
}

}  // namespace rfseg::cuda
