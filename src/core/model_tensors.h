#pragma once

#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "core/weights.h"

namespace rfseg {

// Prefixes of upstream's (rfdetr's) keys.
inline const std::string kEncoderPrefix = "backbone.0.encoder.encoder.";
inline const std::string kProjectorPrefix = "backbone.0.projector.";
inline const std::string kTransformerPrefix = "transformer.";
inline const std::string kSegmentationPrefix = "segmentation_head.";

/// How many rows of a tensor a file may hold.
enum class StoredRows {
  kEqual,        ///< as many as the network reads
  kEqualOrMore,  ///< query tables: one block of rows for each training group, the first is read
  kResampled,    ///< the position table: one row and those of any square, resampled while loading
};

/// One tensor that inference reads, under its upstream name.
struct TensorSpec {
  std::string name;
  Shape shape;  ///< as the network reads it
  StoredRows rows = StoredRows::kEqual;
};

/// Every tensor that the network of `config` needs, in upstream's order; tensors of other training
/// groups, unused encoder blocks and the mask token are not among them.
/// Source: state_dict of roboflow/rf-detr 1.4.1 and 1.11.2.
std::vector<TensorSpec> required_tensors(const ModelConfig& config);

/// Throws Error(kModel) naming the first required tensor that is missing or has another shape, with
/// the expected and the found shape. Reads no data.
void check_weights(const ModelConfig& config, const WeightSource& weights);

}  // namespace rfseg
