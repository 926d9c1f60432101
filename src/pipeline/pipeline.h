#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "output/results.h"
#include "pipeline/conventions.h"
#include "pipeline/frame_source.h"
#include "postprocess/postprocess.h"
#include "rfseg/image.h"

namespace rfseg {

/// Picture `index` of a batch of raw outputs, borrowed.
NetworkOutputs network_outputs(const EngineOutputs& outputs, std::size_t index);

struct StageTimes {
  double decode_ms = 0;
  double preprocess_ms = 0;
  double network_ms = 0;  ///< of the batch, divided by its pictures
  double postprocess_ms = 0;
};

/// One picture at the end of the pipeline.
struct PipelineFrame {
  ResultRecord record;
  Image image;  ///< RGB, where PipelineOptions::keep_images asked for it
  StageTimes times;
  std::string error;  ///< not empty: the picture failed, `record` has its name only
};

struct PipelineOptions {
  int batch = 1;         ///< pictures that go through the network together
  int depth = 2;         ///< batches in flight; 1 = one stage after another on the calling thread
  int max_wait_ms = 20;  ///< for a batch to fill up, on live sources
  bool keep_images = false;
  std::function<bool()>
      cancelled;  ///< polled between frames; those that are in flight are finished
};

/// What a run cost. Milliseconds are sums over frames.
struct PipelineStats {
  int64_t frames = 0;
  int64_t failed = 0;
  int64_t batches = 0;
  StageTimes busy;
  double sink_ms = 0;
  double wall_ms = 0;
  std::size_t max_input_queue = 0;
  std::size_t max_output_queue = 0;
};

/// Decodes, resizes, infers, post-processes and hands every frame to `sink`, in the order of the
/// source. Decoding and resizing run on one thread, the network on the calling one,
/// post-processing and `sink` on a third, joined by queues of `depth` batches. Depth and timing do
/// not change results. A frame that fails is handed over with `error`; an exception of `sink` stops
/// everything and is thrown here.
PipelineStats run_pipeline(Engine& engine, FrameSource& source, const ResolvedOptions& resolved,
                           const PipelineOptions& options,
                           const std::function<void(PipelineFrame&)>& sink);

}  // namespace rfseg
