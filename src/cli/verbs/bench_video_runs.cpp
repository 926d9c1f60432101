#include "cli/verbs/bench_video_runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "cli/common.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/gpu_yardsticks.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

using Clock = std::chrono::steady_clock;
using Place = HeldPixels::Place;

constexpr std::size_t kPreloaded = 24;  ///< frames that are held in memory

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// Rate of what comes one by one: the first tenth is left out, what follows the last is not.
class RateMeter {
 public:
  explicit RateMeter(int64_t frames) : skipped_(frames / 10), start_(Clock::now()) {}
  void count() {
    if (++seen_ == 1) first_ = Clock::now();
    if (seen_ == skipped_ + 1) from_ = Clock::now();
  }
  void add_to(VideoRow& row) const {
    row.rates.push_back(static_cast<double>(seen_ - skipped_ - 1) / seconds(from_, Clock::now()));
    row.start_ms = 1000 * seconds(start_, first_);
  }

 private:
  int64_t skipped_, seen_ = 0;
  Clock::time_point start_, first_, from_;
};

void compare(const std::vector<std::string>& expected, const std::vector<std::string>& found,
             std::size_t count, const std::string& what) {
  if (found.size() < count || expected.size() < count) {
    throw Error(ErrorCode::kInput,
                fmt::format("bench --video: {} gave {} frames of {}", what, found.size(), count));
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (found[i] == expected[i]) continue;
    throw Error(ErrorCode::kInput,
                fmt::format("bench --video: {} gave other bytes than one frame at a time for "
                            "frame {}; no speeds are printed",
                            what, i));
  }
}

std::vector<Input> repeated(const std::string& file, int times) {
  return std::vector<Input>(static_cast<std::size_t>(times), Input{file, InputKind::kVideo, ""});
}

template <class Ways>
int64_t frames_of(const Ways& ways) {
  return std::accumulate(ways.begin(), ways.end(), int64_t{0},
                         [](int64_t sum, const auto& way) { return sum + way.frames; });
}

}  // namespace

bool PreloadedSource::next(SourceFrame& frame) {
  if (at_ == count_) return false;
  const SourceFrame& from = frames_[static_cast<std::size_t>(at_) % frames_.size()];
  frame.file = from.file;
  frame.frame = at_++;
  frame.time_s.reset();
  frame.view = from.view;
  frame.held = from.held;
  frame.error.clear();
  handed_ = Clock::now();
  return true;
}

VideoRuns::VideoRuns(const LoadedModel& model, Settings settings, const ScratchFolder& scratch,
                     Tick tick)
    : model_(model),
      settings_(std::move(settings)),
      scratch_(scratch),
      tick_(std::move(tick)),
      cuda_(dynamic_cast<CudaEngine*>(model.engine.get())) {}

// --- the clip ---

InputOptions VideoRuns::input_options(VideoDecoder decoder) const {
  InputOptions options;
  options.cancelled = interrupted;
  options.video.decoder = decoder;
  options.video.cuda_device = cuda_ != nullptr ? cuda_->device() : 0;
  return options;
}

std::unique_ptr<InputSource> VideoRuns::open(const std::string& file, VideoDecoder decoder,
                                             int repeats) const {
  return std::make_unique<InputSource>(repeated(file, repeats), input_options(decoder));
}

/// As `predict` reads it.
InputSet VideoRuns::inputs(const std::string& file, VideoDecoder decoder, int repeats,
                           int streams) const {
  return InputSet(repeated(file, repeats), input_options(decoder), streams, *model_.engine);
}

/// Whether the GPU's decoder takes the clip.
bool VideoRuns::has_nvdec(const std::string& file) const {
  if (cuda_ == nullptr) return false;
  VideoOptions options;
  options.decoder = VideoDecoder::kAuto;
  options.cuda_device = cuda_->device();
  const auto reader = open_video(file, options);
  VideoFrame frame;
  return reader->read(frame) && frame.held.on_device();
}

/// The first frames of the clip as RGB, in `place`.
std::vector<SourceFrame> VideoRuns::preload(const std::string& file, Place place) const {
  PicturePool pool(host_allocator(*model_.engine));
  std::vector<SourceFrame> frames;
  const auto source = open(file, VideoDecoder::kCpu);
  SourceFrame frame;
  while (frames.size() < kPreloaded && source->next(frame)) {
    if (!frame.error.empty()) throw Error(ErrorCode::kInput, frame.error);
    const Image image = to_rgb(frame.view, frame.held);
    SourceFrame kept;
    kept.file = file;
    kept.view = image.view();
    if (place == Place::kDevice) {
      hold_on_device(kept.view, kept.held, cuda_->device());
    } else {
      pool.keep(kept.view, kept.held);
    }
    frames.push_back(std::move(kept));
  }
  return frames;
}

void VideoRuns::look_at(VideoSizeResults& r) {
  r.nvdec = has_nvdec(r.file);
  const auto counted = open(r.file, VideoDecoder::kCpu);
  for (SourceFrame frame; counted->next(frame);) ++r.frames;
  stop_if_interrupted();
  if (counted->cut_short() > 0) {
    throw Error(ErrorCode::kPartial,
                fmt::format("bench --video: {} is not whole; nothing is measured", r.file));
  }
  if (r.frames == 0) throw Error(ErrorCode::kInput, fmt::format("{}: no frame", r.file));
  repeats_ = static_cast<int>((settings_.frames + r.frames - 1) / r.frames);
  preloaded_frames_ = std::max<int64_t>(r.frames * repeats_, 10 * static_cast<int64_t>(kPreloaded));
  if (cuda_ == nullptr) return;
  pinned_ = preload(r.file, Place::kPinned);
  device_ = preload(r.file, Place::kDevice);
}

