// `rfseg bench --video`: what the pipeline keeps of the speed of its slowest part, at several sizes
// of one clip. Before anything is timed, the results of all ways to run it are compared byte by
// byte.

#include "cli/verbs/bench_video.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "cli/input_set.h"
#include "cli/progress.h"
#include "core/files.h"
#include "core/log.h"
#include "core/statistics.h"
#include "output/results.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/gpu_yardsticks.h"
#include "pipeline/loaded_model.h"
#include "pipeline/multi_source.h"
#include "pipeline/pipeline.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
using Place = HeldPixels::Place;

constexpr std::size_t kPreloaded = 24;  ///< frames that are held in memory
constexpr int kMaxSide = 8192;
constexpr double kFrameRate = 30;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void stop_if_interrupted() {
  if (interrupted()) throw Error(ErrorCode::kCancelled, "bench --video: interrupted");
}

/// A folder that goes with its content.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::error_code error;
    const fs::path parent = fs::temp_directory_path(error);
    if (error) {
      const char* named = std::getenv("TMPDIR");
      throw Error(ErrorCode::kOutput,
                  fmt::format("TMPDIR: '{}' cannot be used: {}; a folder for temporary files is "
                              "accepted",
                              named != nullptr ? named : "", error.message()));
    }
    std::string name = (parent / "rfseg-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw Error(ErrorCode::kOutput,
                  fmt::format("{}: cannot be made: {}; TMPDIR names another folder", name,
                              std::strerror(errno)));
    }
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

/// Bilinear, for making clips: their pixels need only be plausible.
Image scaled(const Image& from, int width, int height) {
  if (from.width == width && from.height == height) return from;
  Image to(width, height);
  for (int y = 0; y < height; ++y) {
    const double fy = std::clamp((y + 0.5) * from.height / height - 0.5, 0.0, from.height - 1.0);
    const int y0 = static_cast<int>(fy), y1 = std::min(y0 + 1, from.height - 1);
    for (int x = 0; x < width; ++x) {
      const double fx = std::clamp((x + 0.5) * from.width / width - 0.5, 0.0, from.width - 1.0);
      const int x0 = static_cast<int>(fx), x1 = std::min(x0 + 1, from.width - 1);
      const auto at = [&](int xx, int yy, int c) {
        return static_cast<double>(
            from.pixels[(static_cast<std::size_t>(yy) * from.width + xx) * 3 + c]);
      };
      for (int c = 0; c < 3; ++c) {
        const double top = at(x0, y0, c) + (at(x1, y0, c) - at(x0, y0, c)) * (fx - x0);
        const double bottom = at(x0, y1, c) + (at(x1, y1, c) - at(x0, y1, c)) * (fx - x0);
        to.pixels[(static_cast<std::size_t>(y) * width + x) * 3 + c] =
            static_cast<uint8_t>(top + (bottom - top) * (fy - y0) + 0.5);
      }
    }
  }
  return to;
}

std::vector<std::pair<int, int>> parse_sizes(const std::string& text) {
  std::vector<std::pair<int, int>> sizes;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string size = text.substr(at, comma - at);
    try {
      sizes.push_back(parse_size(size, "--video-sizes", kMaxSide));  // the first is the width here
    } catch (const Error&) {
      refuse_value("--video-sizes", size,
                   fmt::format("WxH in pixels, each 1 to {}, for example 1280x720", kMaxSide));
    }
    at = comma + 1;
  }
  return sizes;
}

