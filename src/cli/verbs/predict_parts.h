#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/common.h"
#include "cli/file_claims.h"
#include "output/image_ids.h"
#include "pipeline/frame_source.h"
#include "pipeline/pipeline.h"

// The parts of `rfseg predict` beside the run itself.

namespace rfseg::cli {

/// What the command line says.
struct PredictArguments {
  CommonOptions common;
  PredictOptions predict;
  PipelineOptions pipeline;
  InputOptions input;
  std::vector<std::string> inputs;
  std::string output, format, image_ids, overlay, report, report_title, report_notice,
      decoder = "auto";
  std::vector<std::string> read_files;  // by options
  bool no_exif = false;
  int streams = 0;  // read at once; 0: all live ones
};

/// The inputs and how they are read.
void add_predict_input_options(CLI::App& verb, PredictArguments& arguments);
/// -o, --masks, --overlay, --report and what belongs to them.
void add_predict_output_options(CLI::App& verb, PredictArguments& arguments);

/// Whether the results are a COCO array rather than JSON lines. Throws Error(kUsage) where the
/// name of the output and --format say different things, or nothing.
bool wants_coco(const PredictArguments& arguments);
/// Claims the PNG files of --masks dense. Throws Error(kUsage) where they would replace a file of
/// this call, or have no place.
void claim_dense_masks(const PredictArguments& arguments, FileClaims& claims);
/// The ids of --image-ids. Throws Error(kUsage) where two of the inputs would get one; those that
/// can have none, as videos, become inputs with `error`.
ImageIds image_ids_of(const PredictArguments& arguments, std::vector<Input>& inputs);
/// Tells of options for videos where no input is one.
void warn_of_video_options(const CLI::App& verb, const std::vector<Input>& inputs);

}  // namespace rfseg::cli
