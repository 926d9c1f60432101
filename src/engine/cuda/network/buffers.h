#pragma once

#include <cstddef>
#include <cstdint>

#include "core/model_config.h"
#include "engine/cuda/products.h"
#include "engine/two_stage.h"

namespace rfseg::cuda {

/// Where everything between the kernels lies, and what leaves them. "Element" as in products.h.
/// B pictures, T tokens and S cells a picture, D encoder width, N cells of all levels, C decoder
/// width, Q queries, L decoder layers, P mask pixels.
struct Buffers {
  // In.
  float* pictures = nullptr;  ///< [B, 3, H, W]
  int32_t* forced = nullptr;  ///< [B, Q]
  // Encoder.
  void* patches = nullptr;  ///< [B * S, 3 * patch * patch rounded up]
  float* x = nullptr;       ///< [B * T, D] residual stream
  void* stream = nullptr;   ///< [B * T, D] the stream's halves; for products that hand on norms
  void* rest = nullptr;     ///< [B * T, D] what rounding took, while x is not kept
  float* shares = nullptr;  ///< [B * T, D / 128, 2] its statistics
  void* rows = nullptr;     ///< [B * T, D] normalised rows, then attention's output
  void* wide = nullptr;     ///< [B * T, 4 * D] q, k, v, then the hidden layer
  void* taps = nullptr;     ///< [B * S, taps * D]
  // Projector; sizes of the largest level.
  void* level_in = nullptr;    ///< [B * cells, taps * width] resampled taps
  void* spread = nullptr;      ///< [B * S, 4 * D / 2] before spread_2x2
  void* parts = nullptr;       ///< [B * cells, 5 * C / 2] what cv2 reads
  void* middle = nullptr;      ///< [B * cells, C / 2]
  float* projected = nullptr;  ///< [B * cells, C]
  float* scratch = nullptr;    ///< [scratch_size()] of gemm_norm
  void* memory = nullptr;      ///< [B, N, C]
  // Two-stage selection and decoder.
  void* masked = nullptr;          ///< [B, N, C] memory without invalid cells; may be `memory`
  void* cells = nullptr;           ///< [B * N, C] enc_output
  float* cell_logits = nullptr;    ///< [B * N, K]
  float* scores = nullptr;         ///< [B, N]
  int32_t* chosen = nullptr;       ///< [B, Q]
  int32_t* chosen_rows = nullptr;  ///< [B, Q]
  void* mlp[2] = {};               ///< [B * Q, C]
  float* delta = nullptr;          ///< [B * Q, 4]
  float* references = nullptr;     ///< [B * Q, 4]
  void* sine = nullptr;            ///< [B * Q, 2 * C]
  float* position = nullptr;       ///< [B * Q, C]
  float* queries = nullptr;        ///< [B * Q, C]
  void* content = nullptr;         ///< [B * Q, C] the same as Element
  void* positioned = nullptr;      ///< [B * Q, C] with the position added
  void* query_qkv = nullptr;       ///< [B * Q, 3 * C]
  void* attended = nullptr;        ///< [B * Q, C]
  float* sampling = nullptr;       ///< [B * Q, 3 * heads * samples]
  void* ffn = nullptr;             ///< [B * Q, ffn_dim]
  void* values = nullptr;          ///< [B, N, L * C]
  void* hs = nullptr;              ///< [B * Q, C]
  // Segmentation head.
  void* spatial = nullptr;          ///< [B * P, C]
  void* depthwise = nullptr;        ///< [B * P, C]
  void* query_normed = nullptr;     ///< [B * Q, C]
  void* query_hidden = nullptr;     ///< [B * Q, 4 * C]
  void* query_mask = nullptr;       ///< [B * Q, C]
  float* query_constant = nullptr;  ///< [B * Q]
  // Out.
  float* boxes = nullptr;   ///< [B, Q, 4]
  float* logits = nullptr;  ///< [B, Q, K]
  void* masks = nullptr;    ///< Element [B, Q, P]
};

/// Floats that gemm_norm() may use in a pass over `batch` pictures. Of that batch, not of the
/// largest one that there is room for: how a product is shared, and so how its sums round, must not
/// depend on what the engine computed before.
int64_t scratch_size(const ModelConfig& config, const Proposals& proposals, Math math, int batch);

/// Lays the buffers of `batch` pictures out from `base` on; returns the bytes needed. With a null
/// base only the size is told.
std::size_t carve(Buffers& buffers, const ModelConfig& config, const Proposals& proposals,
                  Math math, int batch, std::byte* base);

/// Throws Error(kModel) if the kernels do not take a model of this geometry.
void check_supported(const ModelConfig& config);

}  // namespace rfseg::cuda
