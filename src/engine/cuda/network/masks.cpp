#include <utility>

#include "engine/cuda/network/pass.h"

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
  features_ = b_.spatial;
  void* other = b_.depthwise;
  for (const SegmentationBlock& block : w_.segmentation.blocks) {
    if (takes_mask_block({nullptr, false, lanes_.portable}, math_, c)) {
      MaskBlockArguments m;
      m.map = features_;
      m.out = other;
      m.depthwise = block.depthwise;
      m.depthwise_bias = block.depthwise_bias;
      m.eps = kEncoderEps;
      m.weight = block.pointwise.data;
      m.bias = block.pointwise.bias;
      m.row_sums = block.pointwise.row_sums;
      m.batch = batch_;
      m.rows = rows;
      m.cols = cols;
      m.channels = c;
      // A block takes a multiprocessor's whole memory: started early, the next kernel's would keep
      // those that this one leaves to the other stream.
      Queue queue = lane.next();
      queue.overlap = false;
      mask_block(queue, math_, m);
      std::swap(features_, other);
      continue;
    }
    DepthwiseArguments d;
    d.map = features_;
    d.weight = block.depthwise;
    d.bias = block.depthwise_bias;
    d.eps = kEncoderEps;
    d.out = other;
    d.batch = batch_;
    d.rows = rows;
    d.cols = cols;
    d.channels = c;
    depthwise_norm(lane.next(), math_, d);
    GemmArguments g = product(other, c, batch_ * rows * cols, block.pointwise);
    g.activation = Activation::kGelu;
    g.residual = features_;
    g.residual_float = false;
    g.ldr = c;
    g.out = features_;
    g.ldo = c;
    gemm(lane.next(), math_, g);
  }
}

void Pass::describe_masks() {
  const SegmentationWeights& w = w_.segmentation;
  const int c = c_.dim, q = batch_ * c_.queries;
  if (in_clusters() && w.query_tail.data != nullptr) {
    QueryMasksArguments a;
    a.normed = b_.query_normed;
    a.hs = b_.hs;
    a.first = {w.query1.data, w.query1.bias};
    a.second = {w.query_tail.data, w.query_tail.bias};
    a.out = b_.query_mask;
    a.constants = b_.query_constant;
    a.rows = q;
    return query_masks(main_.next(), math_, a);
  }
  linear(main_, b_.query_normed, q, w.query1, b_.query_hidden, Activation::kGelu);
  GemmArguments g = product(b_.query_hidden, w.query2.k, q, w.query2);
  g.residual = b_.hs;
  g.residual_float = false;
  g.ldr = c;
  g.out = b_.attended;  // free after the decoder; the boxes may be at mlp
  g.ldo = c;
  gemm(main_.next(), math_, g);
  linear(main_, b_.attended, q, w.query_mask, b_.query_mask);
  linear(main_, b_.attended, q, w.query_constant, b_.query_constant, Activation::kNone, true);
}

void Pass::predict_masks() {
  const int c = c_.dim, pixels = c_.mask_rows() * c_.mask_cols();
  GemmArguments m;
  m.a = b_.query_mask;
  m.lda = c;
  m.a_step = int64_t{c_.queries} * c;
  m.b = features_;
  m.ldb = c;
  // Made by another stream, for which this one has waited.
  m.b_fixed = in_clusters() && lanes_.side != lanes_.main;
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
