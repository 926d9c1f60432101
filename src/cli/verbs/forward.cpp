#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "cli/file_claims.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "core/files.h"
#include "core/log.h"
#include "core/npy.h"
#include "engine/two_stage.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

struct ForwardArguments {
  CommonOptions common;
  std::string input, output, topk;
  bool trace = false;
};

// The points that --trace names.
bool is_traced(const std::string& file) {
  std::string_view name = file;
  if (!name.ends_with(".npy")) return false;
  name.remove_suffix(4);
  for (const char* point : {"embed", "enc_score", "topk", "ref", "hs", "mask_features"}) {
    if (name == point) return true;
  }
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size()) return false;
  name = name.substr(0, digits);
  return name == "block" || name == "tap" || name == "memory" || name == "decoder";
}

void claim_files(const ForwardArguments& arguments,
                 const std::function<std::string(const std::string&)>& path) {
  FileClaims claims;
  claims.read({arguments.input, arguments.topk});
  claims.read_model(arguments.common.model);
  for (const char* name : {"boxes", "logits", "masks"}) claims.write("-o", path(name));
  if (arguments.trace) {
    claims.write_family("--trace", arguments.output, path("*"), is_traced);
  }
  claims.write("--stats", arguments.common.stats);
}

/// Before anything is written: the engine would find out in the middle of its work.
void refuse_unknown_cells(const ModelConfig& config, const IntArray& topk, int batch,
                          const std::string& file) {
  const int64_t cells = make_proposals(config).count;
  for (int image = 0; image < batch; ++image) {
    try {
      choose_queries(config, topk.data.data(), image, nullptr, cells);
    } catch (const Error& error) {
      throw Error(ErrorCode::kInput, fmt::format("{}: {}", file, error.what()));
    }
  }
}

void run_forward(const ForwardArguments& arguments) {
  refuse_dash(arguments.output, "-o", "a folder");
  refuse_missing_folder(arguments.common.stats, "--stats", arguments.output);
  const auto path = [&](const std::string& name) {
    return (std::filesystem::path(arguments.output) / (name + ".npy")).string();
  };
  claim_files(arguments, path);
  ModelOptions options = arguments.common.resolved();
  if (arguments.trace) {
    // The fast CPU path has no named points.
    if (options.backend == Backend::kCpu) {
      throw Error(ErrorCode::kUsage, "--trace runs on --backend reference or on --device cuda");
    }
    const bool gpu = options.backend == Backend::kCuda || options.device.starts_with("cuda");
    if (!gpu) options.backend = Backend::kReference;
  }
  LoadedModel model;
  load_model(arguments.common.model, options, model);
  const ModelConfig& config = model.config;

  Tensor input = read_npy(arguments.input);
  if (input.shape.size() == 3) input.shape.insert(input.shape.begin(), 1);  // one picture
  const Shape expected = {input.shape.empty() ? 1 : input.shape[0], 3, config.height, config.width};
  if (input.shape != expected || expected[0] < 1) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: shape {}, expected [B, 3, {}, {}], B at least 1 (--shape changes "
                            "the network's input)",
                            arguments.input, to_string(input.shape), config.height, config.width));
  }
  const int batch = static_cast<int>(expected[0]);
  for (std::size_t i = 0; i < input.data.size(); ++i) {
    if (std::isfinite(input.data[i])) continue;
    throw Error(ErrorCode::kInput, fmt::format("{}: value {} is {}; finite ones are accepted",
                                               arguments.input, i, input.data[i]));
  }
  ForwardOptions forward;
  IntArray topk;
  if (!arguments.topk.empty()) {
    topk = read_npy_int(arguments.topk);
    const Shape want = {batch, config.queries};
    if (topk.shape != want && !(batch == 1 && topk.shape == Shape{config.queries})) {
      throw Error(ErrorCode::kInput, fmt::format("{}: shape {}, expected {}", arguments.topk,
                                                 to_string(topk.shape), to_string(want)));
    }
    refuse_unknown_cells(config, topk, batch, arguments.topk);
    forward.forced_topk = topk.data.data();
  }
  create_folder(arguments.output);
  if (arguments.trace) {
    forward.trace = [&](const std::string& name, const Tensor& value) {
      if (name != "topk") return write_npy(path(name), value.data.data(), value.shape);
      // As integers, so that the file can be given to --topk.
      const std::vector<int32_t> indices(value.data.begin(), value.data.end());
      write_npy(path(name), indices.data(), value.shape);
    };
  }
  EngineOutputs outputs;
  const auto start = std::chrono::steady_clock::now();
  model.engine->forward(input.data.data(), batch, outputs, forward);
  const double network_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  write_npy(path("boxes"), outputs.boxes.data.data(), outputs.boxes.shape);
  write_npy(path("logits"), outputs.logits.data.data(), outputs.logits.shape);
  if (!outputs.masks.empty())
    write_npy(path("masks"), outputs.masks.data.data(), outputs.masks.shape);
  log_info(fmt::format("{}: batch {} in {} on the {} backend", config.variant, batch,
                       human_seconds(network_ms / 1000), model.info.backend));
  if (!arguments.common.stats.empty()) {
    nlohmann::json stats = runtime_json(model.info, options.threads);
    stats["command"] = "forward";
    stats["batch"] = batch;
    stats["stages"] = {{{"name", "load"}, {"total_ms", model.open_ms + model.pack_ms}},
                       {{"name", "network"}, {"total_ms", network_ms}}};
    stats["peak_rss_bytes"] = peak_rss_bytes();
    write_file(output_path(arguments.common.stats), stats.dump(2) + "\n");
  }
}

}  // namespace

void add_forward(CLI::App& app) {
  auto arguments = std::make_shared<ForwardArguments>();
  CLI::App* verb = app.add_subcommand("forward", "Run the network alone on normalised pixels");
  add_model_options(*verb, arguments->common);
  verb->add_option("--input", arguments->input, "float32 [B,3,H,W] .npy, already normalised")
      ->type_name("FILE")
      ->required();
  verb->add_option("-o,--output", arguments->output, "Folder for boxes.npy, logits.npy, masks.npy")
      ->type_name("DIR")
      ->required();
  verb->add_flag("--trace", arguments->trace,
                 "Also write every named intermediate point, through the path without rewrites");
  verb->add_option("--topk", arguments->topk, "int32 [B,Q] .npy: forces the two-stage selection")
      ->type_name("FILE");
  verb->footer("Example: rfseg forward -m model.pth --input x.npy -o out --trace");
  verb->callback([arguments] { run_forward(*arguments); });
}

}  // namespace rfseg::cli
