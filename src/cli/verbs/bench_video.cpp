// `rfseg bench --video`: what the pipeline keeps of the speed of its slowest part, at several sizes
// of one clip. Before anything is timed, the results of all ways to run it are compared byte by
// byte.

#include "cli/verbs/bench_video.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "cli/file_claims.h"
#include "cli/progress.h"
#include "cli/verbs/bench_video_clips.h"
#include "cli/verbs/bench_video_results.h"
#include "cli/verbs/bench_video_runs.h"
#include "core/files.h"
#include "media/video_io.h"
#include "pipeline/cuda_batch_runner.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

void refuse_live(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    if (!open_video(file)->info().live) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("--video: '{}' is a live stream; a video that ends is accepted", file));
  }
}

VideoSizeResults measure(const VideoBenchArguments& arguments, VideoRuns& runs, int width,
                         int height, const ScratchFolder& scratch, const VideoRuns::Tick& tick) {
  VideoSizeResults r;
  r.width = width;
  r.height = height;
  int64_t written = 0;
  r.file = clip_of_size(arguments.files, width, height, arguments.frames, scratch,
                        [&] { tick(++written, 0); });
  runs.measure(r);
  return r;
}

}  // namespace

void run_video_bench(const CommonOptions& common, const PredictOptions& predict,
                     const VideoBenchArguments& arguments) {
  FileClaims claims;
  claims.read(arguments.files);
  claims.read(arguments.read_files);
  claims.read_model(common.model);
  claims.write("the table", "-");
  claims.write("--stats", common.stats);
  const std::vector<std::pair<int, int>> sizes = parse_video_sizes(arguments.sizes);
  std::optional<OutputFile> stats;
  if (!common.stats.empty()) stats.emplace(output_path(common.stats));
  refuse_live(arguments.files);
  LoadedModel model;
  load_model(common.model, common.resolved(), model);
  check_class_count(predict.class_names.size(), model.config.logits);
  PredictOptions options = predict;
  if (!model.config.seg) options.masks = MaskFormat::kNone;

  finish_work_on_interrupt();  // the scratch folder is to go
  const ScratchFolder scratch;
  VideoBenchFacts facts;
  facts.model = &model;
  facts.cuda = dynamic_cast<const CudaEngine*>(model.engine.get());
  if (facts.cuda != nullptr) facts.clock_step_ns = gpu_clock_step_ns(facts.cuda->device());
  facts.threads = common.model_options.threads;
  facts.depth = arguments.depth;
  facts.rounds = arguments.rounds;

  std::optional<Progress> progress;
  const VideoRuns::Tick tick = [&](int64_t done, int64_t total) { progress->update(done, total); };
  VideoRuns runs(model,
                 {resolve_options(options, model.config), options.masks, arguments.depth,
                  arguments.streams, arguments.rounds, arguments.frames},
                 scratch, tick);
  std::vector<VideoSizeResults> results;
  for (const auto& [width, height] : sizes) {
    progress.emplace(fmt::format("frames of {}x{}", width, height));
    results.push_back(measure(arguments, runs, width, height, scratch, tick));
  }
  progress.reset();
  const nlohmann::json json = video_json(facts, results);
  std::fputs((arguments.json ? json.dump() + "\n" : video_table(facts, results)).c_str(), stdout);
  if (stats) {
    stats->write(json.dump(2) + "\n");
    stats->commit();
  }
}

}  // namespace rfseg::cli
