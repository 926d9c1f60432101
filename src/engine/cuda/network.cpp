#include "engine/cuda/network.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/cuda/decoder_kernel.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

constexpr float kEncoderEps = 1e-6f;  // encoder, projector, spatial blocks
constexpr float kDecoderEps = 1e-5f;  // two-stage selection, decoder, query block

/// The queue of a stream; the first kernel after an event or a copy has more than its predecessor
/// to wait for, so it is launched in the ordinary way.
class Lane {
 public:
  Lane(cudaStream_t stream, const Lanes& lanes)
      : stream_(stream), overlap_(lanes.overlap), portable_(lanes.portable) {}
  Queue next() {
    const Queue queue{stream_, overlap_ && !fresh_, portable_};
    fresh_ = false;
    return queue;
  }
  void record(cudaEvent_t event) { check(cudaEventRecord(event, stream_), "recording an event"); }
  void wait(cudaEvent_t event) {
    check(cudaStreamWaitEvent(stream_, event, 0), "waiting for an event");
    fresh_ = true;
  }

 private:
  cudaStream_t stream_;
  bool overlap_, portable_;
  bool fresh_ = true;
};

class Pass {
 public:
  Pass(const ModelConfig& config, const Proposals& proposals, const Weights& weights,
       const Buffers& buffers, Math math, int batch, bool forced, const Lanes& lanes,
       const Probe& probe)
      : c_(config),
        proposals_(proposals),
        w_(weights),
        b_(buffers),
        math_(math),
        batch_(batch),
        forced_(forced),
        lanes_(lanes),
        probe_(probe),
        main_(lanes.main, lanes),
        side_(lanes.side, lanes),
        layout_{config.windows, config.grid_rows() / config.windows,
                config.grid_cols() / config.windows},
        total_(static_cast<int>(proposals.count)) {}

  void run() {
    encode();
    int first = 0;
    for (std::size_t i = 0; i < c_.levels.size(); ++i) first += project(static_cast<int>(i), first);
    const bool split = lanes_.side != lanes_.main;
    if (split) {
      main_.record(lanes_.fork);
      side_.wait(lanes_.fork);
    }
    Lane& aside = split ? side_ : main_;
    project_values(aside);
    if (split) aside.record(lanes_.values);
    if (c_.seg) make_spatial(aside);
    if (split) aside.record(lanes_.spatial);

    select_queries();
    if (split) main_.wait(lanes_.values);
    if (fused()) {
      decode_fused();
    } else {
      decode();
      heads();
      if (c_.seg) describe_masks();
    }
    if (split) main_.wait(lanes_.spatial);  // also where there are no masks: the streams must join
    if (c_.seg) predict_masks();
  }

 private:
  int64_t width() const { return element_bytes(math_); }
  bool fused() const { return lanes_.fused_decoder && w_.decoder.start_stream != nullptr; }
  /// Element `index` of `p`.
  void* at(void* p, int64_t index) const { return static_cast<std::byte*>(p) + index * width(); }
  const void* at(const void* p, int64_t index) const {
    return static_cast<const std::byte*>(p) + index * width();
  }

  void trace(const std::string& name, const Shape& shape, const void* data, PointType type,
             int64_t pitch = 0) const {
    if (probe_) probe_(name, shape, data, type, pitch > 0 ? pitch : element_count(shape));
  }

  /// A product of `m` rows `a`, `lda` apart, with a weight matrix.
  static GemmArguments product(const void* a, int64_t lda, int m, const Matrix& b) {
    GemmArguments g;
    g.a = a;
    g.lda = lda;
    g.b = b.data;
    g.ldb = b.k;
    g.b_fixed = true;
    g.m = m;
    g.n = b.n;
    g.k = b.k;
    g.bias = b.bias;
    return g;
  }
  /// `out` dense, as Element.
  void linear(Lane& lane, const void* a, int m, const Matrix& b, void* out,
              Activation activation = Activation::kNone, bool out_float = false) const {
    GemmArguments g = product(a, b.k, m, b);
    g.activation = activation;
    g.out = out;
    g.out_float = out_float;
    g.ldo = b.n;
    gemm(lane.next(), math_, g);
  }

