#pragma once

#include "core/model_config.h"
#include "core/tensor.h"
#include "core/weights.h"

namespace rfseg {

/// Weights [n_out, n_in] of bicubic resampling with antialias=True, align_corners=False of torch:
/// cubic with a = -0.5, widened when shrinking, normalised over the taps inside.
Tensor cubic_antialias_weights(int n_in, int n_out);

/// Weights [n_out, n_in] of bilinear resampling, align_corners=False, no antialias.
Tensor linear_weights(int n_in, int n_out);

/// Resamples a map [rows, cols, channels] along both axes to [y.dim(0), x.dim(0), channels];
/// `y` is [rows', rows] and `x` is [cols', cols].
Tensor resample_map(const Tensor& map, const Tensor& y, const Tensor& x);

/// What the encoder adds to its tokens.
struct PositionTable {
  Tensor patches;  ///< [grid_rows, grid_cols, enc_dim]
  Tensor cls;      ///< [enc_dim]: cls_token + row 0 of the table, the start of every window
};

/// Reads the position table and brings it to the input's grid. A stored table of another side than
/// config.pos_grid is first resampled to it and rounded to the file's type, as upstream does on
/// loading; then to the grid of the input if that differs.
/// Throws Error(kModel) if the number of rows is not a square plus one.
/// Source: dinov2_with_windowed_attn.py and load_pretrain_weights of roboflow/rf-detr 1.11.2.
PositionTable load_position_table(const ModelConfig& config, const WeightSource& weights);

}  // namespace rfseg
