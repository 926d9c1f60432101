#pragma once

#include "engine/cuda/decoder_plan.h"
#include "engine/cuda/small_kernels.h"

// Few query rows leave most of the GPU idle, and a decoder layer is eleven kernels one after the
// other. Everything between two self-attentions concerns one row of queries, so a cluster of 8
// blocks can do it for 16 rows: each block has an eighth of the columns (or of k) of every product,
// and they exchange rows through each other's shared memory.

namespace rfseg::cuda {

/// What the decoder's start has beside its plan, `stream` and `constants`.
struct DecoderStartArguments {
  const void* cells = nullptr;           ///< half [.., dim] enc_output
  const int32_t* chosen = nullptr;       ///< [rows]
  const int32_t* chosen_rows = nullptr;  ///< [rows], of `cells`
  const float* proposals = nullptr;      ///< [n, 4]
  const float* learned_boxes = nullptr;  ///< [queries, 4]
  const float* learned = nullptr;        ///< [queries, dim]
  int queries = 0;
  float* references = nullptr;  ///< out, [rows, 4]
  float* position = nullptr;    ///< out, [rows, dim]
};

struct DecoderArguments {
  DecoderPlan plan;                   ///< with `out` and `ldo` where something is stored
  const std::byte* stream = nullptr;  ///< weights and constants as plan.h lays them out
  const float* constants = nullptr;
  const void* attended = nullptr;   ///< half [rows, dim] of self-attention
  float* queries = nullptr;         ///< [rows, dim] residual stream, in and out
  const float* position = nullptr;  ///< [rows, dim]
  SampleArguments sample;           ///< of the cross-attention; `sampling` and `out` are not read
  void* hs = nullptr;               ///< half [rows, dim], of the last layer
  float* boxes = nullptr;           ///< [rows, 4], of the last layer
  int rows = 0, dim = 0;
  float eps = 0;
  DecoderStartArguments start;
  // Places in shared memory, set when the kernel is launched.
  int operand_at[5] = {}, operand_ld[5] = {};  ///< bytes, halves
  int parts_at = 0, raw_at = 0, constants_at = 0, references_at = 0, barriers_at = 0, ring_at = 0;
  int slots = 0;
};

/// Enqueues the kernel: for GPUs of compute capability 9.0 and newer.
void decoder_layer(const Queue& queue, const DecoderArguments& arguments);

/// The same of the decoder's start: `plan`, `stream`, `constants`, `start`, `queries`, `rows` and
/// `dim` are read.
void decoder_start(const Queue& queue, const DecoderArguments& arguments);

}  // namespace rfseg::cuda
