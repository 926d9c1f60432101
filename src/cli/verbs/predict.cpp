#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/input_set.h"
#include "cli/interruption.h"
#include "cli/options.h"
#include "cli/overlay_files.h"
#include "cli/path_list.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "cli/verbs/predict_parts.h"
#include "core/cpu.h"
#include "core/files.h"
#include "core/log.h"
#include "core/statistics.h"
#include "media/image_io.h"
#include "output/dense_masks.h"
#include "output/report.h"
#include "output/results.h"
#include "pipeline/batch_runner.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

std::unique_ptr<ResultWriter> create_writer(const PredictArguments& arguments,
                                            const std::vector<std::string>& class_names,
                                            ImageIds ids) {
  const bool coco = wants_coco(arguments);
  if (!coco) {
    return create_jsonl_writer(arguments.output, class_names, arguments.predict.masks);
  }
  if (arguments.output == "-") {
    throw Error(ErrorCode::kUsage, "--format coco: needs a file (-o OUT.json)");
  }
  return create_coco_writer(arguments.output, std::move(ids), arguments.predict.masks);
}

nlohmann::json stage_json(const char* name, double total_ms, int64_t frames, double wall_ms) {
  return {{"name", name},
          {"total_ms", total_ms},
          {"mean_ms", frames > 0 ? total_ms / static_cast<double>(frames) : 0},
          {"share", wall_ms > 0 ? total_ms / wall_ms : 0}};
}

// What the GPU did, by its own clock, and whose memory is how much.
nlohmann::json gpu_json(const Engine& engine, const PipelineStats& stats) {
  const EngineDevice device = engine_device(engine);
  nlohmann::json json = {{"name", device.name},
                         {"kernels", device.kernels},
                         {"memory_used_bytes", device.memory_used}};
  if (!stats.gpu.measured()) return json;
  const Distribution gaps = Distribution::of(stats.gpu.gaps_us);
  json["busy_ms"] = stats.gpu.busy_ms;
  json["busy_share"] = stats.wall_ms > 0 ? stats.gpu.busy_ms / stats.wall_ms : 0;
  if (gaps.count > 0) {
    json["idle_gap_us"] = {{"p50", gaps.p50}, {"p90", gaps.p90}, {"p99", gaps.p99}};
  }
  return json;
}

// The stage that all others wait for: the one that is at work most of the time. On a GPU its three
// stages are one.
std::string slowest_stage(const PipelineStats& stats, double encode_ms) {
  std::vector<std::pair<double, std::string>> stages = {
      {stats.busy.decode_ms, "decode"}, {stats.sink_ms, "output"}, {encode_ms, "encode"}};
  if (stats.gpu.measured()) {
    stages.emplace_back(stats.gpu.busy_ms, "gpu");
  } else {
    stages.emplace_back(stats.busy.preprocess_ms, "preprocess");
    stages.emplace_back(stats.busy.network_ms, "network");
    stages.emplace_back(stats.busy.postprocess_ms, "postprocess");
  }
  return std::max_element(stages.begin(), stages.end())->second;
}

/// Where the results go, as one calls it.
std::vector<std::string> result_names(const PredictArguments& arguments) {
  std::vector<std::string> names;
  names.push_back(arguments.output == "-" ? "standard output" : arguments.output);
  for (const std::string& name : {arguments.overlay, arguments.report}) {
    if (!name.empty()) names.push_back(name);
  }
  return names;
}