/// Some frames again and again, from wherever they are held.
class PreloadedSource : public FrameSource {
 public:
  PreloadedSource(const std::vector<SourceFrame>& frames, int64_t count)
      : frames_(frames), count_(count) {}
  bool next(SourceFrame& frame) override {
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
  /// When the last frame was handed over.
  Clock::time_point handed() const { return handed_; }

 private:
  const std::vector<SourceFrame>& frames_;
  int64_t count_, at_ = 0;
  Clock::time_point handed_;
};

/// Times of one way to run, over the rounds.
struct Row {
  std::string name;
  std::vector<double> rates;  ///< frames a second, after the first tenth
  double start_ms = 0;        ///< to the first result, in the last round
  double rate() const {
    std::vector<double> sorted = rates;
    std::sort(sorted.begin(), sorted.end());
    return quantile(sorted, 0.5);
  }
};

/// Rate of what comes one by one: the first tenth is left out, what follows the last is not.
class RateMeter {
 public:
  explicit RateMeter(int64_t frames) : skipped_(frames / 10), start_(Clock::now()) {}
  void count() {
    if (++seen_ == 1) first_ = Clock::now();
    if (seen_ == skipped_ + 1) from_ = Clock::now();
  }
  double rate() const {
    return static_cast<double>(seen_ - skipped_ - 1) / seconds(from_, Clock::now());
  }
  double start_ms() const { return 1000 * seconds(start_, first_); }
  int64_t seen() const { return seen_; }

 private:
  int64_t skipped_, seen_ = 0;
  Clock::time_point start_, first_, from_;
};

struct Trace {
  std::string name;
  Distribution gaps_us;
  double idle_share = 0;
};

/// One size of the clip.
struct SizeResults {
  int width = 0, height = 0;
  std::string file;
  int64_t frames = 0;
  std::size_t gated = 0;  ///< ways whose bytes were compared
  bool nvdec = false;
  std::vector<Row> rows;
  std::vector<Trace> traces;
  double copy = 0, network = 0;  ///< us
  Distribution latency;          ///< us, at depth 1 from pinned memory

  Row& row(const std::string& name) {
    for (Row& r : rows) {
      if (r.name == name) return r;
    }
    rows.push_back({name, {}, 0});
    return rows.back();
  }
  double rate(const std::string& name) const {
    for (const Row& r : rows) {
      if (r.name == name) return r.rate();
    }
    return 0;
  }
};

class VideoBench {
 public:
  VideoBench(const CommonOptions& common, const PredictOptions& predict,
             const VideoBenchArguments& arguments)
      : arguments_(arguments),
        common_(common),
        sizes_(parse_sizes(arguments.sizes)),
        progress_("runs") {
    if (!common.stats.empty()) stats_.emplace(output_path(common.stats));
    for (const std::string& file : arguments.files) {
      if (!open_video(file)->info().live) continue;
      throw Error(
          ErrorCode::kUsage,
          fmt::format("--video: '{}' is a live stream; a video that ends is accepted", file));
    }
    load_model(common.model, common.resolved(), model_);
    PredictOptions options = predict;
    if (!model_.config.seg) options.masks = MaskFormat::kNone;
    masks_ = options.masks;
    resolved_ = resolve_options(options, model_.config);
    cuda_ = dynamic_cast<CudaEngine*>(model_.engine.get());
  }

  void run() {
    finish_work_on_interrupt();  // the scratch folder is to go
    scratch_.emplace();
    if (cuda_ != nullptr) clock_step_ns_ = gpu_clock_step_ns(cuda_->device());
    for (const auto& [width, height] : sizes_) measure(width, height);
    progress_.clear();
    const nlohmann::json json = to_json();
    std::fputs((arguments_.json ? json.dump() + "\n" : table()).c_str(), stdout);
    if (stats_) {
      stats_->write(json.dump(2) + "\n");
      stats_->commit();
    }
  }

 private:
  using Consume = std::function<void(PipelineFrame&)>;

  // --- clips ---

  std::string clip_of(int width, int height) {
    for (const std::string& file : arguments_.files) {
      const VideoInfo info = open_video(file)->info();
      if (info.width == width && info.height == height) return file;
    }
    const std::string path = scratch_->file(fmt::format("{}x{}.mp4", width, height));
    const auto reader = open_video(arguments_.files.front());
    const auto writer = create_video(path, width, height, kFrameRate);
    VideoFrame frame;
    int written = 0;
    for (; written < arguments_.frames && reader->read(frame); ++written) {
      stop_if_interrupted();
      writer->write(scaled(to_rgb(frame.image, frame.held), width, height).view(),
                    written / kFrameRate);
    }
    writer->finish();
    return path;
  }

