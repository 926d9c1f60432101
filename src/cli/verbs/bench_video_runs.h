#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/input_set.h"
#include "cli/verbs/bench_video_clips.h"
#include "cli/verbs/bench_video_results.h"
#include "output/results.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"

namespace rfseg::cli {

/// Some frames again and again, from wherever they are held.
class PreloadedSource : public FrameSource {
 public:
  PreloadedSource(const std::vector<SourceFrame>& frames, int64_t count)
      : frames_(frames), count_(count) {}
  bool next(SourceFrame& frame) override;
  /// When the last frame was handed over.
  std::chrono::steady_clock::time_point handed() const { return handed_; }

 private:
  const std::vector<SourceFrame>& frames_;
  int64_t count_, at_ = 0;
  std::chrono::steady_clock::time_point handed_;
};

/// Runs a model over clips in every way there is to run it, compares the bytes that these give, and
/// takes their times. Throws Error(kInput) where they do not give the same bytes, and
/// Error(kCancelled) when the user has interrupted the program.
class VideoRuns {
 public:
  struct Settings {
    ResolvedOptions resolved;
    MaskFormat masks = MaskFormat::kRle;
    int depth = 2, streams = 0, rounds = 1;
    int frames = 600;  ///< of a run, at least
  };
  /// Is told how many frames are done of how many that a clip takes in all.
  using Tick = std::function<void(int64_t done, int64_t total)>;

  /// `model`, and `scratch`, where results are written to, outlive it.
  VideoRuns(const LoadedModel& model, Settings settings, const ScratchFolder& scratch, Tick tick);

  /// Everything about the clip of `r`, whose file and size are set.
  void measure(VideoSizeResults& r);

 private:
  using Consume = std::function<void(PipelineFrame&)>;
  struct Way {
    std::string name;
    int64_t frames = 0;
    std::function<void(const Way&)> run;
  };
  struct ComparedWay {
    std::string name;
    int64_t frames = 0;
    std::function<std::vector<std::string>()> lines;
  };

  InputOptions input_options(VideoDecoder decoder) const;
  std::unique_ptr<InputSource> open(const std::string& file, VideoDecoder decoder,
                                    int repeats = 1) const;
  InputSet inputs(const std::string& file, VideoDecoder decoder, int repeats = 1,
                  int streams = 1) const;
  bool has_nvdec(const std::string& file) const;
  std::vector<SourceFrame> preload(const std::string& file, HeldPixels::Place place) const;
  void look_at(VideoSizeResults& r);

  PipelineStats pipeline(FrameSource& source, int depth, const Consume& consume,
                         bool frame_times = false);
  std::vector<std::string> lines(FrameSource& source, int depth);
  std::vector<ComparedWay> ways_to_compare(const VideoSizeResults& r);
  void gate(VideoSizeResults& r, const std::vector<ComparedWay>& ways);

  std::vector<Way> ways_to_time(VideoSizeResults& r);
  std::vector<Way> ways_to_trace(VideoSizeResults& r);
  void time_decoding(VideoSizeResults& r, const Way& way, VideoDecoder decoder);
  void time_run(VideoSizeResults& r, const Way& way, FrameSource& source, int depth);
  void time_latency(VideoSizeResults& r, int64_t frames);
  void trace(VideoSizeResults& r, const Way& way, FrameSource& source, int depth);
  double ceiling(std::size_t runners) const;
  void tick() { tick_(++done_, total_); }

  const LoadedModel& model_;
  Settings settings_;
  const ScratchFolder& scratch_;
  Tick tick_;
  CudaEngine* cuda_ = nullptr;  ///< the model's, or null
  int repeats_ = 1;             ///< of the clip in a run
  int64_t preloaded_frames_ = 0, done_ = 0, total_ = 0;
  std::vector<SourceFrame> pinned_, device_;
};

}  // namespace rfseg::cli
