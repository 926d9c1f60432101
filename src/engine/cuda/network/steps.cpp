#include "engine/cuda/network/steps.h"

#include <fmt/format.h>

namespace rfseg::cuda {
namespace {

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return "";
    case Activation::kRelu:
      return " + ReLU";
    case Activation::kGelu:
      return " + GELU";
    case Activation::kSilu:
      return " + SiLU";
  }
  return "";
}

/// A step that moves `bytes` and has no products.
StepCost moving(const char* kind, std::string shape, double bytes) {
  StepCost cost;
  cost.kind = kind;
  cost.shape = std::move(shape);
  cost.bytes = bytes;
  return cost;
}

/// The product itself, its weights and its rows; not where its results go.
StepCost product_cost(Math math, const GemmArguments& a) {
  const double element = element_bytes(math);
  StepCost cost;
  cost.kind = a.source == RowSource::kConv3x3 ? "convolution 3x3" : "product";
  cost.m = a.m;
  cost.n = a.n;
  cost.k = a.k;
  cost.batch = a.batch;
  cost.shape = fmt::format("{}x{}x{}", a.m, a.n, a.k);
  if (a.batch > 1) cost.shape += fmt::format(" x {}", a.batch);
  cost.flops = 2.0 * a.m * a.n * a.k * a.batch;
  double rows = double{1} * a.m * a.k * (a.source == RowSource::kNormed ? 4.0 : element);
  if (a.source == RowSource::kConv3x3) rows /= 9.0 / (a.stride * a.stride);
  cost.bytes = a.batch * (rows + element * a.n * a.k);
  return cost;
}

}  // namespace

StepCost cost_of(Math math, const GemmArguments& a) {
  StepCost cost = product_cost(math, a);
  const double element = element_bytes(math), values = double{1} * a.m * a.n * a.batch;
  cost.bytes += values * (a.out_float ? 4 : element);
  if (a.residual != nullptr) cost.bytes += values * (a.residual_float ? 4 : element);
  if (a.residual_rest != nullptr) cost.bytes += values * 2 * element;
  if (a.halves != nullptr && a.rest == nullptr) cost.bytes += values * element;
  if (a.source == RowSource::kNormed) cost.shape += ", rows normalised";
  cost.shape += name_of(a.activation);
  if (a.scale != nullptr) cost.shape += " * scale";
  if (a.residual != nullptr) cost.shape += " + residual";
  if (a.residual_rest != nullptr) cost.shape += " + residual in pairs";
  if (a.rest != nullptr) cost.shape += " to pairs";
  return cost;
}

StepCost cost_of(Math math, const GemmNormArguments& a) {
  StepCost cost = product_cost(math, a.product);
  const double element = element_bytes(math), values = double{1} * a.product.m * a.product.n;
  if (a.product.residual != nullptr)
    cost.bytes += values * (a.product.residual_float ? 4 : element);
  if (a.out != nullptr) cost.bytes += values * element;
  if (a.out_float != nullptr) cost.bytes += values * 4;
  if (a.sum != nullptr) cost.bytes += values * 4;
  if (a.out_plus != nullptr) cost.bytes += values * (4 + element);
  if (a.product.residual != nullptr) cost.shape += " + residual";
  cost.shape += ", LayerNorm";
  cost.shape += name_of(a.activation);
  return cost;
}

StepCost cost_of(Math math, const AttentionArguments& a) {
  StepCost cost;
  cost.kind = "attention";
  cost.shape =
      fmt::format("{} x {} tokens, {} heads of {}", a.sequences, a.length, a.heads, a.head_dim);
  const double values = double{1} * a.sequences * a.length * a.heads * a.head_dim;
  cost.flops = 4.0 * values * a.length;
  cost.bytes = 4.0 * values * element_bytes(math);
  return cost;
}

StepCost cost_of(Math math, const MaskBlockArguments& a) {
  GemmArguments g;
  g.m = a.batch * a.rows * a.cols;
  g.n = g.k = a.channels;
  g.activation = Activation::kGelu;
  StepCost cost = cost_of(math, g);
  cost.kind = "depthwise 3x3 + LayerNorm + product";
  cost.shape += " + residual";
  return cost;
}

StepCost cost_of(Math math, const EmbedArguments& a) {
  const double pixels = 3.0 * a.patch * a.patch * a.layout.cells() * a.batch;
  const int rows = a.x == nullptr ? a.layout.tokens() : a.layout.cells();
  const double stored = static_cast<double>(a.batch) * rows * a.ld * element_bytes(math);
  const int windows = a.layout.windows * a.layout.windows;
  const double tokens = a.x == nullptr ? 0 : 8.0 * a.batch * windows * a.width;
  return moving("patches", fmt::format("{} pictures", a.batch), pixels * 4 + stored + tokens);
}

StepCost cost_of(Math math, const NormArguments& a) {
  const double values = double{1} * a.m * a.n;
  const double outputs = a.then_out != nullptr ? 2 : 1;
  return moving("LayerNorm", fmt::format("{}x{}", a.m, a.n),
                values * (4 + outputs * element_bytes(math)));
}

StepCost cost_of(Math math, const MaskRowsArguments& a) {
  return moving("rows left out", fmt::format("{} x {}x{}", a.batch, a.n, a.width),
                2.0 * a.batch * a.n * a.width * element_bytes(math));
}