  // ---- Encoder: dinov2_with_windowed_attn.py of roboflow/rf-detr 1.4.1.

  void encode() {
    const int d = c_.enc_dim, cells = layout_.cells();
    const Matrix& patch = w_.encoder.patch;
    EmbedArguments e;
    e.pictures = b_.pictures;
    e.start = w_.encoder.start;
    e.patches = b_.patches;
    e.x = b_.x;
    e.layout = layout_;
    e.batch = batch_;
    e.patch = c_.patch;
    e.ld = patch.k;
    e.width = d;
    embed(main_.next(), math_, e);

    GemmArguments g = product(b_.patches, patch.k, batch_ * cells, patch);
    g.residual = b_.x;
    g.ldr = d;
    g.out = b_.x;
    g.out_float = true;
    g.ldo = d;
    // Every window's cells come after its CLS token.
    g.out_group = layout_.window_tokens() - 1;
    g.out_skip = 1;
    g.out_first = 1;
    gemm(main_.next(), math_, g);
    const Shape shape{layout_.windows * layout_.windows, layout_.window_tokens(), d};
    trace("embed", shape, b_.x, PointType::kFloat);

    int tap = 0;
    for (int i = 0; i < c_.enc_layers; ++i) {
      encoder_block(i);
      trace(fmt::format("block{}", i), shape, b_.x, PointType::kFloat);
      if (!attends_in_full(c_, i + 1)) continue;  // a tap is the state after that many blocks
      NormArguments n;
      n.x = b_.x;
      n.ldx = d;
      n.m = batch_ * cells;
      n.n = d;
      n.gamma = w_.encoder.norm.gamma;
      n.beta = w_.encoder.norm.beta;
      n.eps = kEncoderEps;
      n.cells = layout_;
      n.ldo = static_cast<int64_t>(c_.taps.size()) * d;
      n.out = at(b_.taps, int64_t{tap} * d);
      norm_rows(main_.next(), math_, n);
      if (probe_) {
        n.out = b_.rows;  // free between blocks
        n.ldo = d;
        norm_rows(main_.next(), math_, n);
        trace(fmt::format("tap{}", tap), {c_.grid_rows(), c_.grid_cols(), d}, b_.rows,
              PointType::kElement);
      }
      ++tap;
    }
  }

  /// The product of the normalised residual stream.
  void normed_linear(const Matrix& b, void* out, Activation activation) {
    const int m = batch_ * layout_.tokens(), d = c_.enc_dim;
    GemmArguments g = product(b_.x, d, m, b);
    g.source = RowSource::kNormed;
    g.eps = kEncoderEps;
    if (!gemm_prefers_normed({nullptr, false, lanes_.portable}, math_, m, b.n, d)) {
      NormArguments n;
      n.x = b_.x;
      n.ldx = d;
      n.m = m;
      n.n = d;
      n.eps = kEncoderEps;
      n.out = b_.rows;
      n.ldo = d;
      norm_rows(main_.next(), math_, n);
      g.source = RowSource::kRows;
      g.a = b_.rows;
    }
    g.activation = activation;
    g.out = out;
    g.ldo = b.n;
    gemm(main_.next(), math_, g);
  }

  /// x += scale * (a B^T + bias)
  void add_to_stream(const void* a, const Matrix& b, const float* scale) {
    GemmArguments g = product(a, b.k, batch_ * layout_.tokens(), b);
    g.scale = scale;
    g.residual = b_.x;
    g.ldr = c_.enc_dim;
    g.out = b_.x;
    g.out_float = true;
    g.ldo = c_.enc_dim;
    gemm(main_.next(), math_, g);
  }

  void encoder_block(int i) {
    const EncoderBlock& block = w_.encoder.blocks[i];
    const int d = c_.enc_dim, windows = layout_.windows * layout_.windows;
    normed_linear(block.qkv, b_.wide, Activation::kNone);
    AttentionArguments a;
    a.q = b_.wide;
    a.k = at(b_.wide, d);
    a.v = at(b_.wide, 2 * d);
    a.ldq = a.ldk = a.ldv = 3 * d;
    a.out = b_.rows;
    a.ldo = d;
    // In full attention the windows of a picture form one sequence, all their CLS tokens included.
    const bool full = attends_in_full(c_, i);
    a.sequences = full ? batch_ : batch_ * windows;
    a.length = full ? layout_.tokens() : layout_.window_tokens();
    a.heads = c_.enc_heads;
    a.head_dim = d / c_.enc_heads;
    a.scale = 0.125f;  // 1 / sqrt(64)
    attention(main_.next(), math_, a);
    add_to_stream(b_.rows, block.proj, block.scale1);
    normed_linear(block.fc1, b_.wide, Activation::kGelu);
    add_to_stream(b_.wide, block.fc2, block.scale2);
  }

