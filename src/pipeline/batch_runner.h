#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/held_pixels.h"
#include "engine/engine.h"
#include "pipeline/conventions.h"
#include "rfseg/detections.h"
#include "rfseg/image.h"

namespace rfseg {

/// When the kernels of a batch ran, in nanoseconds of the GPU's own clock; copies of pixels are not
/// among them. All 0 where nothing was measured.
struct GpuInterval {
  uint64_t begin_ns = 0, end_ns = 0;
  bool measured() const { return end_ns != 0; }
};

/// The computing stages for one batch of pictures, on whatever device the engine is: the pipeline
/// drives several of them in turn. Calls come in this order, from three threads, one at a time:
///   add..., seal   by the thread that decodes
///   infer          by the thread of the network, batch after batch
///   finish, then detections of each picture, then clear   by the thread that writes results
/// After an exception of infer or finish the batch has no results: clear comes next.
class BatchRunner {
 public:
  /// Milliseconds of the batch.
  struct Times {
    double preprocess_ms = 0, network_ms = 0, postprocess_ms = 0;
  };

  virtual ~BatchRunner() = default;
  /// Takes one more picture. Its memory may be reused afterwards, unless `held` has an owner: that
  /// is kept until the picture has been read. Throws Error(kInput) for one that cannot be resized;
  /// it is not part of the batch then.
  virtual void add(const ImageView& picture, const HeldPixels& held) = 0;
  virtual std::size_t size() const = 0;
  /// No more pictures come.
  virtual void seal() = 0;
  virtual void infer() = 0;
  /// Waits until the batch is done.
  virtual void finish() = 0;
  virtual Detections detections(std::size_t picture) = 0;
  /// Of the batch; complete after its last detections(). On a GPU only with
  /// RunnerOptions::stage_times.
  virtual Times times() const = 0;
  /// After finish.
  virtual GpuInterval gpu_interval() const { return {}; }
  virtual void clear() = 0;
};

struct RunnerOptions {
  int batch = 1;  ///< most pictures
  int count = 1;  ///< runners wanted
  /// On a GPU: finish() keeps its processor busy, which tells of the end 10 us earlier.
  bool spin = true;
  /// On a GPU: kernels that note the clock before and after each stage, 1 us each; with
  /// `frame_times` alone before the first and after the last.
  bool stage_times = false;
  bool frame_times = false;
};

/// Runners of one engine, for the device that it is on; at least one, and fewer than asked for
/// where a GPU has no memory for more. They refer to both `engine` and `resolved`.
std::vector<std::unique_ptr<BatchRunner>> make_batch_runners(Engine& engine,
                                                             const ResolvedOptions& resolved,
                                                             const RunnerOptions& options);

/// Memory for pictures that an engine's runners read best: pinned where it is on a GPU.
struct HostAllocator {
  HeldPixels::Place place = HeldPixels::Place::kHost;
  std::function<std::shared_ptr<std::byte>(std::size_t)> allocate;
};
HostAllocator host_allocator(const Engine& engine);

/// What `--stats` tells of the GPU that an engine is on.
struct EngineDevice {
  bool gpu = false;
  int number = 0;
  std::string name;
  std::string kernels;          ///< which family of kernels runs
  std::size_t memory_used = 0;  ///< bytes of the GPU's memory, by all programs
};
EngineDevice engine_device(const Engine& engine);

/// A picture as RGB on the host, wherever its pixels are; waits for them.
Image to_rgb(const ImageView& picture, const HeldPixels& held);

}  // namespace rfseg
