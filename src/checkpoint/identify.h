#pragma once

#include "checkpoint/stored_config.h"
#include "core/model_config.h"
#include "core/weights.h"
#include "rfseg/options.h"

namespace rfseg {

/// Finds the configuration of a model, in this order of truth: what the file stores, the tensors,
/// the table of published sizes, names (model_name, pretrain_weights, the file's), and
/// `options.variant`. Depth, widths, classes and the kind of head always come from the tensors.
/// Never guesses: throws Error(kModel) asking for --variant where several sizes would fit, and
/// Error(kUsage) if `options` asks for what the model cannot be.
ModelConfig identify_model(const WeightSource& weights, const StoredConfig& stored,
                           const ModelOptions& options);

/// The published variant that a name such as "RFDETRSegNano" or "rf-detr-seg-nano.pt" tells, or "".
std::string variant_of_name(const std::string& name);

/// Class names by column of the class head.
std::vector<std::string> column_class_names(const StoredConfig& stored, int columns);

}  // namespace rfseg