  InputOptions input_options(VideoDecoder decoder) const {
    InputOptions options;
    options.cancelled = interrupted;
    options.video.decoder = decoder;
    options.video.cuda_device = cuda_ != nullptr ? cuda_->device() : 0;
    return options;
  }
  static std::vector<Input> repeated(const std::string& file, int times) {
    return std::vector<Input>(static_cast<std::size_t>(times), Input{file, InputKind::kVideo, ""});
  }
  std::unique_ptr<InputSource> open(const std::string& file, VideoDecoder decoder,
                                    int repeats = 1) const {
    return std::make_unique<InputSource>(repeated(file, repeats), input_options(decoder));
  }
  /// As `predict` reads it.
  InputSet inputs(const std::string& file, VideoDecoder decoder, int repeats = 1,
                  int streams = 1) const {
    return InputSet(repeated(file, repeats), input_options(decoder), streams, *model_.engine);
  }

  /// The first frames of the clip as RGB, in `place`.
  std::vector<SourceFrame> preload(const std::string& file, Place place) {
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

  // --- runs ---

  PipelineStats pipeline(FrameSource& source, int depth, const Consume& consume,
                         bool frame_times = false) {
    PipelineOptions options;
    options.depth = depth;
    options.frame_times = frame_times;
    PipelineStats stats =
        run_pipeline(*model_.engine, source, resolved_, options, [&](PipelineFrame& frame) {
          stop_if_interrupted();
          if (!frame.error.empty()) throw Error(ErrorCode::kInput, frame.error);
          consume(frame);
        });
    stop_if_interrupted();  // the source may have ended early
    return stats;
  }

  /// The results alone: what differs is told by its number.
  std::vector<std::string> lines(FrameSource& source, int depth) {
    std::vector<std::string> text;
    pipeline(source, depth, [&](PipelineFrame& frame) {
      frame.record.file.clear();
      frame.record.frame.reset();
      frame.record.time_s.reset();
      text.push_back(to_json_line(frame.record, resolved_.class_names, masks_));
    });
    return text;
  }

  static void compare(const std::vector<std::string>& expected,
                      const std::vector<std::string>& found, std::size_t count,
                      const std::string& what) {
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

  void gate(SizeResults& r) {
    const auto count = static_cast<std::size_t>(r.frames);
    const std::vector<std::string> expected = lines(*open(r.file, VideoDecoder::kCpu), 1);
    const auto check = [&](const std::string& what, FrameSource& source, int depth,
                           std::size_t frames) {
      compare(expected, lines(source, depth), frames, what);
      ++r.gated;
    };
    check("the pipeline", inputs(r.file, VideoDecoder::kCpu).source(), arguments_.depth, count);
    if (cuda_ == nullptr) return;
    if (r.nvdec) {
      check("NVDEC", inputs(r.file, VideoDecoder::kNvdec).source(), arguments_.depth, count);
      check("NVDEC, one frame at a time", inputs(r.file, VideoDecoder::kNvdec).source(), 1, count);
    }
    for (const auto* frames : {&pinned_, &device_}) {
      for (const int depth : {1, arguments_.depth}) {
        PreloadedSource source(*frames, static_cast<int64_t>(frames->size()));
        check(frames == &pinned_ ? "frames in pinned memory" : "frames on the GPU", source, depth,
              frames->size());
      }
    }
  }

  /// Whether the GPU's decoder takes the clip.
  bool has_nvdec(const std::string& file) const {
    if (cuda_ == nullptr) return false;
    VideoOptions options;
    options.decoder = VideoDecoder::kAuto;
    options.cuda_device = cuda_->device();
    const auto reader = open_video(file, options);
    VideoFrame frame;
    return reader->read(frame) && frame.held.on_device();
  }

  void time_decoding(SizeResults& r, const std::string& name, VideoDecoder decoder) {
    const auto source = open(r.file, decoder, repeats_);
    RateMeter meter(r.frames * repeats_);
    SourceFrame frame;
    while (source->next(frame)) meter.count();
    add(r, name, meter);
  }

  /// Results go where a user's go, into a file.
  void time_run(SizeResults& r, const std::string& name, FrameSource& source, int64_t frames,
                int depth) {
    const auto writer =
        create_jsonl_writer(scratch_->file("results.jsonl"), resolved_.class_names, masks_);
    RateMeter meter(frames);
    pipeline(source, depth, [&](PipelineFrame& frame) {
      writer->write(frame.record);
      meter.count();
    });
    add(r, name, meter);
    writer->finish();
  }

  void time_streams(SizeResults& r, const std::string& name, VideoDecoder decoder) {
    const int files = arguments_.streams * std::max(1, repeats_ / 2);
    InputSet set = inputs(r.file, decoder, files, arguments_.streams);
    time_run(r, name, set.source(), r.frames * files, arguments_.depth);
  }

  void add(SizeResults& r, const std::string& name, const RateMeter& meter) {
    stop_if_interrupted();
    Row& row = r.row(name);
    row.rates.push_back(meter.rate());
    row.start_ms = meter.start_ms();
    progress_.update(++done_, 0);
  }

  /// Replays of single frames on the GPU, `runners` of them beside each other.
  double ceiling(std::size_t runners) {
    RunnerOptions options;
    options.count = static_cast<int>(runners);
    const auto all = make_cuda_batch_runners(*cuda_, resolved_, options);
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

  void time_latency(SizeResults& r, int64_t frames) {
    PreloadedSource source(pinned_, frames);
    std::vector<double> times;
    pipeline(source, 1, [&](PipelineFrame&) {
      times.push_back(1e6 * seconds(source.handed(), Clock::now()));
    });
    times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 10));
    r.latency = Distribution::of(std::move(times));
  }

  void trace(SizeResults& r, const std::string& name, FrameSource& source, int depth) {
    const PipelineStats stats = pipeline(
        source, depth, [](PipelineFrame&) {}, true);
    std::vector<double> gaps = stats.gpu.gaps_us;
    gaps.erase(gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(gaps.size() / 10));
    const double idle = std::accumulate(gaps.begin(), gaps.end(), 0.0);
    // Of the whole run's busy time, the part that belongs to the frames after the first tenth.
    const double busy = stats.gpu.busy_ms * 1e3 * 0.9;
    r.traces.push_back({name, Distribution::of(std::move(gaps)), idle / (idle + busy)});
    progress_.update(++done_, 0);
  }

  void measure(int width, int height) {
    SizeResults r;
    r.width = width;
    r.height = height;
    r.file = clip_of(width, height);
    r.nvdec = has_nvdec(r.file);
    const auto counted = open(r.file, VideoDecoder::kCpu);
    for (SourceFrame frame; counted->next(frame);) ++r.frames;
    stop_if_interrupted();
    if (counted->cut_short() > 0) {
      throw Error(ErrorCode::kPartial,
                  fmt::format("bench --video: {} is not whole; nothing is measured", r.file));
    }
    if (r.frames == 0) throw Error(ErrorCode::kInput, fmt::format("{}: no frame", r.file));
    repeats_ = static_cast<int>((arguments_.frames + r.frames - 1) / r.frames);
    if (cuda_ != nullptr) {
      pinned_ = preload(r.file, Place::kPinned);
      device_ = preload(r.file, Place::kDevice);
    }
    gate(r);
    const int64_t frames = r.frames * repeats_;
    const int64_t preloaded_frames =
        std::max<int64_t>(frames, 10 * static_cast<int64_t>(kPreloaded));
    const int depth = arguments_.depth;
    const std::string deep = fmt::format("depth {}", depth);
    for (int round = 0; round < arguments_.rounds; ++round) {
      time_decoding(r, "decoding alone, CPU", VideoDecoder::kCpu);
      time_run(r, "from the file, CPU decoder, depth 1",
               inputs(r.file, VideoDecoder::kCpu, repeats_).source(), frames, 1);
      time_run(r, "from the file, CPU decoder, " + deep,
               inputs(r.file, VideoDecoder::kCpu, repeats_).source(), frames, depth);
      if (cuda_ == nullptr) continue;
      if (r.nvdec) {
        time_decoding(r, "decoding alone, NVDEC", VideoDecoder::kNvdec);
        time_run(r, "from the file, NVDEC, " + deep,
                 inputs(r.file, VideoDecoder::kNvdec, repeats_).source(), frames, depth);
      }
      if (arguments_.streams > 0) {
        time_streams(r, fmt::format("{} files at once, CPU decoder, {}", arguments_.streams, deep),
                     VideoDecoder::kCpu);
        if (r.nvdec) {
          time_streams(r, fmt::format("{} files at once, NVDEC, {}", arguments_.streams, deep),
                       VideoDecoder::kNvdec);
        }
      }
      r.row("replay ceiling").rates.push_back(ceiling(1));
      r.row(fmt::format("replays of {} frames beside each other", depth + 2))
          .rates.push_back(ceiling(static_cast<std::size_t>(depth) + 2));
      for (const auto* held : {&device_, &pinned_}) {
        PreloadedSource source(*held, preloaded_frames);
        time_run(r, (held == &device_ ? "frames on the GPU, " : "frames in pinned memory, ") + deep,
                 source, preloaded_frames, depth);
      }
      {
        PreloadedSource source(pinned_, preloaded_frames);
        time_run(r, "frames in pinned memory, depth 1", source, preloaded_frames, 1);
      }
      time_latency(r, preloaded_frames);
    }
    if (cuda_ != nullptr) {
      r.copy = copy_us(cuda_->device(), static_cast<std::size_t>(width) * height * 3, 100);
      r.network = network_us(*cuda_, 200);
      for (const int d : {1, depth}) {
        PreloadedSource on_device(device_, preloaded_frames), in_pinned(pinned_, preloaded_frames);
        trace(r, fmt::format("frames on the GPU, depth {}", d), on_device, d);
        trace(r, fmt::format("frames in pinned memory, depth {}", d), in_pinned, d);
      }
      trace(r, "from the file, CPU decoder, " + deep,
            inputs(r.file, VideoDecoder::kCpu, repeats_).source(), depth);
      if (r.nvdec) {
        trace(r, "from the file, NVDEC, " + deep,
              inputs(r.file, VideoDecoder::kNvdec, repeats_).source(), depth);
      }
    }
    pinned_.clear();
    device_.clear();
    results_.push_back(std::move(r));
  }

  // --- results ---

  /// The slowest part that a way to run cannot be quicker than, in frames a second, and its name.
  std::pair<double, std::string> bound(const SizeResults& r, const std::string& name) const {
    if (cuda_ == nullptr) return {0, ""};
    const double ceiling = r.rate("replay ceiling");
    if (name.starts_with("frames on the GPU")) return {ceiling, "ceiling"};
    if (name.starts_with("frames in pinned memory")) {
      const double copies = 1e6 / r.copy;
      return copies < ceiling ? std::pair{copies, std::string("copy")}
                              : std::pair{ceiling, std::string("ceiling")};
    }
    for (const char* decoder : {"CPU", "NVDEC"}) {
      if (name.starts_with(fmt::format("from the file, {}", decoder))) {
        const double decoding = r.rate(fmt::format("decoding alone, {}", decoder));
        return decoding < ceiling ? std::pair{decoding, std::string("decoding")}
                                  : std::pair{ceiling, std::string("ceiling")};
      }
    }
    return {0, ""};
  }

  nlohmann::json to_json() const {
    nlohmann::json json = runtime_json(model_.info, common_.model_options.threads);
    json["command"] = "bench --video";
    json["model"] = model_.info.variant;
    if (cuda_ != nullptr) {
      json["gpu"] = {{"name", cuda_->device_name()},
                     {"kernels", cuda_->kernels()},
                     {"clock_step_ns", clock_step_ns_}};
    }
    json["depth"] = arguments_.depth;
    json["rounds"] = arguments_.rounds;
    json["sizes"] = nlohmann::json::array();
    for (const SizeResults& r : results_) {
      nlohmann::json size = {{"width", r.width},
                             {"height", r.height},
                             {"frames_of_clip", r.frames},
                             {"ways_compared", r.gated},
                             {"rows", nlohmann::json::array()},
                             {"traces", nlohmann::json::array()}};
      for (const Row& row : r.rows) {
        const auto [limit, what] = bound(r, row.name);
        nlohmann::json one = {{"name", row.name},
                              {"frames_per_s", row.rate()},
                              {"rounds", row.rates},
                              {"start_ms", row.start_ms}};
        if (limit > 0) one["of_slowest_part"] = {{"part", what}, {"share", row.rate() / limit}};
        size["rows"].push_back(std::move(one));
      }
      for (const Trace& trace : r.traces) {
        size["traces"].push_back(
            {{"name", trace.name},
             {"gap_us",
              {{"p50", trace.gaps_us.p50}, {"p90", trace.gaps_us.p90}, {"p99", trace.gaps_us.p99}}},
             {"idle_share", trace.idle_share}});
      }
      if (cuda_ != nullptr) {
        size["copy_us"] = r.copy;
        size["network_us"] = r.network;
        size["latency_us"] = {
            {"p50", r.latency.p50}, {"p90", r.latency.p90}, {"p99", r.latency.p99}};
      }
      json["sizes"].push_back(std::move(size));
    }
    return json;
  }

  std::string table() const {
    std::string text = fmt::format("{} on {}", model_.info.variant, model_.info.device);
    if (cuda_ != nullptr) {
      text += fmt::format(" ({}, {} kernels, clock step {} ns)", cuda_->device_name(),
                          cuda_->kernels(), clock_step_ns_);
    }
    text += fmt::format(
        ", {}; medians of {} round(s), each without its first tenth; results on the host, as JSON "
        "lines in a file\n",
        model_.info.precision, arguments_.rounds);
    for (const SizeResults& r : results_) {
      text +=
          fmt::format("\n{}x{}: {} frames, {} ways to run gave the bytes of one frame at a time\n",
                      r.width, r.height, r.frames, r.gated);
      text += fmt::format("{:<46} {:>10} {:>9} {:>9}  {}\n", "", "frames/s", "us/frame", "start ms",
                          "of the slowest part");
      for (const Row& row : r.rows) {
        const auto [limit, what] = bound(r, row.name);
        text += fmt::format(
            "{:<46} {:>10.1f} {:>9.1f} {:>9.0f}  {}\n", row.name, row.rate(), 1e6 / row.rate(),
            row.start_ms,
            limit > 0 ? fmt::format("{:.1f} % of {}", 100 * row.rate() / limit, what) : "");
      }
      if (cuda_ == nullptr) continue;
      text += fmt::format(
          "copy of a frame {:.1f} us, network {:.1f} us; from pinned memory to run lengths at "
          "depth "
          "1: {:.1f} us p50, {:.1f} p90, {:.1f} p99 = network + copy + {:.1f}\n",
          r.copy, r.network, r.latency.p50, r.latency.p90, r.latency.p99,
          r.latency.p50 - r.network - r.copy);
      text += fmt::format("{:<46} {:>9} {:>9} {:>9} {:>8}\n", "GPU idle between frames, us", "p50",
                          "p90", "p99", "share");
      for (const Trace& trace : r.traces) {
        text += fmt::format("{:<46} {:>9.2f} {:>9.2f} {:>9.2f} {:>6.1f} %\n", trace.name,
                            trace.gaps_us.p50, trace.gaps_us.p90, trace.gaps_us.p99,
                            100 * trace.idle_share);
      }
    }
    return text;
  }

  const VideoBenchArguments& arguments_;
  const CommonOptions& common_;
  std::vector<std::pair<int, int>> sizes_;  ///< width, height
  std::optional<OutputFile> stats_;
  LoadedModel model_;
  ResolvedOptions resolved_;
  MaskFormat masks_ = MaskFormat::kRle;
  CudaEngine* cuda_ = nullptr;
  std::optional<ScratchFolder> scratch_;
  Progress progress_;
  int64_t done_ = 0;
  uint64_t clock_step_ns_ = 0;
  int repeats_ = 1;
  std::vector<SourceFrame> pinned_, device_;
  std::vector<SizeResults> results_;
};

}  // namespace

void run_video_bench(const CommonOptions& common, const PredictOptions& predict,
                     const VideoBenchArguments& arguments) {
  refuse_equal_outputs({{"the table", "-"}, {"--stats", common.stats}});
  VideoBench(common, predict, arguments).run();
}

}  // namespace rfseg::cli
