#include "cli/run_pair.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

#include "cli/image_ids.h"
#include "cli/progress.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

RunPicture to_run_picture(const ResultRecord& record, const std::vector<std::string>& class_names) {
  RunPicture picture{
      record.file, record.frame, {}, record.detections.width, record.detections.height};
  for (const Detection& detection : record.detections.items) {
    RunDetection& out = picture.detections.emplace_back();
    out.class_id = detection.class_id;
    out.class_name = class_name(class_names, detection.class_id);
    out.score = detection.score;
    std::copy(std::begin(detection.box_xyxy), std::end(detection.box_xyxy), out.box_xyxy.begin());
    if (!detection.mask) continue;
    out.has_mask = true;
    out.mask_height = detection.mask->height;
    out.mask_width = detection.mask->width;
    out.counts = detection.mask->counts;
  }
  return picture;
}

void apply_device_spec(const std::string& spec, const char* option, ModelOptions& options) {
  const auto refuse = [&] {
    refuse_value(option, spec,
                 "cpu, reference, cuda or cuda:N, each also with :fp32, :fp16 or :tf32");
  };
  std::vector<std::string> words;
  for (std::size_t at = 0; at <= spec.size();) {
    const std::size_t end = std::min(spec.find(':', at), spec.size());
    words.push_back(spec.substr(at, end - at));
    at = end + 1;
  }
  if (words[0] == "cpu" || words[0] == "reference") {
    options.device = "cpu";
    options.backend = words[0] == "cpu" ? Backend::kCpu : Backend::kReference;
  } else if (words[0] == "cuda") {
    options.device = "cuda";
    options.backend = Backend::kCuda;
  } else {
    refuse();
  }
  std::size_t next = 1;
  if (next < words.size() && options.device == "cuda" && is_number(words[next])) {
    options.device += ":" + words[next++];
  }
  options.precision = Precision::kAuto;
  if (next < words.size()) {
    const std::string& word = words[next++];
    if (word == "fp32") {
      options.precision = Precision::kFp32;
    } else if (word == "fp16") {
      options.precision = Precision::kFp16;
    } else if (word == "tf32") {
      options.precision = Precision::kTf32;
    } else {
      refuse();
    }
  }
  if (next != words.size()) refuse();
}

std::vector<std::string> listed_pictures(const std::string& instances, const std::string& folder) {
  const std::filesystem::path root = folder.empty() ? std::filesystem::path(instances).parent_path()
                                                    : std::filesystem::path(folder);
  std::vector<std::string> paths;
  for (const auto& [name, id] : read_image_ids(instances)) paths.push_back((root / name).string());
  return paths;
}

RunOutcome run_in_memory(const RunPlan& plan, const std::string& name) {
  RunOutcome outcome;
  outcome.results.name = name;
  LoadedModel model;
  load_model(plan.model, plan.model_options, model);
  outcome.description = fmt::format("{}, backend {}, {}", model.info.device, model.info.backend,
                                    model.info.precision);
  check_class_count(plan.predict.class_names.size(), model.config.logits);
  PredictOptions predict = plan.predict;
  if (!model.config.seg) predict.masks = MaskFormat::kNone;
  outcome.resolved = resolve_options(predict, model.config);
  InputSource source(plan.inputs, plan.input);
  Progress progress("frames");
  int64_t done = 0;
  run_pipeline(*model.engine, source, outcome.resolved, plan.pipeline, [&](PipelineFrame& frame) {
    progress.update(++done, source.estimated_total());
    if (frame.error.empty()) {
      outcome.results.pictures.push_back(
          to_run_picture(frame.record, outcome.resolved.class_names));
    } else {
      outcome.errors.push_back(frame.error);
    }
  });
  progress.clear();
  return outcome;
}

}  // namespace rfseg::cli
