#pragma once

#include <string>
#include <vector>

#include "checkpoint/tensor_file.h"

namespace rfseg {

/// Whether the tensors bear the module names of transformers' RfDetr classes (a plain state
/// dictionary of such a model; its save_pretrained writes upstream names).
bool has_huggingface_names(const std::vector<TensorRecord>& records);

/// Renames transformers' RfDetr tensors to upstream's and joins the split self-attention
/// projections of the decoder. Source: transformers 5.23, conversion_mapping.py.
std::vector<TensorRecord> from_huggingface_names(std::vector<TensorRecord> records,
                                                 const std::string& origin);

/// Removes the common prefix made of `model.`, `module.` and `_orig_mod.` that wrappers add, and
/// drops the tensors that do not bear it.
std::vector<TensorRecord> strip_wrapper_prefix(std::vector<TensorRecord> records);

/// Throws Error(kModel) naming the kind of model if the tensors are of one that is out of scope:
/// keypoints, semantic segmentation, unmerged adapters, register tokens, other encoders.
void refuse_foreign_models(const std::vector<TensorRecord>& records, const std::string& origin);

}  // namespace rfseg
