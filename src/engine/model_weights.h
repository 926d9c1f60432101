#pragma once

#include <cstdint>

#include "core/model_config.h"
#include "core/model_tensors.h"

namespace rfseg {

/// Throws Error(kModel) naming the field if `config` describes no network that can be run: sizes
/// not positive, an input side that patch * windows does not divide, heads that do not divide a
/// width, taps that do not ascend or do not end at `enc_layers`.
void check_config(const ModelConfig& config);

/// Size of one feature map of the projector, in cells.
struct MapSize {
  int rows = 0;
  int cols = 0;
  int64_t cells() const { return int64_t{rows} * cols; }
};

/// The size of the projector's output at `level`.
MapSize level_size(const ModelConfig& config, Level level);

/// True if encoder block `block` attends over all windows of a picture.
bool attends_in_full(const ModelConfig& config, int block);

}  // namespace rfseg
