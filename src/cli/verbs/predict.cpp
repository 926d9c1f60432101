#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/file_claims.h"
#include "cli/image_ids.h"
#include "cli/input_set.h"
#include "cli/interruption.h"
#include "cli/options.h"
#include "cli/overlay_files.h"
#include "cli/path_list.h"
#include "cli/progress.h"
#include "cli/verbs.h"
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

// A .json is always a COCO array and a .jsonl always JSON lines: whoever reads them relies on it.
bool wants_coco(const PredictArguments& arguments) {
  const std::string extension = std::filesystem::path(arguments.output).extension().string();
  const bool array = extension == ".json", lines = extension == ".jsonl";
  if (!arguments.format.empty()) {
    const bool coco = arguments.format == "coco";
    if (coco ? lines : array) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--format {} and -o {}: the name says {}; leave out --format or name "
                              "the file {}",
                              arguments.format, arguments.output, coco ? "JSON lines" : "COCO",
                              coco ? ".json" : ".jsonl"));
    }
    return coco;
  }
  if (array) return true;
  if (lines || arguments.output == "-") return false;
  std::error_code ignored;
  if (std::filesystem::exists(arguments.output, ignored) &&
      !std::filesystem::is_regular_file(arguments.output, ignored)) {
    return false;  // a pipe or /dev/stdout: as stdout
  }
  throw Error(
      ErrorCode::kUsage,
      fmt::format("-o {}: the name says neither .jsonl nor .json; choose with --format jsonl|coco",
                  arguments.output));
}

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

// Their number is not known before the work is done, their names are.
void claim_dense_masks(const PredictArguments& arguments, FileClaims& claims) {
  namespace fs = std::filesystem;
  const std::string& output = arguments.output;
  std::error_code ignored;
  if (fs::exists(output, ignored) && !fs::is_regular_file(output, ignored)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--masks dense: writes PNG files next to OUT, and -o {} is no file; "
                            "name one that is",
                            output));
  }
  const std::string folder = fs::path(output).parent_path().string();
  claims.write_family("--masks dense", folder, dense_mask_pattern(output),
                      [output](const std::string& name) { return is_dense_mask(output, name); });
  for (const std::string& input : arguments.inputs) {
    if (!fs::is_directory(input, ignored) ||
        !fs::equivalent(input, folder.empty() ? "." : folder, ignored)) {
      continue;
    }
    log_warning(
        fmt::format("--masks dense: the masks go into the input folder {}; a later run "
                    "over it takes them for pictures",
                    input));
  }
}

// Two pictures with one id would be evaluated as one. One without an id fails alone, later.
ImageIds ids_of(const PredictArguments& arguments, const std::vector<Input>& inputs) {
  if (!wants_coco(arguments)) {
    throw Error(ErrorCode::kUsage,
                "--image-ids: belongs to --format coco (an OUT that ends in .json)");
  }
  ImageIds ids(read_image_ids(arguments.image_ids));
  std::map<int64_t, std::string> files;
  for (const Input& input : inputs) {
    if (input.kind != InputKind::kImage || !input.error.empty()) continue;
    int64_t id = 0;
    try {
      id = ids.of(input.path);
    } catch (const Error&) {
      continue;
    }
    const auto [other, is_new] = files.emplace(id, input.path);
    if (is_new) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("--image-ids {}: {} and {} would both have the image_id {}; name "
                            "pictures there by as much of their paths as tells them apart",
                            arguments.image_ids, other->second, input.path, id));
  }
  return ids;
}

