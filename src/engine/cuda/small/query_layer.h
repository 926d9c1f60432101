#pragma once

#include "engine/cuda/small/small_kernels.h"

// The decoder for few queries, fp16, width 256, on GPUs that have clusters: a kernel for its start,
// two for each layer, one for boxes and classes and one for the masks' queries. But for
// self-attention all of it concerns one row of queries alone; so a cluster of blocks has 16 rows,
// or 32 by two teams of threads.

namespace rfseg::cuda {

/// A product's weights, __half [n, k] without gaps, and its bias [n].
struct QueryProduct {
  const void* weight = nullptr;
  const float* bias = nullptr;
};
struct QueryNorm {
  const float* gamma = nullptr;
  const float* beta = nullptr;
};

/// scores[row] = the largest class logit of a cell; NaN if one is.
struct ClassScoresArguments {
  const void* cells = nullptr;  ///< __half [rows, 256]
  QueryProduct classes;         ///< [count, 256]
  float* scores = nullptr;      ///< [rows]
  int rows = 0, count = 0;
};

/// From the chosen cells to the first layer's queries, keys and values.
struct QueryStartArguments {
  const void* cells = nullptr;       ///< __half [.., 256], of which `rows` are taken
  const int32_t* rows = nullptr;     ///< [B * queries]
  QueryProduct box[3];               ///< [256, 256] and [256, 256] with ReLU, [4, 256]
  const int32_t* chosen = nullptr;   ///< [B * queries], -1: no cell
  const float* proposals = nullptr;  ///< [cells of a picture, 4]
  const float* learned = nullptr;    ///< [queries, 4]
  QueryProduct position[2];          ///< [256, 512] with ReLU, [256, 256]
  const float* content = nullptr;    ///< [queries, 256]
  QueryProduct next;                 ///< [768, 256]
  float* references = nullptr;       ///< [B * queries, 4]
  float* position_out = nullptr;     ///< [B * queries, 256]
  float* x = nullptr;                ///< [B * queries, 256]
  void* qkv = nullptr;               ///< __half [B * queries, 768]
  int batch = 0, queries = 0;
};

/// Self-attention, its product and norm, offsets and weights of the samples, the samples, their
/// product and norm.
struct QueryAttentionArguments {
  const void* qkv = nullptr;        ///< __half [B * queries, 3 * 256]
  float* x = nullptr;               ///< [B * queries, 256], in and out
  void* x_element = nullptr;        ///< __half, x at the end
  const float* position = nullptr;  ///< [B * queries, 256]
  QueryProduct attended, sampling, sampled;
  QueryNorm norm1, norm2;
  float scale = 0, eps = 0;
  SampleArguments samples;  ///< batch, queries, references, values and the maps' geometry
};

/// The feed-forward part with its norm, then the next layer's queries, keys and values.
struct QueryForwardArguments {
  const void* x_element = nullptr;  ///< __half [rows, 256]
  float* x = nullptr;               ///< [rows, 256], in and out
  void* out_element = nullptr;      ///< __half, x at the end; may be `x_element`
  const float* position = nullptr;  ///< [rows, 256]
  QueryProduct first, second;       ///< [2048, 256] with ReLU, [256, 2048]
  QueryNorm norm;
  QueryProduct next;    ///< [768, 256]: queries and keys of x + position, values of x; or none
  void* qkv = nullptr;  ///< __half [rows, 768]
  /// Of the last layer, without `next`: the decoder's norm of x, and one more of that; or none.
  QueryNorm last, then;
  void* hs = nullptr;         ///< __half [rows, 256]
  void* hs_normed = nullptr;  ///< the same
  int rows = 0;
  float eps = 0;
};

/// What follows the last layer: boxes and class logits.
struct QueryHeadsArguments {
  const void* hs = nullptr;           ///< __half [rows, 256]
  QueryProduct box[3];                ///< [256, 256] and [256, 256] with ReLU, [4, 256]
  QueryProduct classes;               ///< [count, 256]
  const float* references = nullptr;  ///< [rows, 4]
  float* boxes = nullptr;             ///< [rows, 4]
  float* logits = nullptr;            ///< [rows, count]
  int rows = 0, count = 0;
};

/// What each query wants of the features of a mask's pixel:
///   h = GELU(W1 normed + b1);  [out, constant] = W [h, hs] + b,  W as kMaskTail says.
struct QueryMasksArguments {
  const void* normed = nullptr;  ///< __half [rows, 256]
  const void* hs = nullptr;      ///< __half [rows, 256]
  QueryProduct first;            ///< W1 [1024, 256]
  QueryProduct second;           ///< W, b [257]
  void* out = nullptr;           ///< __half [rows, 256]
  float* constants = nullptr;    ///< [rows]
  int rows = 0;
};
/// W is in 8 slices of [264, 160], rows 257 to 263 zeros: slice i has of each row the columns of
/// h from 128 i on, then those of hs from 32 i on.
constexpr int kMaskTailSlices = 8, kMaskTailRows = 264, kMaskTailHidden = 128, kMaskTailOwn = 32;

bool takes_class_scores(const Queue& queue, Math math, int rows, int width, int classes);
void class_scores(const Queue& queue, Math math, const ClassScoresArguments& arguments);

/// Whether the kernels take a decoder of these widths and are the faster ones for so many queries.
bool takes_query_layers(const Queue& queue, Math math, int batch, int queries, int width,
                        int hidden, int samples);
void query_start(const Queue& queue, Math math, const QueryStartArguments& arguments);
void query_attention(const Queue& queue, Math math, const QueryAttentionArguments& arguments);
void query_forward(const Queue& queue, Math math, const QueryForwardArguments& arguments);
/// These two follow where takes_query_layers() holds, query_heads() for at most kMostHeadClasses.
constexpr int kMostHeadClasses = 128;
void query_heads(const Queue& queue, Math math, const QueryHeadsArguments& arguments);
void query_masks(const Queue& queue, Math math, const QueryMasksArguments& arguments);

}  // namespace rfseg::cuda
