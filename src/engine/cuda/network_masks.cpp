#include "engine/cuda/pass.h"

// Segmentation head: models/segmentation_head.py of roboflow/rf-detr 1.4.1.

namespace rfseg::cuda {

void Pass::make_spatial(Lane& lane) {
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

void Pass::describe_masks() {
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

void Pass::predict_masks() {
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

}  // namespace rfseg::cuda