std::string stats_text(const PredictArguments& arguments, const LoadedModel& model,
                       const PipelineStats& stats, int64_t detections, const InputSet& inputs,
                       const OverlayFiles* overlay, bool ended_early) {
  const double encode_ms = overlay != nullptr ? overlay->encode_ms() : 0;
  nlohmann::json json = runtime_json(model.info, arguments.common.model_options.threads);
  json["command"] = "predict";
  json["interrupted"] = ended_early;
  json["model"] = {{"variant", model.info.variant},
                   {"height", model.info.height},
                   {"width", model.info.width},
                   {"memory_bytes", model.info.memory_bytes}};
  json["counts"] = {{"frames", stats.frames},
                    {"failed", stats.failed},
                    {"detections", detections},
                    {"batches", stats.batches},
                    {"broken_frames", inputs.broken_frames()},
                    {"dropped", inputs.dropped()},
                    {"reconnects", inputs.reconnects()}};
  json["stages"] = {
      stage_json("load", model.open_ms + model.pack_ms, 1, stats.wall_ms),
      stage_json("decode", stats.busy.decode_ms, stats.frames, stats.wall_ms),
      stage_json("preprocess", stats.busy.preprocess_ms, stats.frames, stats.wall_ms),
      stage_json("network", stats.busy.network_ms, stats.frames, stats.wall_ms),
      stage_json("postprocess", stats.busy.postprocess_ms, stats.frames, stats.wall_ms),
      stage_json("output", stats.sink_ms, stats.frames, stats.wall_ms),
      stage_json("encode", encode_ms, stats.frames, stats.wall_ms)};
  // "decode" is what is waited for; pictures are decoded ahead meanwhile, by several threads.
  json["picture_work_ms"] = static_cast<double>(inputs.picture_work_us()) * 1e-3;
  json["slowest_stage"] = slowest_stage(stats, encode_ms);
  json["queues"] = {{"input_max", stats.input_queue.max},
                    {"input_mean", stats.input_queue.mean},
                    {"output_max", stats.output_queue.max},
                    {"output_mean", stats.output_queue.mean},
                    {"encode_max", overlay != nullptr ? overlay->queue_max() : 0},
                    {"depth", arguments.pipeline.depth}};
  if (const nlohmann::json streams = inputs.streams(); !streams.empty()) json["streams"] = streams;
  if (engine_device(*model.engine).gpu) json["gpu"] = gpu_json(*model.engine, stats);
  json["memory"] = nlohmann::json::array();
  for (const MemoryNote& note : stats.memory) {
    json["memory"].push_back({{"frame", note.frame},
                              {"host_bytes", note.host_bytes},
                              {"device_bytes", note.device_bytes}});
  }
  json["overlay_encode_ms"] = encode_ms;
  json["wall_ms"] = stats.wall_ms;
  json["frames_per_s"] =
      stats.wall_ms > 0 ? 1000.0 * static_cast<double>(stats.frames) / stats.wall_ms : 0;
  json["peak_rss_bytes"] = peak_rss_bytes();
  // A file's name may be no UTF-8.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::unique_ptr<ReportWriter> open_report(const PredictArguments& arguments,
                                          const LoadedModel& model,
                                          const std::vector<std::string>& class_names) {
  if (arguments.report.empty()) return nullptr;
  ReportOptions options;
  options.title = arguments.report_title.empty() ? "rfseg results" : arguments.report_title;
  options.notice = arguments.report_notice;
  options.facts = {{"model", arguments.common.model},
                   {"variant", model.info.variant},
                   {"network input", fmt::format("{} x {}", model.info.width, model.info.height)},
                   {"device", model.info.device},
                   {"backend", model.info.backend},
                   {"precision", model.info.precision}};
  options.class_names = class_names;
  options.encode_jpeg = [](const ImageView& view, int quality) {
    return encode_jpeg(view, quality);
  };
  return create_report(arguments.report, std::move(options));
}

// The choice of auto. Where the picture is drawn on, it has to come to the host anyway. A file
// alone is decoded by one unit of the GPU, which is as fast as eight processors, unless it lets
// several share the work; several files at once by all units.
VideoDecoder automatic_decoder(const PredictArguments& arguments,
                               const std::vector<Input>& inputs) {
  constexpr int kEnoughProcessors = 12;
  if (arguments.pipeline.keep_images) return VideoDecoder::kCpu;
  const bool live = std::any_of(inputs.begin(), inputs.end(), [](const Input& input) {
    return input.path.find("://") != std::string::npos || input.path.starts_with("/dev/");
  });
  const bool always = arguments.streams > 1 || live || available_cpus() < kEnoughProcessors;
  return always ? VideoDecoder::kAuto : VideoDecoder::kWhereFaster;
}

void choose_decoder(PredictArguments& arguments, const std::vector<Input>& inputs,
                    const Engine& engine) {
  const EngineDevice device = engine_device(engine);
  VideoOptions& video = arguments.input.video;
  if (arguments.decoder == "nvdec" && !device.gpu) {
    throw Error(ErrorCode::kDevice,
                "--decoder nvdec: needs a network on a GPU (--device cuda); this one runs on the "
                "CPU");
  }
  if (!device.gpu || arguments.decoder == "cpu") return;
  video.cuda_device = device.number;
  video.decoder =
      arguments.decoder == "nvdec" ? VideoDecoder::kNvdec : automatic_decoder(arguments, inputs);
}