  // ---- Projector: models/backbone/projector.py of roboflow/rf-detr 1.4.1.

  /// A convolution of `side`, LayerNorm over channels, activation; [map of level cells] to `out`.
  void conv_norm(const ConvNorm& w, const GemmArguments& source, Activation activation, void* out,
                 int64_t ldo, float* out_float = nullptr) {
    GemmNormArguments g;
    g.product = source;
    g.gamma = w.norm.gamma;
    g.beta = w.norm.beta;
    g.eps = kEncoderEps;
    g.activation = activation;
    g.out = out;
    g.ldo = ldo;
    g.out_float = out_float;
    g.ldo_float = w.conv.n;
    g.scratch = b_.scratch;
    g.scratch_size = b_.scratch_size;
    gemm_norm(main_.next(), math_, g);
  }
  GemmArguments conv3x3(const void* map, int64_t lda, const MapSize& in, const MapSize& out,
                        int stride, int channels, const Matrix& b) const {
    GemmArguments g = product(map, lda, batch_ * static_cast<int>(out.cells()), b);
    g.source = RowSource::kConv3x3;
    g.map_rows = in.rows;
    g.map_cols = in.cols;
    g.out_rows = out.rows;
    g.out_cols = out.cols;
    g.stride = stride;
    g.channels = channels;
    return g;
  }

  /// Writes the level's rows of `memory`; returns its cells.
  int project(int level, int first) {
    const LevelWeights& w = w_.levels[level];
    const MapSize size = proposals_.levels[level];
    const int c = c_.dim, half = c / 2, cells = static_cast<int>(size.cells());
    const int m = batch_ * cells;
    const int64_t ld = 5 * half;
    const void* in = level_input(level);
    conv_norm(w.cv1, product(in, w.cv1.conv.k, m, w.cv1.conv), Activation::kSilu, b_.parts, ld);
    for (int i = 0; i < 3; ++i) {
      const ConvNorm &one = w.middle[2 * i], &two = w.middle[2 * i + 1];
      conv_norm(one,
                conv3x3(at(b_.parts, int64_t{1 + i} * half), ld, size, size, 1, half, one.conv),
                Activation::kSilu, b_.middle, half);
      conv_norm(two, conv3x3(b_.middle, half, size, size, 1, half, two.conv), Activation::kSilu,
                at(b_.parts, int64_t{2 + i} * half), ld);
    }
    conv_norm(w.cv2, product(b_.parts, ld, m, w.cv2.conv), Activation::kSilu, nullptr, 0,
              b_.projected);
    NormArguments n;
    n.x = b_.projected;
    n.ldx = c;
    n.m = m;
    n.n = c;
    n.gamma = w.norm.gamma;
    n.beta = w.norm.beta;
    n.eps = kEncoderEps;
    n.out = b_.memory;
    n.ldo = c;
    n.out_group = cells;
    n.out_skip = total_ - cells;
    n.out_first = first;
    norm_rows(main_.next(), math_, n);
    if (probe_) {
      n.out = b_.parts;
      n.out_group = n.out_first = 0;
      norm_rows(main_.next(), math_, n);
      trace(fmt::format("memory{}", level), {size.rows, size.cols, c}, b_.parts,
            PointType::kElement);
    }
    return cells;
  }

