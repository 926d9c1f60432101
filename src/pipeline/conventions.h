#pragma once

#include <string>
#include <vector>

#include "core/model_config.h"
#include "postprocess/postprocess.h"
#include "preprocess/preprocess.h"
#include "rfseg/options.h"

namespace rfseg {

/// What every stage is told once the convention, the model and the user's options are put together.
struct ResolvedOptions {
  PreprocessSpec preprocess;
  PostprocessSpec postprocess;  ///< geometry is filled in per picture
  std::vector<std::string> class_names;
};

/// Fills what the user left open with the convention's value (docs/conventions.md has the table).
/// Throws Error(kUsage) naming a class that the model does not have or a threshold out of range.
ResolvedOptions resolve_options(const PredictOptions& options, const ModelConfig& config);

}  // namespace rfseg