void run_predict(PredictArguments& arguments, const CLI::App& verb, int& exit_code) {
  if (arguments.output.empty() || arguments.output == "/dev/stdout") arguments.output = "-";
  refuse_dash(arguments.overlay, "--overlay", "a folder");
  arguments.report = output_path(arguments.report);
  arguments.common.stats = output_path(arguments.common.stats);
  if (arguments.predict.masks == MaskFormat::kDense && arguments.output == "-") {
    throw Error(ErrorCode::kUsage, "--masks dense: writes PNG files next to OUT; name it with -o");
  }
  if (arguments.inputs.empty()) throw Error(ErrorCode::kUsage, "predict: no INPUT given");
  const bool list = wants_coco(arguments) && arguments.image_ids.empty();
  const std::vector<std::pair<std::string, std::string>> outputs = {
      {"-o", arguments.output},
      {"-o (its list of pictures)", list ? arguments.output + ".images.json" : ""},
      {"--report", arguments.report},
      {"--stats", arguments.common.stats}};
  std::vector<Input> inputs = inputs_of(arguments.inputs);
  if (inputs.empty()) throw Error(ErrorCode::kInput, "the list of inputs is empty");
  warn_of_video_options(verb, inputs);
  if (arguments.input.video.end_s >= 0 &&
      arguments.input.video.start_s >= arguments.input.video.end_s) {
    throw Error(ErrorCode::kUsage, "--start and --end: the start must lie before the end");
  }
  FileClaims claims;
  claims.read(arguments.read_files);
  claims.read_model(arguments.common.model);
  claims.read(arguments.image_ids);
  for (const std::string& argument : arguments.inputs) {
    if (argument == "-") claims.read(argument);
  }
  for (const Input& input : inputs) claims.read(input.path);
  for (const auto& [option, path] : outputs) claims.write(option, path);
  if (arguments.predict.masks == MaskFormat::kDense) claim_dense_masks(arguments, claims);
  // Names are found before the model is read, which may take long.
  std::unique_ptr<OverlayFiles> overlay;
  if (!arguments.overlay.empty()) {
    overlay = std::make_unique<OverlayFiles>(arguments.overlay, claims);
    for (const Input& input : inputs) overlay->expect(input.path, input.kind == InputKind::kVideo);
  }

  for (const auto& [option, path] : outputs) {
    refuse_missing_folder(path, option.c_str(), arguments.overlay);
  }

  ImageIds ids;
  if (!arguments.image_ids.empty()) ids = image_ids_of(arguments, inputs);

  LoadedModel model;
  load_model(arguments.common.model, arguments.common.resolved(), model);
  if (!model.config.seg && arguments.predict.masks != MaskFormat::kNone) {
    log_message(verb.count("--masks") > 0 ? LogLevel::kWarning : LogLevel::kDebug,
                fmt::format("{} is a detection model: no masks", model.info.variant));
    arguments.predict.masks = MaskFormat::kNone;
  }
  check_class_count(arguments.predict.class_names.size(), model.config.logits);
  const ResolvedOptions resolved = resolve_options(arguments.predict, model.config);

  // Every output is opened before the work starts: a full disk or a typing error shows at once.
  if (overlay) {
    create_folder(arguments.overlay);
    overlay->set_class_names(resolved.class_names);
  }
  std::unique_ptr<ResultWriter> writer =
      create_writer(arguments, resolved.class_names, std::move(ids));
  std::unique_ptr<ReportWriter> report = open_report(arguments, model, resolved.class_names);
  std::unique_ptr<OutputFile> stats_file;
  if (!arguments.common.stats.empty()) {
    stats_file = std::make_unique<OutputFile>(arguments.common.stats);
  }
  std::unique_ptr<DenseMaskWriter> dense;
  if (arguments.predict.masks == MaskFormat::kDense) {
    dense = std::make_unique<DenseMaskWriter>(
        arguments.output,
        [](const uint8_t* pixels, int w, int h) { return encode_png(pixels, w, h, 1); });
  }

  arguments.input.image.apply_exif = !arguments.no_exif;
  arguments.input.cancelled = interrupted;
  arguments.pipeline.cancelled = interrupted;
  arguments.pipeline.keep_images = overlay != nullptr || report != nullptr;
  choose_decoder(arguments, inputs, *model.engine);
  arguments.pipeline.memory = stats_file != nullptr;
  arguments.pipeline.stage_times = stats_file != nullptr || report != nullptr;
  InputSet input_set(inputs, arguments.input, arguments.streams, *model.engine);
  FrameSource& source = input_set.source();
  Progress progress("frames");
  int64_t done = 0, detections = 0, refused = 0;
  std::map<int, int64_t> of_stream;  // frames that came
  finish_work_on_interrupt();
  PipelineStats stats =
      run_pipeline(*model.engine, source, resolved, arguments.pipeline, [&](PipelineFrame& frame) {
        progress.update(++done, source.estimated_total());
        if (overlay) {
          for (const int stream : overlay->open_streams()) {
            if (input_set.ended(stream, of_stream[stream])) overlay->end_stream(stream);
          }
          ++of_stream[frame.stream];
        }
        if (!frame.error.empty()) {
          log_message(LogLevel::kError, frame.error);
          return;
        }
        if (dense) dense->write(frame.record);
        try {
          writer->write(frame.record);
        } catch (const Error& error) {
          // A picture that has no place in the results (its name has no image id) fails alone.
          if (error.code() != ErrorCode::kInput) throw;
          log_message(LogLevel::kError, error.what());
          ++refused;
          return;
        }
        detections += static_cast<int64_t>(frame.record.detections.items.size());
        if (report) {
          report->add(frame.image, frame.record,
                      {{"wait for the picture", frame.times.decode_ms},
                       {"preprocess", frame.times.preprocess_ms},
                       {"network", frame.times.network_ms},
                       {"postprocess", frame.times.postprocess_ms}});
        }
        if (overlay) overlay->write(std::move(frame.image), frame.record, frame.stream);
      });
  progress.clear();
  const bool ended_early = interrupted();  // what comes now is no loss
  const bool pictures = std::all_of(inputs.begin(), inputs.end(), [](const Input& input) {
    return input.kind == InputKind::kImage;
  });
  Interruption interruption{done, source.estimated_total(), pictures};
  input_set.close();
  stats.frames -= refused;
  stats.failed += refused + input_set.cut_short();
  if (ended_early) {
    if (stats.frames == 0) interruption.done = 0;
    log_warning(tell_interruption(interruption, result_names(arguments)));
    exit_code = static_cast<int>(ErrorCode::kCancelled);
  }
  if (stats.frames == 0 && (stats.failed > 0 || ended_early)) {
    // What an earlier run left under these names is worth more than nothing.
    if (!ended_early) exit_code = static_cast<int>(ErrorCode::kInput);
    return;
  }
  if (overlay) overlay->finish();
  writer->finish();
  if (report) report->finish(ended_early ? tell_interruption(interruption) : "");
  if (stats_file) {
    stats_file->write(
        stats_text(arguments, model, stats, detections, input_set, overlay.get(), ended_early));
    stats_file->commit();
  }
  if (input_set.broken_frames() > 0) {
    log_warning(fmt::format("{} broken video frame(s) skipped", input_set.broken_frames()));
  }
  if (input_set.dropped() > 0) {
    log_warning(
        fmt::format("{} frame(s) of live streams dropped for newer ones", input_set.dropped()));
  }
  log_info(fmt::format(
      "{} frame(s), {} detection(s) in {} ({:.1f}/s){}", stats.frames, detections,
      human_seconds(stats.wall_ms / 1000),
      stats.wall_ms > 0 ? 1000.0 * static_cast<double>(stats.frames) / stats.wall_ms : 0,
      stats.failed > 0 ? fmt::format(", {} input(s) failed", stats.failed) : ""));
  if (!ended_early && stats.failed > 0) exit_code = static_cast<int>(ErrorCode::kPartial);
}

}  // namespace

void add_predict(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<PredictArguments>();
  CLI::App* verb =
      app.add_subcommand("predict", "Find objects and their masks in pictures and video");
  add_model_options(*verb, arguments->common);
  add_predict_input_options(*verb, *arguments);
  add_convention_options(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  add_predict_output_options(*verb, *arguments);
  verb->footer(
      "Example: rfseg predict -m model.pth photos/ clip.mp4 -o results.jsonl --overlay out "
      "--report out/report.html");
  verb->callback([arguments, verb, &exit_code] {
    // An empty title, as from a script, says nothing.
    if (arguments->report.empty() &&
        !(arguments->report_title + arguments->report_notice).empty()) {
      refuse_options(*verb, {"--report-title", "--report-notice"}, "needs --report FILE");
    }
    run_predict(*arguments, *verb, exit_code);
  });
}

}  // namespace rfseg::cli