  /// [B * cells, taps * width], resampled where the level is not the grid's.
  const void* level_input(int level) {
    if (c_.levels[level] == Level::kP4) return b_.taps;
    const LevelWeights& w = w_.levels[level];
    const MapSize grid{c_.grid_rows(), c_.grid_cols()}, size = proposals_.levels[level];
    const int d = c_.enc_dim, taps = static_cast<int>(c_.taps.size());
    const int64_t ld = int64_t{taps} * d;
    for (int tap = 0; tap < taps; ++tap) {
      if (c_.levels[level] == Level::kP3) {
        GemmArguments g = product(at(b_.taps, int64_t{tap} * d), ld,
                                  batch_ * static_cast<int>(grid.cells()), w.upsample[tap]);
        g.out = b_.spread;
        g.ldo = 2 * d;
        gemm(main_.next(), math_, g);
        SpreadArguments s;
        s.x = b_.spread;
        s.out = at(b_.level_in, int64_t{tap} * (d / 2));
        s.ldo = ld / 2;
        s.batch = batch_;
        s.rows = grid.rows;
        s.cols = grid.cols;
        s.channels = d / 2;
        spread_2x2(main_.next(), math_, s);
      } else {
        const ConvNorm& conv = w.downsample[tap];
        conv_norm(conv, conv3x3(at(b_.taps, int64_t{tap} * d), ld, grid, size, 2, d, conv.conv),
                  Activation::kRelu, at(b_.level_in, int64_t{tap} * d), ld);
      }
    }
    return b_.level_in;
  }

  // ---- Two-stage selection and decoder: models/transformer.py of roboflow/rf-detr 1.4.1.