// --- the same bytes ---

PipelineStats VideoRuns::pipeline(FrameSource& source, int depth, const Consume& consume,
                                  bool frame_times) {
  PipelineOptions options;
  options.depth = depth;
  options.frame_times = frame_times;
  PipelineStats stats =
      run_pipeline(*model_.engine, source, settings_.resolved, options, [&](PipelineFrame& frame) {
        stop_if_interrupted();
        if (!frame.error.empty()) throw Error(ErrorCode::kInput, frame.error);
        consume(frame);
        tick();
      });
  stop_if_interrupted();  // the source may have ended early
  return stats;
}

/// The results alone: what differs is told by its number.
std::vector<std::string> VideoRuns::lines(FrameSource& source, int depth) {
  std::vector<std::string> text;
  pipeline(source, depth, [&](PipelineFrame& frame) {
    frame.record.file.clear();
    frame.record.frame.reset();
    frame.record.time_s.reset();
    text.push_back(to_json_line(frame.record, settings_.resolved.class_names, settings_.masks));
  });
  return text;
}

void VideoRuns::gate(VideoSizeResults& r, const std::vector<ComparedWay>& ways) {
  const std::vector<std::string> expected = ways.front().lines();
  for (auto way = ways.begin() + 1; way != ways.end(); ++way, ++r.gated) {
    compare(expected, way->lines(), static_cast<std::size_t>(way->frames), way->name);
  }
}

// --- times ---

void VideoRuns::time_decoding(VideoSizeResults& r, const Way& way, VideoDecoder decoder) {
  const auto source = open(r.file, decoder, repeats_);
  RateMeter meter(way.frames);
  for (SourceFrame frame; source->next(frame);) {
    meter.count();
    tick();
  }
  stop_if_interrupted();
  meter.add_to(r.row(way.name));
}

/// Results go where a user's go, into a file.
void VideoRuns::time_run(VideoSizeResults& r, const Way& way, FrameSource& source, int depth) {
  const auto writer = create_jsonl_writer(scratch_.file("results.jsonl"),
                                          settings_.resolved.class_names, settings_.masks);
  RateMeter meter(way.frames);
  pipeline(source, depth, [&](PipelineFrame& frame) {
    writer->write(frame.record);
    meter.count();
  });
  meter.add_to(r.row(way.name));
  writer->finish();
}

void VideoRuns::time_latency(VideoSizeResults& r, int64_t frames) {
  PreloadedSource source(pinned_, frames);
  std::vector<double> times;
  pipeline(source, 1,
           [&](PipelineFrame&) { times.push_back(1e6 * seconds(source.handed(), Clock::now())); });
  times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 10));
  r.latency = Distribution::of(std::move(times));
}

/// Replays of single frames on the GPU, `runners` of them beside each other: frames a second.
double VideoRuns::ceiling(std::size_t runners) const {
  RunnerOptions options;
  options.count = static_cast<int>(runners);
  const auto all = make_cuda_batch_runners(*cuda_, settings_.resolved, options);
  constexpr int kReplays = 40;
  double total = 0;
  int64_t frames = 0;
  for (const SourceFrame& frame : device_) {
    stop_if_interrupted();
    for (const auto& runner : all) {
      for (int pass = 0; pass < 2; ++pass) {  // the first makes the graph or has none
        if (pass > 0) runner->clear();
        runner->add(frame.view, frame.held);
        runner->infer();
        runner->finish();
      }
      if (runner->counters().launches == 0) throw Error(ErrorCode::kInternal, "no graph");
    }
    const auto start = Clock::now();
    for (int i = 0; i < kReplays; ++i) {
      for (const auto& runner : all) runner->enqueue_replay();
    }
    for (const auto& runner : all) runner->wait();
    total += seconds(start, Clock::now());
    frames += kReplays * static_cast<int64_t>(all.size());
    for (const auto& runner : all) runner->clear();
  }
  return static_cast<double>(frames) / total;
}

void VideoRuns::trace(VideoSizeResults& r, const Way& way, FrameSource& source, int depth) {
  const PipelineStats stats = pipeline(
      source, depth, [](PipelineFrame&) {}, true);
  std::vector<double> gaps = stats.gpu.gaps_us;
  gaps.erase(gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(gaps.size() / 10));
  const double idle = std::accumulate(gaps.begin(), gaps.end(), 0.0);
  // Of the whole run's busy time, the part that belongs to the frames after the first tenth.
  const double busy = stats.gpu.busy_ms * 1e3 * 0.9;
  r.traces.push_back({way.name, Distribution::of(std::move(gaps)), idle / (idle + busy)});
}

// --- what is measured ---

void VideoRuns::measure(VideoSizeResults& r) {
  look_at(r);
  const std::vector<ComparedWay> compared = ways_to_compare(r);
  const std::vector<Way> timed = ways_to_time(r), traced = ways_to_trace(r);
  done_ = 0;
  total_ = frames_of(compared) + settings_.rounds * frames_of(timed) + frames_of(traced);
  gate(r, compared);
  for (int round = 0; round < settings_.rounds; ++round) {
    for (const Way& way : timed) way.run(way);
  }
  if (cuda_ != nullptr) {
    r.copy = copy_us(cuda_->device(), static_cast<std::size_t>(r.width) * r.height * 3, 100);
    r.network = network_us(*cuda_, 200);
  }
  for (const Way& way : traced) way.run(way);
  pinned_.clear();
  device_.clear();
}

}  // namespace rfseg::cli
