#pragma once

#include <vector>

#include "core/model_config.h"
#include "core/weights.h"

namespace rfseg {

/// What the tensors alone say about a model.
struct TensorFacts {
  int patch = 0;
  int pos_grid = 0;  ///< side of the stored position table
  int enc_dim = 0;
  int depth = 0;  ///< encoder blocks in the file
  int taps = 0;   ///< how many hidden states the projector takes
  int dec_layers = 0;
  int dim = 0;
  int ca_heads = 0;
  int points = 0;
  int ffn_dim = 0;
  int logits = 0;
  int groups = 0;      ///< query groups of training
  int query_rows = 0;  ///< rows of the query tables
  std::vector<Level> levels;
  bool seg = false;
};

/// Throws Error(kModel) naming the tensor that is missing or has an impossible shape.
TensorFacts read_tensor_facts(const WeightSource& weights);

}  // namespace rfseg
