#include "pipeline/pipeline.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/thread.h"
#include "pipeline/batch_runner.h"
#include "pipeline/bounded_queue.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

// Of this process, now; 0 where it cannot be told.
std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

constexpr std::size_t kMostGaps = 65536;
constexpr std::size_t kMostMemoryNotes = 128;

// Frames that go through the network together; recycled.
struct Batch {
  explicit Batch(std::unique_ptr<BatchRunner> r) : runner(std::move(r)) {}
  std::vector<PipelineFrame> frames;  // those without an error are the runner's, in this order
  std::unique_ptr<BatchRunner> runner;
  std::string error;  // of the batch as a whole
};

using BatchPtr = std::unique_ptr<Batch>;

class Stages {
 public:
  Stages(const Engine& engine, FrameSource& source, const PipelineOptions& options,
         const std::function<void(PipelineFrame&)>& sink)
      : engine_(engine), source_(source), options_(options), sink_(sink) {}

  // Fills a batch; false when the source has ended and nothing was read.
  bool prepare(Batch& batch) {
    batch.frames.clear();
    batch.error.clear();
    auto deadline = Clock::time_point::max();
    while (batch.runner->size() < static_cast<std::size_t>(options_.batch)) {
      if (options_.cancelled && options_.cancelled()) break;
      PipelineFrame frame;
      const FrameSource::Got got = read(frame, *batch.runner, deadline);
      if (got != FrameSource::Got::kFrame) break;
      batch.frames.push_back(std::move(frame));
      // A bad input is reported at once rather than held back for a batch to fill.
      if (!batch.frames.back().error.empty() && batch.runner->size() == 0) break;
      if (!source_.live()) continue;
      if (deadline == Clock::time_point::max()) {
        deadline = Clock::now() + std::chrono::milliseconds(options_.max_wait_ms);
      } else if (Clock::now() > deadline) {
        break;
      }
    }
    if (batch.runner->size() > 0) batch.runner->seal();
    return !batch.frames.empty();
  }

  void infer(Batch& batch) {
    if (batch.runner->size() == 0) return;
    attempt(batch, [&] { batch.runner->infer(); });
    ++stats_.batches;
  }

  void finish(Batch& batch) {
    BatchRunner& runner = *batch.runner;
    if (runner.size() > 0 && batch.error.empty()) {
      attempt(batch, [&] { runner.finish(); });
      if (batch.error.empty()) note_gpu(runner.gpu_interval());
    }
    std::size_t picture = 0;
    for (PipelineFrame& frame : batch.frames) {
      if (frame.error.empty() && !batch.error.empty()) {
        frame.error = frame.record.file + ": " + batch.error;
        frame.image = Image();
      }
      if (frame.error.empty()) {
        const double before = runner.times().postprocess_ms;
        frame.record.detections = runner.detections(picture++);
        const BatchRunner::Times times = runner.times();
        const auto count = static_cast<double>(runner.size());
        frame.times.preprocess_ms = times.preprocess_ms / count;
        frame.times.network_ms = times.network_ms / count;
        // A device has done all pictures by now, a host does one at a time.
        frame.times.postprocess_ms = times.postprocess_ms > before ? times.postprocess_ms - before
                                                                   : times.postprocess_ms / count;
      }
      const auto start = Clock::now();
      sink_(frame);
      stats_.sink_ms += milliseconds(start, Clock::now());
      ++(frame.error.empty() ? stats_.frames : stats_.failed);
      stats_.busy.decode_ms += frame.times.decode_ms;
      stats_.busy.preprocess_ms += frame.times.preprocess_ms;
      stats_.busy.network_ms += frame.times.network_ms;
      stats_.busy.postprocess_ms += frame.times.postprocess_ms;
    }
    if (options_.memory) note_memory();
    runner.clear();
  }

  PipelineStats& stats() { return stats_; }

