#pragma once

#include <vector>

#include "engine/cpu/network.h"
#include "engine/engine.h"

// The forward pass in four stages over a group of pictures:
//   encode -> project (with the per-cell part of the two-stage selection) -> decode -> segment.
// Between two attentions everything works row by row, so each stage is a few parallel loops whose
// tasks take a run of rows through all layers while it lies in the core's cache.

namespace rfseg::cpu {

/// Buffers of a forward pass over `batch` pictures, in one block by the stages that use them.
/// M tokens and N cells of all levels per picture, P mask pixels.
struct Buffers {
  int batch = 0;
  Workspace memory;
  float* tokens = nullptr;          ///< [batch, M, D]
  float* qkv = nullptr;             ///< [batch, M, 3, D]
  std::vector<float*> taps;         ///< each [batch, cells of the patch grid, D]
  std::vector<float*> level_input;  ///< P3, P5: [batch, cells, taps * width]; P4 reads the taps
  float* parts = nullptr;           ///< [batch, cells of a level, 5 * C/2]
  float* middle = nullptr;          ///< [batch, cells of a level, C/2]
  float* maps = nullptr;            ///< [batch, N, C]
  float* values = nullptr;          ///< [batch, N, L * C]
  float* scores = nullptr;          ///< [batch, N]
  float* reference = nullptr;       ///< [batch, Q, 4]
  float* position = nullptr;        ///< [batch, Q, C]
  float* queries = nullptr;         ///< [batch, Q, C]
  float* query_qkv = nullptr;       ///< [batch, Q, 3, C]
  float* query_masks = nullptr;     ///< [batch, Q, C + 1]
  float* spatial[2] = {};           ///< each [P, C], one picture at a time

  void resize(const ModelConfig& config, const Proposals& proposals, int pictures);
};

/// Tables of a model's geometry.
struct Geometry {
  explicit Geometry(const ModelConfig& config, const Proposals& proposals);
  int window_tokens;                            ///< T
  int tokens;                                   ///< M
  std::vector<int> cell_of_token;               ///< [M], -1 for the class tokens
  std::vector<int> rows, cols;                  ///< [levels]
  std::vector<int64_t> first_cell;              ///< [levels]
  std::vector<int> mask_low_y, mask_low_x;      ///< lower tap of each mask row and column
  std::vector<float> mask_part_y, mask_part_x;  ///< weight of the upper tap
  AlignedVector<float> zeros;                   ///< a row of zeros as wide as any input
};

struct Pass {
  const Network& net;
  const Geometry& geometry;
  Execution ex;
  Buffers& buffers;
  int batch;
};

/// Where the heads go: the pictures of a pass, [batch, Q, 4], [batch, Q, K], [batch, Q, P].
struct Heads {
  float* boxes;
  float* logits;
  float* masks;  ///< nullptr for detection models
};

/// images [batch, 3, H, W] -> buffers.taps.
void encode(const Pass& pass, const float* images);
/// taps -> maps, values of all decoder layers, scores.
void project(const Pass& pass);
/// -> boxes, logits, query_masks. `forced` is [batch, Q] or null.
void decode(const Pass& pass, const int32_t* forced, const Heads& heads);
/// maps of level 0 and query_masks -> masks.
void segment(const Pass& pass, const Heads& heads);

}  // namespace rfseg::cpu
