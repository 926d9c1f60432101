#pragma once

#include "engine/cuda/network/network.h"

// One pass of the network: what the files of this folder share.

namespace rfseg::cuda {

constexpr float kEncoderEps = 1e-6f;  // encoder, projector, spatial blocks
constexpr float kDecoderEps = 1e-5f;  // two-stage selection, decoder, query block

/// The queue of a stream; the first kernel after an event or a copy has more than its predecessor
/// to wait for, so it is launched in the ordinary way. After join() it may start early in a
/// captured graph, once the event has come.
class Lane {
 public:
  Lane(cudaStream_t stream, const Lanes& lanes)
      : stream_(stream),
        overlap_(lanes.overlap),
        portable_(lanes.portable),
        few_rows_(lanes.few_rows) {}
  Queue next() {
    const Queue queue{stream_, overlap_ && !fresh_, portable_, few_rows_};
    fresh_ = false;
    return queue;
  }
  void record(cudaEvent_t event) { check(cudaEventRecord(event, stream_), "recording an event"); }
  void wait(cudaEvent_t event) {
    check(cudaStreamWaitEvent(stream_, event, 0), "waiting for an event");
    fresh_ = true;
  }
  /// wait(), where a kernel is what follows.
  void join(cudaEvent_t event);

 private:
  cudaStream_t stream_;
  bool overlap_, portable_, few_rows_;
  bool fresh_ = true;
};

/// Enqueues the kernels of a pass, in the order of run().
class Pass : private Steps {
 public:
  Pass(const ModelConfig& config, const Proposals& proposals, const Weights& weights,
       const Buffers& buffers, Math math, int batch, bool forced, const Lanes& lanes,
       const Probe& probe)
      : Steps(lanes.observer),
        c_(config),
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
        total_(static_cast<int>(proposals.count)),
        scratch_size_(scratch_size(config, proposals, math, batch)) {}

  void run();

 private:
  int64_t width() const { return element_bytes(math_); }
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
  /// gemm_norm() of that product and `norm`, or none of its affine; what is left: where it goes.
  GemmNormArguments product_norm(const GemmArguments& of, float eps, const Norm& norm = {}) const {
    GemmNormArguments g;
    g.product = of;
    g.gamma = norm.gamma;
    g.beta = norm.beta;
    g.eps = eps;
    g.scratch = b_.scratch;
    g.scratch_size = scratch_size_;
    return g;
  }
  /// The same of a product that is added to the residual stream: x = `of`, rows = LayerNorm(x).
  GemmNormArguments stream_norm(const GemmArguments& of) const {
    GemmNormArguments g = product_norm(of, kEncoderEps);
    g.sum = b_.x;
    g.ld_sum = c_.enc_dim;
    g.out = b_.rows;
    g.ldo = c_.enc_dim;
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

  // encoder.cpp
  void encode();
  void encoder_block(int i);
  /// Every kernel begins at the end where the one before it ended, whose last rows may still be in
  /// the cache: 50 of the 66 MB that one writes for 32 pictures.
  bool other_end() { return from_end_ = !from_end_; }
  /// Whether LayerNorm of the residual stream is part of the product with `b` that adds to it.
  bool norms_sums(const Matrix& b) const;
  /// The tokens before the first block; with norms_sums(), of one picture, normalised too.
  void embed_patches();
  /// The product of the normalised residual stream.
  void normed_linear(const Matrix& b, void* out, Activation activation);
  /// x += scale * (a B^T + bias); with norms_sums() also rows = LayerNorm(x). `kept`: what follows
  /// reads x itself, not only its halves and their rest.
  void add_to_stream(const void* a, const Matrix& b, const float* scale, bool kept);

  // projector.cpp
  /// Writes the level's rows of `memory`; returns its cells.
  int project(int level, int first);
  /// [B * cells, taps * width], resampled where the level is not the grid's.
  const void* level_input(int level);
  /// A convolution of `source`, LayerNorm over channels, activation; [map of level cells] to `out`.
  void conv_norm(const ConvNorm& w, const GemmArguments& source, Activation activation, void* out,
                 int64_t ldo, float* out_float = nullptr);
  GemmArguments conv3x3(const void* map, int64_t lda, const MapSize& in, const MapSize& out,
                        int stride, int channels, const Matrix& b) const;

  // decoder.cpp
  void select_queries();
  void project_values(Lane& lane);
  void decode();
  /// Whether the kernels of query_layer.h do it.
  bool in_clusters() const;
  void start_in_clusters();
  void decode_in_clusters();
  void decode_by_steps();
  void heads(Lane& lane);
  /// queries = LayerNorm(queries + a B^T + bias), with its two Element forms.
  void add_to_queries(const void* a, const Matrix& b, const Norm& norm);
  void project_queries(const DecoderLayer& layer);
  void attend_to_queries();
  SampleArguments samples_of(int layer) const;

  // masks.cpp
  void make_spatial(Lane& lane);
  /// What each query wants of the features of a mask's pixel.
  void describe_masks();
  void predict_masks();

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
  bool hands_on_ = false;     ///< LayerNorm of the encoder is the next product's
  bool handed_on_ = false;    ///< b_.stream and b_.shares are those of the residual stream
  bool in_pairs_ = false;     ///< which is b_.stream and b_.rest, not b_.x
  bool normed_ = false;       ///< b_.rows hold the LayerNorm of b_.x
  bool from_end_ = false;     ///< the direction of the encoder's last kernel
  void* tap_ = nullptr;       ///< where this block's end leaves a tap; null: nowhere
  int total_;                 ///< N
  int64_t scratch_size_;      ///< of b_.scratch, in this batch
  void* features_ = nullptr;  ///< of the masks' pixels: one of the two buffers
};

}  // namespace rfseg::cuda
