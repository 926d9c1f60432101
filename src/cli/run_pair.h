#pragma once

#include <string>
#include <vector>

#include "cli/common.h"
#include "eval/run_results.h"
#include "output/results.h"
#include "pipeline/frame_source.h"
#include "pipeline/pipeline.h"

namespace rfseg::cli {

/// A picture's results as a run has them.
RunPicture to_run_picture(const ResultRecord& record, const std::vector<std::string>& class_names);

/// "cpu", "reference", "cuda[:N]", each also with ":PRECISION", into `options`. Throws
/// Error(kUsage) naming `option`.
void apply_device_spec(const std::string& spec, const char* option, ModelOptions& options);

/// The pictures that a COCO instances file lists, by name, in `folder` ("" = the file's own).
/// Throws Error(kInput).
std::vector<std::string> listed_pictures(const std::string& instances, const std::string& folder);

struct RunPlan {
  std::string model;
  ModelOptions model_options;
  PredictOptions predict;
  PipelineOptions pipeline;
  InputOptions input;
  std::vector<Input> inputs;
};

struct RunOutcome {
  RunResults results;
  std::string description;  ///< "cuda:0, backend cuda, fp16"
  ResolvedOptions resolved;
  std::vector<std::string> errors;  ///< one line for each input that failed
};

/// What `predict` would give, kept in memory. `name` is for messages.
RunOutcome run_in_memory(const RunPlan& plan, const std::string& name);

}  // namespace rfseg::cli
