#include "pipeline/pipeline.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "pipeline/bounded_queue.h"
#include "preprocess/color.h"
#include "preprocess/preprocess.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// A frame between decoding and the network.
struct Prepared {
  PipelineFrame frame;
  PreprocessGeometry geometry;
  std::size_t slot = 0;  // row of the batch's input; unused when the frame failed
};

// Frames that go through the network together, with their buffers; recycled.
struct Batch {
  std::vector<Prepared> frames;
  AlignedVector<float> input;
  std::size_t usable = 0;  // frames that have pixels
  EngineOutputs outputs;
};

using BatchPtr = std::unique_ptr<Batch>;

class Stages {
 public:
  Stages(Engine& engine, FrameSource& source, const ResolvedOptions& resolved,
         const PipelineOptions& options, const std::function<void(PipelineFrame&)>& sink)
      : engine_(engine), source_(source), resolved_(resolved), options_(options), sink_(sink) {
    plane_ = std::size_t{3} * engine.config().height * engine.config().width;
  }

  // Fills a batch; false when the source has ended and nothing was read.
  bool prepare(Batch& batch) {
    batch.frames.clear();
    batch.usable = 0;
    batch.input.resize(plane_ * static_cast<std::size_t>(options_.batch));
    const auto started = Clock::now();
    while (batch.usable < static_cast<std::size_t>(options_.batch)) {
      if (options_.cancelled && options_.cancelled()) break;
      Prepared prepared;
      if (!read(prepared, batch)) break;
      batch.frames.push_back(std::move(prepared));
      // A bad input is reported at once rather than held back for a batch to fill.
      if (!batch.frames.back().frame.error.empty() && batch.usable == 0) break;
      if (source_.live() && milliseconds(started, Clock::now()) > options_.max_wait_ms) break;
    }
    return !batch.frames.empty();
  }

  void infer(Batch& batch) {
    if (batch.usable == 0) return;
    const auto start = Clock::now();
    engine_.forward(batch.input.data(), static_cast<int>(batch.usable), batch.outputs);
    const double each = milliseconds(start, Clock::now()) / static_cast<double>(batch.usable);
    for (Prepared& prepared : batch.frames) {
      if (prepared.frame.error.empty()) prepared.frame.times.network_ms = each;
    }
    ++stats_.batches;
  }

  void finish(Batch& batch) {
    for (Prepared& prepared : batch.frames) {
      PipelineFrame& frame = prepared.frame;
      if (frame.error.empty()) {
        const auto start = Clock::now();
        PostprocessSpec spec = resolved_.postprocess;
        spec.geometry = prepared.geometry;
        frame.record.detections = postprocess(network_outputs(batch.outputs, prepared.slot), spec);
        frame.times.postprocess_ms = milliseconds(start, Clock::now());
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
  }

  PipelineStats& stats() { return stats_; }

 private:
  bool read(Prepared& prepared, Batch& batch) {
    const auto start = Clock::now();
    if (!source_.next(source_frame_)) return false;
    const auto decoded = Clock::now();
    PipelineFrame& frame = prepared.frame;
    frame.record.file = source_frame_.file;
    frame.record.frame = source_frame_.frame;
    frame.record.time_s = source_frame_.time_s;
    frame.times.decode_ms = milliseconds(start, decoded);
    frame.error = source_frame_.error;
    if (!frame.error.empty()) return true;
    try {
      prepared.slot = batch.usable;
      prepared.geometry = preprocess(source_frame_.view, resolved_.preprocess,
                                     batch.input.data() + batch.usable * plane_);
      frame.record.detections.width = source_frame_.view.width;
      frame.record.detections.height = source_frame_.view.height;
      ++batch.usable;
    } catch (const Error& error) {
      frame.error = source_frame_.file + ": " + error.what();
      return true;
    }
    frame.times.preprocess_ms = milliseconds(decoded, Clock::now());
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

  Engine& engine_;
  FrameSource& source_;
  const ResolvedOptions& resolved_;
  const PipelineOptions& options_;
  const std::function<void(PipelineFrame&)>& sink_;
  std::size_t plane_ = 0;
  SourceFrame source_frame_;
  PipelineStats stats_;  // `batches` is written by infer, the rest by finish
};

void run_in_turn(Stages& stages) {
  Batch batch;
  while (stages.prepare(batch)) {
    stages.infer(batch);
    stages.finish(batch);
  }
}

void run_overlapped(Stages& stages, int depth) {
  BoundedQueue<BatchPtr> free_batches(static_cast<std::size_t>(depth) + 2);
  BoundedQueue<BatchPtr> ready(static_cast<std::size_t>(depth));
  BoundedQueue<BatchPtr> done(static_cast<std::size_t>(depth));
  for (int i = 0; i < depth + 2; ++i) free_batches.push(std::make_unique<Batch>());

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
  Stages stages(engine, source, resolved, options, sink);
  if (options.depth == 1) {
    run_in_turn(stages);
  } else {
    run_overlapped(stages, options.depth);
  }
  stages.stats().wall_ms = milliseconds(start, Clock::now());
  return stages.stats();
}

}  // namespace rfseg
