#pragma once

#include "checkpoint/torch_file.h"

namespace rfseg {

/// Metadata key under which `write_safetensors` stores the configuration: a JSON object with the
/// field names of rfdetr's ModelConfig, `class_names`, `variant`, and `resolution` as [rows,
/// columns].
inline constexpr char kConfigKey[] = "rfseg.model_config";

/// Whether the file begins as a .safetensors file does.
bool looks_like_safetensors(const ByteSource& file);

/// Reads the header of a .safetensors file: names, element types, shapes and the metadata's
/// configuration. Throws Error(kModel) if tensors overlap, lie outside the file or do not fill
/// their bytes. Format: github.com/huggingface/safetensors, README.
FileContents read_safetensors_file(const ByteSource& file);

}  // namespace rfseg
