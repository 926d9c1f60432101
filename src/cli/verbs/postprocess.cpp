#include "postprocess/postprocess.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/file_claims.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "core/files.h"
#include "core/log.h"
#include "core/npy.h"
#include "engine/engine.h"
#include "output/results.h"
#include "pipeline/conventions.h"
#include "pipeline/loaded_model.h"
#include "postprocess/transform_json.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

struct PostprocessArguments {
  std::string boxes, logits, masks, image_size, class_map, transform, output;
  CommonOptions common;
  PredictOptions predict;
  std::vector<std::string> read_files;  // by options
};

void check_shape(const std::string& path, const Tensor& tensor, const Shape& expected) {
  if (tensor.shape == expected) return;
  throw Error(ErrorCode::kInput, fmt::format("{}: shape {}, expected {}", path,
                                             to_string(tensor.shape), to_string(expected)));
}

std::string read_text(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path, std::size_t{1} << 24);
  return {bytes.begin(), bytes.end()};
}

// What a model would have said: the heads' own sizes.
ModelConfig config_of(const Tensor& logits, bool seg) {
  ModelConfig config;
  config.queries = static_cast<int>(logits.dim(1));
  config.num_select = config.queries;
  config.logits = static_cast<int>(logits.dim(2));
  config.seg = seg;
  return config;
}

/// What post-processing runs on. It computes in fp32 on one thread everywhere.
DeviceChoice device_of(const CommonOptions& common) {
  const Precision precision = common.model_options.precision;
  if (precision != Precision::kAuto && precision != Precision::kFp32) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--precision {}: post-processing computes in fp32 only",
                            precision_name(precision)));
  }
  if (common.model_options.threads > 0) {
    log_warning("--threads: post-processing works on one thread");
  }
  DeviceChoice choice = choose_device_on_request(common.model_options);
  choice.precision = Precision::kFp32;
  return choice;
}

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// What --stats writes.
struct PostprocessStats {
  Clock::duration read{}, postprocess{}, output{};
  int64_t pictures = 0, detections = 0;

  std::string text(const DeviceChoice& choice) const {
    ModelInfo runtime;
    runtime.device = device_name(choice);
    runtime.backend = engine_backend_name(choice.backend);
    runtime.precision = precision_name(choice.precision);
    nlohmann::json json = runtime_json(runtime, 1);  // postprocess() works on one thread
    json["command"] = "postprocess";
    json["counts"] = {{"pictures", pictures}, {"detections", detections}};
    json["stages"] = {{{"name", "read"}, {"total_ms", milliseconds(read)}},
                      {{"name", "postprocess"}, {"total_ms", milliseconds(postprocess)}},
                      {{"name", "output"}, {"total_ms", milliseconds(output)}}};
    json["peak_rss_bytes"] = peak_rss_bytes();
    return json.dump(2) + "\n";
  }
};