  void select_queries() {
    const DecoderWeights& w = w_.decoder;
    const int c = c_.dim, m = batch_ * total_, q = batch_ * c_.queries;
    const void* memory = b_.memory;
    if (w.valid != nullptr) {
      mask_rows(main_.next(), math_, {b_.memory, w.valid, b_.masked, batch_, total_, c});
      memory = b_.masked;
    }
    GemmNormArguments g;
    g.product = product(memory, c, m, w.enc_output);
    g.gamma = w.enc_norm.gamma;
    g.beta = w.enc_norm.beta;
    g.eps = kDecoderEps;
    g.out = b_.cells;
    g.ldo = c;
    g.scratch = b_.scratch;
    g.scratch_size = b_.scratch_size;
    gemm_norm(main_.next(), math_, g);
    linear(main_, b_.cells, m, w.enc_class, b_.cell_logits, Activation::kNone, true);
    class_max(main_.next(), {b_.cell_logits, b_.scores, m, c_.logits});
    trace("enc_score", {total_}, b_.scores, PointType::kFloat);
    select_cells(main_.next(), {b_.scores, forced_ ? b_.forced : nullptr, b_.chosen, b_.chosen_rows,
                                batch_, total_, c_.queries});
    trace("topk", {std::min(c_.queries, total_)}, b_.chosen, PointType::kInt32, c_.queries);

    if (fused()) {
      start_fused();
      trace("ref", {c_.queries, 4}, b_.references, PointType::kFloat);
      return;
    }
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

  void project_values(Lane& lane) {
    linear(lane, b_.memory, batch_ * total_, w_.decoder.values, b_.values);
  }

  /// queries = LayerNorm(queries + a B^T + bias), with its two Element forms.
  void add_to_queries(const void* a, const Matrix& b, const Norm& norm) {
    GemmNormArguments g;
    g.product = product(a, b.k, batch_ * c_.queries, b);
    g.product.residual = b_.queries;
    g.product.ldr = c_.dim;
    g.gamma = norm.gamma;
    g.beta = norm.beta;
    g.eps = kDecoderEps;
    g.out_float = b_.queries;
    g.ldo_float = c_.dim;
    g.out = b_.content;
    g.ldo = c_.dim;
    g.plus = b_.position;
    g.out_plus = b_.positioned;
    g.scratch = b_.scratch;
    g.scratch_size = b_.scratch_size;
    gemm_norm(main_.next(), math_, g);
  }

  void project_queries(const DecoderLayer& l) {
    GemmArguments g = product(b_.positioned, c_.dim, batch_ * c_.queries, l.in_proj);
    g.a2 = b_.content;  // values have no position
    g.split = 2 * c_.dim;
    g.out = b_.query_qkv;
    g.ldo = 3 * c_.dim;
    gemm(main_.next(), math_, g);
  }
  void attend_to_queries() {
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
    a.scale = 0.17677669529663687f;  // 1 / sqrt(32)
    attention(main_.next(), math_, a);
  }
  SampleArguments samples_of(int layer) const {
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

  /// Where a plan's stores go, in its order.
  struct Place {
    void* out;
    int64_t ld;
  };
  static void store_to(DecoderPlan& plan, const std::vector<Place>& places) {
    std::size_t stored = 0;
    for (int i = 0; i < plan.count; ++i) {
      DecoderStep& s = plan.step[i];
      if (s.then != DecoderStep::Then::kStore && s.then != DecoderStep::Then::kStoreFloat) continue;
      s.out = places.at(stored).out;
      s.ldo = places.at(stored++).ld;
    }
  }

  /// From the chosen cells to the first layer's queries, keys and values.
  void start_fused() {
    const DecoderWeights& w = w_.decoder;
    DecoderArguments a;
    a.plan = plan_decoder_start(c_, w).plan;
    store_to(a.plan, {{b_.query_qkv, 3 * c_.dim}, {at(b_.query_qkv, 2 * c_.dim), 3 * c_.dim}});
    a.stream = w.start_stream;
    a.constants = w.start_constants;
    a.queries = b_.queries;
    a.rows = batch_ * c_.queries;
    a.dim = c_.dim;
    a.start = {b_.cells,  b_.chosen,  b_.chosen_rows, w.proposals, w.reference_points,
               w.content, c_.queries, b_.references,  b_.position};
    decoder_start(main_.next(), a);
  }

  /// The decoder, the heads and what describe_masks() does.
  void decode_fused() {
    for (int i = 0; i < c_.dec_layers; ++i) {
      const DecoderLayer& l = w_.decoder.layers[i];
      attend_to_queries();
      DecoderArguments a;
      a.plan = plan_decoder_layer(c_, w_.decoder, w_.segmentation, i).plan;
      if (i + 1 < c_.dec_layers) {
        store_to(a.plan, {{b_.query_qkv, 3 * c_.dim}, {at(b_.query_qkv, 2 * c_.dim), 3 * c_.dim}});
      } else if (c_.seg) {
        store_to(a.plan, {{b_.query_mask, c_.dim}, {b_.query_constant, 1}, {b_.logits, c_.logits}});
      } else {
        store_to(a.plan, {{b_.logits, c_.logits}});
      }
      a.stream = l.stream;
      a.constants = l.constants;
      a.attended = b_.attended;
      a.queries = b_.queries;
      a.position = b_.position;
      a.sample = samples_of(i);
      a.hs = b_.hs;
      a.boxes = b_.boxes;
      a.rows = batch_ * c_.queries;
      a.dim = c_.dim;
      a.eps = kDecoderEps;
      decoder_layer(main_.next(), a);
      trace(fmt::format("decoder{}", i), {c_.queries, c_.dim}, b_.queries, PointType::kFloat);
    }
    trace("hs", {c_.queries, c_.dim}, b_.hs, PointType::kElement);
  }

  void decode() {
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

  void heads() {
    const DecoderWeights& w = w_.decoder;
    const int q = batch_ * c_.queries;
    linear(main_, b_.hs, q, w.classes, b_.logits, Activation::kNone, true);
    linear(main_, b_.hs, q, w.box.layers[0], b_.mlp[0], Activation::kRelu);
    linear(main_, b_.mlp[0], q, w.box.layers[1], b_.mlp[1], Activation::kRelu);
    linear(main_, b_.mlp[1], q, w.box.layers[2], b_.delta, Activation::kNone, true);
    refine_boxes(main_.next(), {b_.delta, b_.references, b_.boxes, q});
  }

  // ---- Segmentation head: models/segmentation_head.py of roboflow/rf-detr 1.4.1.

  void make_spatial(Lane& lane) {
    const MapSize in = proposals_.levels[0];
    const int c = c_.dim, rows = c_.mask_rows(), cols = c_.mask_cols();
    ResizeArguments r;
    r.map = b_.memory;
    r.picture_rows = total_;
    r.rows = in.rows;
    r.cols = in.cols;
    r.out = b_.spatial;
    r.out_rows = rows;
    r.out_cols = cols;
    r.batch = batch_;
    r.channels = c;
    resize_map(lane.next(), math_, r);
    for (const SegmentationBlock& block : w_.segmentation.blocks) {
      DepthwiseArguments d;
      d.map = b_.spatial;
      d.weight = block.depthwise;
      d.bias = block.depthwise_bias;
      d.gamma = block.norm.gamma;
      d.beta = block.norm.beta;
      d.eps = kEncoderEps;
      d.out = b_.depthwise;
      d.batch = batch_;
      d.rows = rows;
      d.cols = cols;
      d.channels = c;
      depthwise_norm(lane.next(), math_, d);
      GemmArguments g = product(b_.depthwise, c, batch_ * rows * cols, block.pointwise);
      g.activation = Activation::kGelu;
      g.residual = b_.spatial;
      g.residual_float = false;
      g.ldr = c;
      g.out = b_.spatial;
      g.ldo = c;
      gemm(lane.next(), math_, g);
    }
  }

  /// What each query wants of the features of a mask's pixel.
  void describe_masks() {
    const SegmentationWeights& w = w_.segmentation;
    const int c = c_.dim, q = batch_ * c_.queries;
    linear(main_, b_.query_normed, q, w.query1, b_.query_hidden, Activation::kGelu);
    GemmArguments g = product(b_.query_hidden, w.query2.k, q, w.query2);
    g.residual = b_.hs;
    g.residual_float = false;
    g.ldr = c;
    g.out = b_.mlp[0];
    g.ldo = c;
    gemm(main_.next(), math_, g);
    linear(main_, b_.mlp[0], q, w.query_mask, b_.query_mask);
    linear(main_, b_.mlp[0], q, w.query_constant, b_.query_constant, Activation::kNone, true);
  }

  void predict_masks() {
    const int c = c_.dim, pixels = c_.mask_rows() * c_.mask_cols();
    GemmArguments m;
    m.a = b_.query_mask;
    m.lda = c;
    m.a_step = int64_t{c_.queries} * c;
    m.b = b_.spatial;
    m.ldb = c;
    m.b_step = int64_t{pixels} * c;
    m.m = c_.queries;
    m.n = pixels;
    m.k = c;
    m.batch = batch_;
    m.row_bias = b_.query_constant;
    m.row_bias_step = c_.queries;
    m.out = b_.masks;
    m.ldo = pixels;
    m.out_step = int64_t{c_.queries} * pixels;
    gemm(main_.next(), math_, m);
  }

  const ModelConfig& c_;
  const Proposals& proposals_;
  const Weights& w_;
  const Buffers& b_;
  Math math_;
  int batch_;
  bool forced_;
  const Lanes& lanes_;
  const Probe& probe_;
  Lane main_, side_;
  TokenLayout layout_;
  int total_;  ///< N
};

}  // namespace

std::size_t carve(Buffers& b, const ModelConfig& c, const Proposals& proposals, Math math,
                  int batch, std::byte* base) {
  constexpr std::size_t kAlignment = 256;
  std::size_t size = 0;
  const auto take = [&](auto*& p, int64_t count, int bytes) {
    p = base == nullptr ? nullptr
                        : reinterpret_cast<std::remove_reference_t<decltype(p)>>(base + size);
    size += (static_cast<std::size_t>(count) * static_cast<std::size_t>(bytes) + kAlignment - 1) /
            kAlignment * kAlignment;
  };
  const int e = element_bytes(math);
  const int64_t n = batch, d = c.enc_dim, dim = c.dim, cells = proposals.count;
  const int64_t grid = int64_t{c.grid_rows()} * c.grid_cols();
  const int64_t tokens = grid + c.windows * c.windows, q = n * c.queries;
  const int64_t taps = static_cast<int64_t>(c.taps.size());
  take(b.pictures, n * 3 * c.height * c.width, 4);
  take(b.forced, q, 4);
  take(b.patches, n * grid * ((3 * c.patch * c.patch + 7) / 8 * 8), e);
  take(b.x, n * tokens * d, 4);
  take(b.rows, n * tokens * d, e);
  take(b.wide, n * tokens * 4 * d, e);
  take(b.taps, n * grid * taps * d, e);

  int64_t largest = 0, level_in = 0, spread = 0, scratch = std::max(n * cells, q) * dim;
  // A few rows may share a long product among up to 8 blocks.
  scratch = std::max(scratch, std::min(8 * q, int64_t{4096}) * dim);
  for (std::size_t i = 0; i < c.levels.size(); ++i) {
    const int64_t level = proposals.levels[i].cells();
    largest = std::max(largest, level);
    scratch = std::max(scratch, n * level * dim);
    if (c.levels[i] == Level::kP3) {
      level_in = std::max(level_in, n * level * taps * d / 2);
      spread = n * grid * 2 * d;
    }
    if (c.levels[i] == Level::kP5) {
      level_in = std::max(level_in, n * level * taps * d);
      scratch = std::max(scratch, n * level * d);
    }
  }
  take(b.level_in, level_in, e);
  take(b.spread, spread, e);
  take(b.parts, n * largest * 5 * dim / 2, e);
  take(b.middle, n * largest * dim / 2, e);
  take(b.projected, n * largest * dim, 4);
  take(b.scratch, scratch, 4);
  b.scratch_size = scratch;
  take(b.memory, n * cells * dim, e);
  b.masked = b.memory;
  if (!proposals.all_valid) take(b.masked, n * cells * dim, e);
  take(b.cells, n * cells * dim, e);
  take(b.cell_logits, n * cells * c.logits, 4);
  take(b.scores, n * cells, 4);
  take(b.chosen, q, 4);
  take(b.chosen_rows, q, 4);
  for (void*& mlp : b.mlp) take(mlp, q * dim, e);
  take(b.delta, q * 4, 4);
  take(b.references, q * 4, 4);
  take(b.sine, q * 2 * dim, e);
  take(b.position, q * dim, 4);
  take(b.queries, q * dim, 4);
  take(b.content, q * dim, e);
  take(b.positioned, q * dim, e);
  take(b.query_qkv, q * 3 * dim, e);
  take(b.attended, q * dim, e);
  take(b.sampling, q * 3 * c.ca_heads * static_cast<int64_t>(c.levels.size()) * c.points, 4);
  take(b.ffn, q * c.ffn_dim, e);
  take(b.values, n * cells * c.dec_layers * dim, e);
  take(b.hs, q * dim, e);
  if (c.seg) {
    const int64_t pixels = int64_t{c.mask_rows()} * c.mask_cols();
    take(b.spatial, n * pixels * dim, e);
    take(b.depthwise, n * pixels * dim, e);
    take(b.query_normed, q * dim, e);
    take(b.query_hidden, q * 4 * dim, e);
    take(b.query_mask, q * dim, e);
    take(b.query_constant, q, 4);
    take(b.masks, q * pixels, e);
  }
  take(b.boxes, q * 4, 4);
  take(b.logits, q * c.logits, 4);
  return size;
}

void check_supported(const ModelConfig& c) {
  const auto need = [](const char* what, bool holds, int value) {
    if (holds) return;
    throw Error(ErrorCode::kModel,
                fmt::format("the cuda backend needs {}, this model has {}; --device cpu with "
                            "--backend reference takes any",
                            what, value));
  };
  need("an encoder head width of 64", c.enc_dim == 64 * c.enc_heads, c.enc_dim / c.enc_heads);
  need("an encoder width up to 1024", c.enc_dim <= 1024, c.enc_dim);
  need("a decoder width that is a multiple of 32, up to 512", c.dim % 32 == 0 && c.dim <= 512,
       c.dim);
  need("a decoder self-attention head width of 32", c.dim == 32 * c.sa_heads, c.dim / c.sa_heads);
  need("a cross-attention head width of 16", c.dim == 16 * c.ca_heads, c.dim / c.ca_heads);
  need("a feed-forward width that is a multiple of 8", c.ffn_dim % 8 == 0, c.ffn_dim);
  need("at most 3 projector levels", c.levels.size() <= kMaxLevels,
       static_cast<int>(c.levels.size()));
}

void run_network(const ModelConfig& config, const Proposals& proposals, const Weights& weights,
                 const Buffers& buffers, Math math, int batch, bool forced, const Lanes& lanes,
                 const Probe& probe) {
  Pass(config, proposals, weights, buffers, math, batch, forced, lanes, probe).run();
}

}  // namespace rfseg::cuda
