#pragma once

#include "engine/cuda/products.h"

// The steps of the network between its products, one kernel each. Every pointer is device memory;
// "Element" is __half under Math::kFp16 and float otherwise (products.h). All functions only
// enqueue. Plain references: engine/reference/ and engine/two_stage.h.

namespace rfseg::cuda {

/// Cuts pictures into patches, and writes the CLS tokens of the residual stream. Patches are rows
/// in the order of tokens without CLS, columns (channel, y, x), zeros from 3 * patch * patch to
/// `ld`.
struct EmbedArguments {
  const float* pictures = nullptr;  ///< [B, 3, H, W]
  const float* start = nullptr;     ///< [tokens, width], of which the CLS tokens are taken
  void* patches = nullptr;          ///< Element [B * cells, ld]
  float* x = nullptr;               ///< [B * tokens, width], of which they are written; or null:
                                    ///< `patches` are [B * tokens, ld], CLS tokens rows of zeros
  TokenLayout layout;
  int batch = 0, patch = 0, ld = 0, width = 0;
};
void embed(const Queue& queue, Math math, const EmbedArguments& arguments);

/// LayerNorm of rows: out = (x - mean) / sqrt(var + eps) * gamma + beta, without gamma and beta
/// (both null) the first factor alone. n <= 1024 and a multiple of 8. Output row m comes from row
/// m, or with `cells` (a layout with windows > 0) from the token of grid cell m of a picture; it
/// goes to row m + (m / out_group) * out_skip + out_first (out_group 0: m).
struct NormArguments {
  const float* x = nullptr;
  int64_t ldx = 0;
  int m = 0, n = 0;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float eps = 0;
  TokenLayout cells{0, 0, 0};
  void* out = nullptr;  ///< Element
  int64_t ldo = 0;
  int out_group = 0, out_skip = 0, out_first = 0;
  /// A second LayerNorm, of the first one's result before rounding; null `then_out`: none.
  const float* then_gamma = nullptr;
  const float* then_beta = nullptr;
  float then_eps = 0;
  void* then_out = nullptr;  ///< Element [m, n]
};
void norm_rows(const Queue& queue, Math math, const NormArguments& arguments);

/// out[b, i] = valid[i] ? x[b, i] : 0 for rows of `width` elements.
struct MaskRowsArguments {
  const void* x = nullptr;         ///< Element [B, n, width]
  const uint8_t* valid = nullptr;  ///< [n]
  void* out = nullptr;
  int batch = 0, n = 0, width = 0;
};
void mask_rows(const Queue& queue, Math math, const MaskRowsArguments& arguments);

/// scores[row] = max over `classes` logits; NaN if one is.
struct ClassMaxArguments {
  const float* logits = nullptr;  ///< [rows, classes]
  float* scores = nullptr;        ///< [rows]
  int rows = 0, classes = 0;
};
void class_max(const Queue& queue, const ClassMaxArguments& arguments);

/// Two-stage selection: the best `queries` of n cells of each picture in descending order, equal
/// ones by lower index, NaN first. As select_topk() of engine/two_stage.h.
struct SelectArguments {
  const float* scores = nullptr;    ///< [B, n]
  const int32_t* forced = nullptr;  ///< [B, queries] to take instead, or null
  int32_t* chosen = nullptr;        ///< [B, queries] cell, -1 where there are fewer cells
  int32_t* rows = nullptr;          ///< [B, queries] b * n + max(cell, 0)
  int batch = 0, n = 0, queries = 0;
};
void select_cells(const Queue& queue, const SelectArguments& arguments);

/// Reference boxes of the decoder, and their sine embedding (engine/two_stage.h).
struct ReferenceArguments {
  const float* delta = nullptr;      ///< [B, queries, 4] of the chosen cells
  const int32_t* chosen = nullptr;   ///< [B, queries]
  const float* proposals = nullptr;  ///< [n, 4]
  const float* learned = nullptr;    ///< [queries, 4]
  float* references = nullptr;       ///< [B, queries, 4]
  void* sine = nullptr;              ///< Element [B, queries, 2 * dim]
  int batch = 0, queries = 0, dim = 0;
};
void make_references(const Queue& queue, Math math, const ReferenceArguments& arguments);

/// boxes = references refined by delta (engine/two_stage.h's refine_box), [count, 4] each.
struct RefineArguments {
  const float* delta = nullptr;
  const float* references = nullptr;
  float* boxes = nullptr;
  int count = 0;
};
void refine_boxes(const Queue& queue, const RefineArguments& arguments);

/// The decoder's start: every picture's queries are the learned ones.
struct StartQueriesArguments {
  const float* learned = nullptr;   ///< [queries, dim]
  const float* position = nullptr;  ///< [B, queries, dim]
  float* x = nullptr;               ///< [B, queries, dim]
  void* x_element = nullptr;        ///< Element, the same
  void* x_position = nullptr;       ///< Element, x + position
  int batch = 0, queries = 0, dim = 0;
};
void start_queries(const Queue& queue, Math math, const StartQueriesArguments& arguments);

constexpr int kMaxLevels = 3;

/// Deformable cross-attention: softmax of the weights of a head, then the weighted bilinear samples
/// of its 16 channels; taps outside of a map count as zero.
struct SampleArguments {
  const float* sampling = nullptr;    ///< [B * queries, 3 * heads * samples]: offsets (x, y) first,
                                      ///< then weights; both by head, level, point
  const float* references = nullptr;  ///< [B * queries, 4]
  const void* values = nullptr;       ///< Element [B, n, ldv]
  int64_t ldv = 0;
  void* out = nullptr;  ///< Element [B * queries, heads * 16]
  int batch = 0, queries = 0, heads = 0, points = 0, n = 0;
  int levels = 0;
  int level_rows[kMaxLevels] = {}, level_cols[kMaxLevels] = {};
};
void sample_values(const Queue& queue, Math math, const SampleArguments& arguments);

/// Bilinear resize, align_corners=False, of maps whose pictures lie `picture_rows` rows apart.
struct ResizeArguments {
  const void* map = nullptr;  ///< Element [B, picture_rows, channels], rows * cols of them used
  int picture_rows = 0, rows = 0, cols = 0;
  void* out = nullptr;  ///< Element [B, out_rows, out_cols, channels]
  int out_rows = 0, out_cols = 0;
  int batch = 0, channels = 0;  ///< channels a multiple of 8
};
void resize_map(const Queue& queue, Math math, const ResizeArguments& arguments);

/// Depthwise 3x3 convolution with zero padding and bias, then LayerNorm over channels (without
/// affine).
struct DepthwiseArguments {
  const void* map = nullptr;      ///< Element [B, rows, cols, channels]
  const float* weight = nullptr;  ///< [9, channels]
  const float* bias = nullptr;    ///< [channels]
  float eps = 0;
  void* out = nullptr;                              ///< Element [B, rows, cols, channels]
  int batch = 0, rows = 0, cols = 0, channels = 0;  ///< channels a multiple of 8, <= 512
};
void depthwise_norm(const Queue& queue, Math math, const DepthwiseArguments& arguments);

/// Puts the four outputs of a transposed 2x2 convolution of stride 2 in their places:
/// out[b, 2y + dy, 2x + dx, channel] = x[(b, y, x), (dy * 2 + dx) * channels + channel].
struct SpreadArguments {
  const void* x = nullptr;  ///< Element [B * rows * cols, 4 * channels]
  void* out = nullptr;      ///< Element, ldo elements from cell to cell
  int64_t ldo = 0;
  int batch = 0, rows = 0, cols = 0, channels = 0;
};
void spread_2x2(const Queue& queue, Math math, const SpreadArguments& arguments);

/// out = float(x), for results that leave the GPU.
void to_floats(const Queue& queue, Math math, const void* x, float* out, int64_t count);

}  // namespace rfseg::cuda