void run_postprocess(const PostprocessArguments& arguments) {
  PostprocessStats stats;
  auto since = Clock::now();
  // Time since the last call.
  const auto lap = [&since] {
    const auto before = since;
    since = Clock::now();
    return since - before;
  };
  const DeviceChoice choice = device_of(arguments.common);
  FileClaims claims;
  claims.read(arguments.read_files);
  claims.read({arguments.boxes, arguments.logits, arguments.masks, arguments.class_map,
               arguments.transform});
  claims.write("-o", arguments.output.empty() ? "-" : arguments.output);
  claims.write("--stats", arguments.common.stats);
  refuse_missing_folder(arguments.output, "-o");
  refuse_missing_folder(arguments.common.stats, "--stats");
  if (std::filesystem::path(arguments.output).extension() == ".json") {
    throw Error(ErrorCode::kUsage,
                fmt::format("-o {}: what is written is JSON lines; name the file .jsonl",
                            arguments.output));
  }
  const Tensor logits = read_npy(arguments.logits);
  if (logits.shape.size() != 3 || logits.empty()) {
    throw Error(ErrorCode::kInput, fmt::format("{}: shape {}, expected [B, Q, K], each 1 or more",
                                               arguments.logits, to_string(logits.shape)));
  }
  const int64_t batch = logits.dim(0), queries = logits.dim(1);
  const Tensor boxes = read_npy(arguments.boxes);
  check_shape(arguments.boxes, boxes, {batch, queries, 4});
  Tensor masks;
  if (!arguments.masks.empty()) {
    masks = read_npy(arguments.masks);
    if (masks.shape.size() != 4 || masks.empty()) {
      throw Error(ErrorCode::kInput, fmt::format("{}: shape {}, expected [B, Q, rows, columns]",
                                                 arguments.masks, to_string(masks.shape)));
    }
    check_shape(arguments.masks, masks, {batch, queries, masks.dim(2), masks.dim(3)});
  }

  const ModelConfig config = config_of(logits, !masks.empty());
  check_class_count(arguments.predict.class_names.size(), config.logits);
  const ResolvedOptions resolved = resolve_options(arguments.predict, config);
  PostprocessSpec spec = resolved.postprocess;
  spec.backend = choice.backend;
  spec.cuda_device = choice.cuda_device;
  if (!arguments.class_map.empty()) {
    spec.class_map = parse_class_map(read_text(arguments.class_map), arguments.class_map);
    if (spec.class_map.size() != static_cast<std::size_t>(config.logits)) {
      throw Error(ErrorCode::kInput,
                  fmt::format("{}: {} entries for {} logit columns; one for each is expected",
                              arguments.class_map, spec.class_map.size(), config.logits));
    }
  }
  const auto [height, width] = parse_size(arguments.image_size, "--image-size");
  if (arguments.transform.empty()) {
    // The network's input is four times the mask grid a side.
    const int rows = masks.empty() ? height : static_cast<int>(masks.dim(2)) * 4;
    const int cols = masks.empty() ? width : static_cast<int>(masks.dim(3)) * 4;
    spec.geometry = PreprocessGeometry::stretch(height, width, rows, cols);
  } else {
    spec.geometry =
        parse_transform(read_text(arguments.transform), arguments.transform, height, width);
  }

  stats.read = lap();
  const auto writer = create_jsonl_writer(arguments.output.empty() ? "-" : arguments.output,
                                          resolved.class_names, spec.masks);
  for (int64_t i = 0; i < batch; ++i) {
    NetworkOutputs outputs;
    outputs.queries = static_cast<int>(queries);
    outputs.classes = config.logits;
    outputs.boxes = boxes.data.data() + i * queries * 4;
    outputs.logits = logits.data.data() + i * queries * config.logits;
    if (!masks.empty()) {
      outputs.mask_rows = static_cast<int>(masks.dim(2));
      outputs.mask_cols = static_cast<int>(masks.dim(3));
      outputs.masks = masks.data.data() + i * queries * masks.dim(2) * masks.dim(3);
    }
    ResultRecord record;
    record.file = batch == 1 ? arguments.logits : fmt::format("{}[{}]", arguments.logits, i);
    stats.output += lap();
    record.detections = postprocess(outputs, spec);
    stats.postprocess += lap();
    ++stats.pictures;
    stats.detections += static_cast<int64_t>(record.detections.items.size());
    writer->write(record);
  }
  writer->finish();
  stats.output += lap();
  if (!arguments.common.stats.empty()) {
    write_file(output_path(arguments.common.stats), stats.text(choice));
  }
}

}  // namespace

void add_postprocess(CLI::App& app) {
  auto arguments = std::make_shared<PostprocessArguments>();
  CLI::App* verb = app.add_subcommand("postprocess", "Turn raw network outputs into detections");
  verb->add_option("--boxes", arguments->boxes, "[B,Q,4] .npy, cx,cy,w,h normalised")
      ->type_name("FILE")
      ->required();
  verb->add_option("--logits", arguments->logits, "[B,Q,K] .npy")->type_name("FILE")->required();
  verb->add_option("--masks", arguments->masks, "[B,Q,h,w] .npy; without it no masks")
      ->type_name("FILE");
  verb->add_option("--image-size", arguments->image_size, "Size of the picture, HxW")
      ->type_name("HxW")
      ->required();
  verb->add_option("--class-map", arguments->class_map,
                   "MAP.json: output class id of each column, -1 drops")
      ->type_name("FILE");
  verb->add_option("--transform", arguments->transform,
                   "T.json: letterbox, centre crop, static crop")
      ->type_name("FILE");
  add_runtime_options(*verb, arguments->common);
  verb->get_option("--device")->description("auto and cpu: the CPU; cuda[:N]: a GPU");
  verb->get_option("--precision")->description("fp32, the only one here");
  verb->get_option("--threads")->description("Without effect: one thread is used");
  verb->add_option("--stats", arguments->common.stats,
                   "Write times, backend and counts as JSON to this file")
      ->type_name("FILE");
  add_like_option(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  verb->get_option("--num-select")
      ->description("Pairs of query and class considered; default: the number of queries");
  verb->get_option("--classes")
      ->description("File of class names, one a line; default: class_0, class_1, ...");
  verb->add_option("-o,--output", arguments->output, "OUT.jsonl; default: stdout")
      ->type_name("FILE");
  verb->footer(
      "Example: rfseg postprocess --boxes boxes.npy --logits logits.npy --masks masks.npy "
      "--image-size 480x640 -o out.jsonl");
  verb->callback([arguments] { run_postprocess(*arguments); });
}

}  // namespace rfseg::cli
