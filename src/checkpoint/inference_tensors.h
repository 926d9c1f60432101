#pragma once

#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"

namespace rfseg {

struct ExpectedTensor {
  std::string name;
  Shape shape;
  bool first_rows = false;  ///< the file may hold more rows: one block for each training group
};

/// Every tensor that inference with `config` reads, under upstream names, in upstream's order.
std::vector<ExpectedTensor> inference_tensors(const ModelConfig& config);

/// Throws Error(kModel) naming the tensor, the expected and the found shape where `weights` does
/// not hold what `inference_tensors` asks for.
void check_tensors(const ModelConfig& config, const WeightSource& weights);

}  // namespace rfseg
