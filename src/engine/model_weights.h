#pragma once

#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/tensor.h"
#include "core/weights.h"

namespace rfseg {

/// Marks an axis of TensorSpec::shape that may have any length.
inline constexpr int64_t kAnyLength = -1;

/// One tensor that inference reads, under its upstream (rfdetr) name.
struct TensorSpec {
  std::string name;
  Shape shape;                ///< kAnyLength where the file decides (the position table's rows)
  bool more_rows_ok = false;  ///< query tables hold one block of rows per training group
};

// Prefixes of upstream's keys.
inline const std::string kEncoderPrefix = "backbone.0.encoder.encoder.";
inline const std::string kProjectorPrefix = "backbone.0.projector.";
inline const std::string kTransformerPrefix = "transformer.";
inline const std::string kSegmentationPrefix = "segmentation_head.";

/// Every tensor that the network of `config` needs, in the order of computation; tensors of other
/// training groups, unused encoder blocks and the mask token are not among them.
/// Source: state_dict of roboflow/rf-detr 1.4.1 and 1.11.2.
std::vector<TensorSpec> required_tensors(const ModelConfig& config);

/// Throws Error(kModel) naming the field if `config` describes no network that can be run: sizes
/// not positive, an input side that patch * windows does not divide, heads that do not divide a
/// width, taps that do not ascend or do not end at `enc_layers`.
void check_config(const ModelConfig& config);

/// Throws Error(kModel) naming the first required tensor that is missing or has another shape, with
/// the expected and the found shape. Reads no data.
void check_weights(const ModelConfig& config, const WeightSource& weights);

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