 private:
  template <class Work>
  static void attempt(Batch& batch, const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInput) throw;
      batch.error = error.what();
    }
  }

  FrameSource::Got read(PipelineFrame& frame, BatchRunner& runner, Clock::time_point deadline) {
    const auto start = Clock::now();
    const FrameSource::Got got =
        deadline == Clock::time_point::max()
            ? (source_.next(source_frame_) ? FrameSource::Got::kFrame : FrameSource::Got::kEnd)
            : source_.next_until(source_frame_, deadline);
    if (got != FrameSource::Got::kFrame) return got;
    frame.record.file = source_frame_.file;
    frame.record.frame = source_frame_.frame;
    frame.record.time_s = source_frame_.time_s;
    frame.stream = source_frame_.stream;
    frame.times.decode_ms = milliseconds(start, Clock::now());
    frame.error = source_frame_.error;
    if (!frame.error.empty()) return got;
    try {
      if (options_.keep_images && source_frame_.storage.empty()) {
        frame.image = to_rgb(source_frame_.view, source_frame_.held);
      }
      runner.add(source_frame_.view, source_frame_.held);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInput) throw;
      frame.error = source_frame_.file + ": " + error.what();
      frame.image = Image();
    }
    source_frame_.held = {};
    if (!frame.error.empty()) return got;
    frame.record.detections.width = source_frame_.view.width;
    frame.record.detections.height = source_frame_.view.height;
    if (options_.keep_images && frame.image.empty()) {
      frame.image = std::move(source_frame_.storage);
      source_frame_.storage = Image();
    }
    return got;
  }

  void note_gpu(const GpuInterval& interval) {
    if (!interval.measured()) return;
    GpuUse& use = stats_.gpu;
    const double length = static_cast<double>(interval.end_ns - interval.begin_ns) / 1e6;
    if (gpu_end_ns_ == 0) {
      use.busy_ms = length;
    } else {
      const uint64_t gap =
          interval.begin_ns > gpu_end_ns_ ? interval.begin_ns - gpu_end_ns_ : uint64_t{0};
      if (use.gaps_us.size() < kMostGaps) use.gaps_us.push_back(static_cast<double>(gap) / 1e3);
      use.idle_ms += static_cast<double>(gap) / 1e6;
      const uint64_t from = std::max(interval.begin_ns, gpu_end_ns_);
      if (interval.end_ns > from) use.busy_ms += static_cast<double>(interval.end_ns - from) / 1e6;
    }
    gpu_end_ns_ = std::max(gpu_end_ns_, interval.end_ns);
  }

  // Twice as far apart whenever the notes are full.
  void note_memory() {
    const int64_t frame = stats_.frames + stats_.failed;
    if (frame < next_note_) return;
    std::vector<MemoryNote>& notes = stats_.memory;
    if (notes.size() == kMostMemoryNotes) {
      for (std::size_t i = 0; i < notes.size() / 2; ++i) notes[i] = notes[2 * i];
      notes.resize(notes.size() / 2);
      note_step_ *= 2;
    }
    notes.push_back({frame, resident_bytes(), engine_device(engine_).memory_used});
    next_note_ = frame + note_step_;
  }

  const Engine& engine_;
  FrameSource& source_;
  const PipelineOptions& options_;
  const std::function<void(PipelineFrame&)>& sink_;
  SourceFrame source_frame_;
  uint64_t gpu_end_ns_ = 0;
  int64_t next_note_ = 0, note_step_ = 16;
  PipelineStats stats_;  // `batches` is written by infer, the rest by finish
};

using Runners = std::vector<std::unique_ptr<BatchRunner>>;

void run_in_turn(Stages& stages, Runners runners) {
  Batch batch(std::move(runners.front()));
  while (stages.prepare(batch)) {
    stages.infer(batch);
    stages.finish(batch);
  }
}

void run_overlapped(Stages& stages, int depth, Runners runners) {
  BoundedQueue<BatchPtr> free_batches(runners.size());
  BoundedQueue<BatchPtr> ready(static_cast<std::size_t>(depth));
  BoundedQueue<BatchPtr> done(static_cast<std::size_t>(depth));
  for (auto& runner : runners) free_batches.push(std::make_unique<Batch>(std::move(runner)));

  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto fail = [&] {
    {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
    ready.abort();
    done.abort();
    free_batches.abort();
  };

  std::thread reader = start_thread([&] {
    try {
      while (auto batch = free_batches.pop()) {
        if (!stages.prepare(**batch) || !ready.push(std::move(*batch))) break;
      }
    } catch (...) {
      fail();
    }
    ready.close();
  });
  std::thread finisher;
  try {
    finisher = start_thread([&] {
      try {
        while (auto batch = done.pop()) {
          stages.finish(**batch);
          free_batches.push(std::move(*batch));
        }
      } catch (...) {
        fail();
      }
    });
  } catch (...) {
    fail();
    reader.join();
    throw;
  }
  try {
    while (auto batch = ready.pop()) {
      stages.infer(**batch);
      if (!done.push(std::move(*batch))) break;
    }
  } catch (...) {
    fail();
  }
  done.close();
  finisher.join();
  free_batches.abort();
  reader.join();
  stages.stats().input_queue = {ready.max_depth(), ready.mean_depth()};
  stages.stats().output_queue = {done.max_depth(), done.mean_depth()};
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

NetworkOutputs network_outputs(const EngineOutputs& outputs, std::size_t index) {
  NetworkOutputs view;
  view.queries = static_cast<int>(outputs.logits.dim(1));
  view.classes = static_cast<int>(outputs.logits.dim(2));
  view.boxes = outputs.boxes.data.data() + index * static_cast<std::size_t>(view.queries) * 4;
  view.logits =
      outputs.logits.data.data() + index * static_cast<std::size_t>(view.queries) * view.classes;
  if (!outputs.masks.empty()) {
    view.mask_rows = static_cast<int>(outputs.masks.dim(2));
    view.mask_cols = static_cast<int>(outputs.masks.dim(3));
    view.masks = outputs.masks.data.data() +
                 index * static_cast<std::size_t>(view.queries) * view.mask_rows * view.mask_cols;
  }
  return view;
}

PipelineStats run_pipeline(Engine& engine, FrameSource& source, const ResolvedOptions& resolved,
                           const PipelineOptions& options,
                           const std::function<void(PipelineFrame&)>& sink) {
  if (options.batch < 1 || options.depth < 1) {
    throw Error(ErrorCode::kUsage, "--batch and --depth must be at least 1");
  }
  const auto start = Clock::now();
  Stages stages(engine, source, options, sink);
  RunnerOptions runners;
  runners.batch = options.batch;
  runners.stage_times = options.stage_times;
  runners.frame_times = options.frame_times;
  if (options.depth == 1) {
    run_in_turn(stages, make_batch_runners(engine, resolved, runners));
  } else {
    // One batch is being filled and one finished beside those that the queues hold.
    runners.count = options.depth + 2;
    runners.spin = false;
    run_overlapped(stages, options.depth, make_batch_runners(engine, resolved, runners));
  }
  stages.stats().wall_ms = milliseconds(start, Clock::now());
  return stages.stats();
}

}  // namespace rfseg
