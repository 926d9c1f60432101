#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/byte_source.h"
#include "checkpoint/stored_config.h"
#include "checkpoint/tensor_file.h"

namespace rfseg {

/// What a container file holds, under the names that it uses.
struct FileContents {
  std::vector<TensorRecord> records;
  /// Tensors whose element type has no place here: "NAME has element type QInt8Storage".
  std::vector<std::string> unreadable;
  StoredConfig config;
};

/// Reads the directory and the pickle of a file of torch.save (zip form, torch 1.6 and later): the
/// tensors under root `model`, else `state_dict`, else `ema_model`, else of the root itself, less a
/// common `model.`, `_orig_mod.` or `module.` prefix, and what `args` and `model_config` say. No
/// tensor data is read and nothing is executed. Throws Error(kModel).
FileContents read_torch_file(const ByteSource& file);

}  // namespace rfseg