// Scripts give them for whatever comes, so that they are no errors.
void warn_of_video_options(const CLI::App& verb, const std::vector<Input>& inputs) {
  const auto is_video = [](const Input& input) { return input.kind == InputKind::kVideo; };
  if (std::any_of(inputs.begin(), inputs.end(), is_video)) return;
  for (const char* option : {"--every", "--start", "--end", "--decoder", "--streams",
                             "--max-wait-ms", "--timeout", "--reconnect"}) {
    if (verb.count(option) > 0) {
      log_warning(fmt::format("{}: without effect, as no input is a video", option));
    }
  }
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
  if (!arguments.image_ids.empty()) ids = ids_of(arguments, inputs);

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

void add_input_options(CLI::App& verb, PredictArguments& arguments) {
  verb.add_option(
          "inputs", arguments.inputs,
          "Pictures, folders of them, videos, their URLs, /dev/videoN, or - for a list of paths on "
          "stdin")
      ->type_name("INPUT");
  verb.add_flag("--no-exif", arguments.no_exif, "Do not turn pictures upright");
  add_integer(verb, "--every", 1, 1000000000, arguments.input.video.every,
              "Video: every Nth frame (1)");
  add_number(
      verb, "--start", 0, 1e18, [&](double value) { arguments.input.video.start_s = value; },
      "Video: from this second (0)");
  add_number(
      verb, "--end", 0, 1e18, [&](double value) { arguments.input.video.end_s = value; },
      "Video: up to this second (its end)");
  add_choice<std::string>(
      verb, "--decoder", {{"auto", "auto"}, {"cpu", "cpu"}, {"nvdec", "nvdec"}},
      [&](const std::string& value) { arguments.decoder = value; },
      "Video: nvdec decodes on the GPU, cpu on the processors, auto (default) where it is "
      "faster");
  add_integer(verb, "--batch", 1, 1024, arguments.pipeline.batch,
              "Pictures that go through the network together (1)");
  add_integer(verb, "--depth", 1, 64, arguments.pipeline.depth,
              "Batches in flight (default 2; 1 = one stage after another)");
  add_integer(verb, "--streams", 0, 1024, arguments.streams,
              "Videos read at once, whose results then come as they are ready, each video's in its "
              "order; default: all live streams, files one after another");
  add_integer(verb, "--max-wait-ms", 0, 1000000, arguments.pipeline.max_wait_ms,
              "Live streams: longest wait for a batch (20)");
  add_number(
      verb, "--timeout", 0.1, 1e6, [&](double value) { arguments.input.video.timeout_s = value; },
      "Live streams and URLs of videos: seconds without a picture that count as broken off "
      "(default 30)");
  add_number(
      verb, "--reconnect", 0, 1e6, [&](double value) { arguments.input.video.reconnect_s = value; },
      "Live streams: seconds without a picture in which to connect again (default 30; 0 = never)");
}

void add_output_options(CLI::App& verb, PredictArguments& arguments) {
  verb.add_option("-o,--output", arguments.output,
                  "Results: .jsonl, or .json for COCO's form; default (-): JSON lines on stdout")
      ->type_name("FILE");
  add_choice<std::string>(
      verb, "--format", {{"jsonl", "jsonl"}, {"coco", "coco"}},
      [&](const std::string& value) { arguments.format = value; },
      "Default: by the name of -o; on stdout jsonl");
  add_choice<MaskFormat>(
      verb, "--masks",
      {{"rle", MaskFormat::kRle},
       {"polygon", MaskFormat::kPolygon},
       {"dense", MaskFormat::kDense},
       {"none", MaskFormat::kNone}},
      [&](MaskFormat value) { arguments.predict.masks = value; },
      "rle (default): COCO run lengths; dense: a PNG for each object, next to the file of -o");
  verb.add_option("--image-ids", arguments.image_ids,
                  "COCO instances .json whose file names give the image ids; default: they count "
                  "from 1, and "
                  "a list goes to OUT.images.json")
      ->type_name("FILE");
  verb.add_option("--overlay", arguments.overlay, "Folder for annotated pictures and videos")
      ->type_name("DIR");
  verb.add_option("--report", arguments.report, "Self-contained HTML page of the results")
      ->type_name("FILE");
  verb.add_option("--report-title", arguments.report_title, "Title of the page (rfseg results)");
  verb.add_option("--report-notice", arguments.report_notice,
                  "A statement shown first on the page");
}

}  // namespace

void add_predict(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<PredictArguments>();
  CLI::App* verb =
      app.add_subcommand("predict", "Find objects and their masks in pictures and video");
  add_model_options(*verb, arguments->common);
  add_input_options(*verb, *arguments);
  add_convention_options(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  add_output_options(*verb, *arguments);
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
