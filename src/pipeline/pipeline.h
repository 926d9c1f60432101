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

/// Milliseconds of a frame: those of its batch divided by the pictures. On a GPU the last three are
/// told by its own clock, where PipelineOptions::stage_times asks for them.
struct StageTimes {
  double decode_ms = 0;
  double preprocess_ms = 0;
  double network_ms = 0;
  double postprocess_ms = 0;
};

/// One picture at the end of the pipeline.
struct PipelineFrame {
  ResultRecord record;
  Image image;  ///< RGB, where PipelineOptions::keep_images asked for it
  StageTimes times;
  int stream = 0;     ///< SourceFrame::stream
  std::string error;  ///< not empty: the picture failed, `record` has its name only
};

struct PipelineOptions {
  int batch = 1;         ///< pictures that go through the network together
  int depth = 2;         ///< batches in flight; 1 = one stage after another on the calling thread
  int max_wait_ms = 20;  ///< for a batch to fill up after its first frame, on live sources
  bool keep_images = false;
  bool stage_times = false;  ///< on a GPU: see RunnerOptions
  bool frame_times = false;  ///< likewise
  bool memory = false;       ///< note how much is in use while the run goes on
  std::function<bool()>
      cancelled;  ///< polled between frames; those that are in flight are finished
};

/// When kernels ran and when none did, on a GPU, between the first frame's and the last one's; by
/// its own clock. Copies of pixels do not count as work.
struct GpuUse {
  double busy_ms = 0, idle_ms = 0;
  std::vector<double> gaps_us;  ///< from the end of one batch to the start of the next, 0 where
                                ///< they overlap; the first 65,536
  bool measured() const { return busy_ms > 0; }
};

struct MemoryNote {
  int64_t frame = 0;
  std::size_t host_bytes = 0;    ///< resident
  std::size_t device_bytes = 0;  ///< of the GPU, by all programs
};

struct QueueDepth {
  std::size_t max = 0;
  double mean = 0;  ///< after a batch came
};

/// What a run cost. Milliseconds are sums over frames.
struct PipelineStats {
  int64_t frames = 0;
  int64_t failed = 0;
  int64_t batches = 0;
  StageTimes busy;
  double sink_ms = 0;
  double wall_ms = 0;
  QueueDepth input_queue, output_queue;
  GpuUse gpu;
  std::vector<MemoryNote> memory;  ///< evenly over the run, at most 128
};

/// Decodes, resizes, infers, post-processes and hands every frame to `sink`, in the order of the
/// source. Decoding and resizing run on one thread, the network on the calling one,
/// post-processing and `sink` on a third, joined by queues of `depth` batches. Depth and timing do
/// not change results. A frame that fails is handed over with `error`, as are the frames of a batch
/// that cannot be computed (Error(kInput)); any other exception, of `sink` too, stops everything
/// and is thrown here.
PipelineStats run_pipeline(Engine& engine, FrameSource& source, const ResolvedOptions& resolved,
                           const PipelineOptions& options,
                           const std::function<void(PipelineFrame&)>& sink);

}  // namespace rfseg
