#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"
#include "rfseg/options.h"

namespace rfseg {

/// A model file: the configuration it describes and its tensors under upstream names.
struct Checkpoint {
  ModelConfig config;
  std::shared_ptr<const WeightSource> weights;
  std::string format;  ///< "torch-zip", "safetensors", "safetensors (Hugging Face names)"
  std::map<std::string, std::string>
      metadata;  ///< what `info` prints: rfdetr_version, model_name, ...
};

/// Opens a .pth/.pt/.ckpt (torch zip) or .safetensors file, told apart by content, reads its
/// directory and finds the model's configuration in the order: stored model_config, args, tensors,
/// model_name and file name, `options.variant`. Tensor data is read on demand. Nothing in the file
/// is executed. Throws Error(kModel) that names the file, what is wrong and what is accepted.
Checkpoint open_checkpoint(const std::string& path, const ModelOptions& options = {});

/// Elements of the tensors that inference reads.
int64_t inference_parameters(const ModelConfig& config);

/// The 15 stock configurations (K = 91), by name. Throws Error(kUsage) naming the known ones.
ModelConfig stock_config(const std::string& variant);
const std::vector<std::string>& stock_variants();

/// Writes all tensors that inference uses under upstream names, with the configuration as JSON in
/// the safetensors metadata, so that the result opens without guessing. `half` stores fp16.
void write_safetensors(const Checkpoint& checkpoint, const std::string& path, bool half);

/// The 80 COCO names at their category ids 1..90, "" elsewhere (91 entries).
const std::vector<std::string>& coco_class_names();

}  // namespace rfseg
