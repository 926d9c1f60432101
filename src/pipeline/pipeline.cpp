#include "pipeline/pipeline.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/batch_runner.h"
#include "pipeline/bounded_queue.h"
#include "preprocess/color.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// Frames that go through the network together; recycled.
struct Batch {
  explicit Batch(std::unique_ptr<BatchRunner> r) : runner(std::move(r)) {}
  std::vector<PipelineFrame> frames;  // those without an error are the runner's, in this order
  std::unique_ptr<BatchRunner> runner;
};

using BatchPtr = std::unique_ptr<Batch>;

class Stages {
 public:
  Stages(FrameSource& source, const PipelineOptions& options,
         const std::function<void(PipelineFrame&)>& sink)
      : source_(source), options_(options), sink_(sink) {}

  // Fills a batch; false when the source has ended and nothing was read.
  bool prepare(Batch& batch) {
    batch.frames.clear();
    const auto started = Clock::now();
    while (batch.runner->size() < static_cast<std::size_t>(options_.batch)) {
      if (options_.cancelled && options_.cancelled()) break;
      PipelineFrame frame;
      if (!read(frame, *batch.runner)) break;
      batch.frames.push_back(std::move(frame));
      // A bad input is reported at once rather than held back for a batch to fill.
      if (!batch.frames.back().error.empty() && batch.runner->size() == 0) break;
      if (source_.live() && milliseconds(started, Clock::now()) > options_.max_wait_ms) break;
    }
    if (batch.runner->size() > 0) batch.runner->seal();
    return !batch.frames.empty();
  }

  void infer(Batch& batch) {
    if (batch.runner->size() == 0) return;
    batch.runner->infer();
    ++stats_.batches;
  }

  void finish(Batch& batch) {
    BatchRunner& runner = *batch.runner;
    if (runner.size() > 0) runner.finish();
    std::size_t picture = 0;
    for (PipelineFrame& frame : batch.frames) {
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
    runner.clear();
  }

  PipelineStats& stats() { return stats_; }

 private:
  bool read(PipelineFrame& frame, BatchRunner& runner) {
    const auto start = Clock::now();
    if (!source_.next(source_frame_)) return false;
    frame.record.file = source_frame_.file;
    frame.record.frame = source_frame_.frame;
    frame.record.time_s = source_frame_.time_s;
    frame.times.decode_ms = milliseconds(start, Clock::now());
    frame.error = source_frame_.error;
    if (!frame.error.empty()) return true;
    try {
      runner.add(source_frame_.view);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInput) throw;
      frame.error = source_frame_.file + ": " + error.what();
      return true;
    }
    frame.record.detections.width = source_frame_.view.width;
    frame.record.detections.height = source_frame_.view.height;
    if (options_.keep_images) {
      if (!source_frame_.storage.empty()) {
        frame.image = std::move(source_frame_.storage);
        source_frame_.storage = Image();
      } else {
        frame.image = Image(source_frame_.view.width, source_frame_.view.height);
        convert_to_rgb(source_frame_.view, frame.image.pixels.data());
      }
    }
    return true;
  }

  FrameSource& source_;
  const PipelineOptions& options_;
  const std::function<void(PipelineFrame&)>& sink_;
  SourceFrame source_frame_;
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

  std::thread reader([&] {
    try {
      while (auto batch = free_batches.pop()) {
        if (!stages.prepare(**batch) || !ready.push(std::move(*batch))) break;
      }
    } catch (...) {
      fail();
    }
    ready.close();
  });
  std::thread finisher([&] {
    try {
      while (auto batch = done.pop()) {
        stages.finish(**batch);
        free_batches.push(std::move(*batch));
      }
    } catch (...) {
      fail();
    }
  });
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
  stages.stats().max_input_queue = ready.max_depth();
  stages.stats().max_output_queue = done.max_depth();
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
  Stages stages(source, options, sink);
  if (options.depth == 1) {
    run_in_turn(stages, make_batch_runners(engine, resolved, options.batch, 1));
  } else {
    // One batch is being filled and one finished beside those that the queues hold.
    run_overlapped(stages, options.depth,
                   make_batch_runners(engine, resolved, options.batch, options.depth + 2));
  }
  stages.stats().wall_ms = milliseconds(start, Clock::now());
  return stages.stats();
}

}  // namespace rfseg