StepCost cost_of(Math, const ClassMaxArguments& a) {
  return moving("largest logit", fmt::format("{}x{}", a.rows, a.classes),
                4.0 * a.rows * (a.classes + 1));
}

StepCost cost_of(Math, const SelectArguments& a) {
  return moving("selection", fmt::format("{} x {} of {}", a.batch, a.queries, a.n),
                4.0 * a.batch * (a.n + 2.0 * a.queries));
}

StepCost cost_of(Math math, const ReferenceArguments& a) {
  return moving("reference boxes", fmt::format("{} x {}", a.batch, a.queries),
                double{1} * a.batch * a.queries * (4 * 12 + 2.0 * a.dim * element_bytes(math)));
}

StepCost cost_of(Math, const RefineArguments& a) {
  return moving("refined boxes", fmt::format("{}", a.count), 48.0 * a.count);
}

StepCost cost_of(Math math, const StartQueriesArguments& a) {
  return moving("first queries", fmt::format("{} x {}x{}", a.batch, a.queries, a.dim),
                double{1} * a.batch * a.queries * a.dim * (12 + 2 * element_bytes(math)));
}

StepCost cost_of(Math math, const SampleArguments& a) {
  const double samples = double{1} * a.batch * a.queries * a.heads * a.points * a.levels;
  return moving("deformable samples",
                fmt::format("{} x {} queries, {} heads x {}", a.batch, a.queries, a.heads,
                            a.points * a.levels),
                samples * (12 + 4.0 * 16 * element_bytes(math)) +
                    double{1} * a.batch * a.queries * a.heads * 16 * element_bytes(math));
}

StepCost cost_of(Math math, const ResizeArguments& a) {
  const double cells = double{1} * a.rows * a.cols + double{1} * a.out_rows * a.out_cols;
  return moving("resize",
                fmt::format("{} x {}x{} to {}x{}x{}", a.batch, a.rows, a.cols, a.out_rows,
                            a.out_cols, a.channels),
                a.batch * cells * a.channels * element_bytes(math));
}

StepCost cost_of(Math math, const DepthwiseArguments& a) {
  return moving("depthwise 3x3 + LayerNorm",
                fmt::format("{} x {}x{}x{}", a.batch, a.rows, a.cols, a.channels),
                2.0 * a.batch * a.rows * a.cols * a.channels * element_bytes(math));
}

StepCost cost_of(Math math, const SpreadArguments& a) {
  return moving("2x2 cells in place",
                fmt::format("{} x {}x{}x{}", a.batch, a.rows, a.cols, a.channels),
                8.0 * a.batch * a.rows * a.cols * a.channels * element_bytes(math));
}

StepCost cost_of(Math, const ClassScoresArguments& a) {
  StepCost cost = moving("largest class logit", fmt::format("{}x{}x256", a.rows, a.count),
                         2.0 * 256 * (a.rows + a.count) + 4.0 * a.rows);
  cost.flops = 2.0 * a.rows * a.count * 256;
  return cost;
}

StepCost cost_of(Math, const QueryStartArguments& a) {
  const double rows = double{1} * a.batch * a.queries,
               weights = 256.0 * (2 * 256 + 4 + 512 + 256 + 768);
  StepCost cost = moving("decoder start", fmt::format("{} x {} queries", a.batch, a.queries),
                         2 * weights + rows * (2 + 4 + 4 + 2 * 3) * 256);
  cost.flops = 2.0 * rows * weights;
  return cost;
}

StepCost cost_of(Math, const QueryAttentionArguments& a) {
  const SampleArguments& s = a.samples;
  const double rows = double{1} * s.batch * s.queries,
               samples = double{3} * s.heads * s.points * s.levels;
  StepCost cost = moving(
      "decoder attention", fmt::format("{} x {} queries", s.batch, s.queries),
      2.0 * 256 * (2 * 256 + samples) + rows * (6.0 * 256 + 14.0 * 256 + samples / 3 * 4 * 32));
  cost.flops = 2.0 * rows * 256 * (2 * 256 + samples + 2.0 * s.queries);
  return cost;
}

StepCost cost_of(Math, const QueryForwardArguments& a) {
  const double weights = 256.0 * (2 * 2048 + (a.next.weight != nullptr ? 768 : 0));
  StepCost cost = moving("decoder feed-forward", fmt::format("{} rows", a.rows),
                         2 * weights + a.rows * (16.0 * 256 + 6.0 * 256));
  cost.flops = 2.0 * a.rows * weights;
  return cost;
}

StepCost cost_of(Math, const QueryHeadsArguments& a) {
  const double weights = 256.0 * (2 * 256 + 4 + a.count);
  StepCost cost = moving("boxes and classes", fmt::format("{} rows", a.rows),
                         2 * weights + a.rows * (2.0 * 256 + 4.0 * (8 + a.count)));
  cost.flops = 2.0 * a.rows * weights;
  return cost;
}

StepCost cost_of(Math, const QueryMasksArguments& a) {
  const double weights = 256.0 * 1024 + 257.0 * (1024 + 256);
  StepCost cost = moving("mask queries", fmt::format("{} rows", a.rows),
                         2 * weights + a.rows * (6.0 * 256 + 4));
  cost.flops = 2.0 * a.rows * weights;
  return cost;
}

}  // namespace rfseg::cuda
