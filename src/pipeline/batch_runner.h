#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"
#include "pipeline/conventions.h"
#include "rfseg/detections.h"
#include "rfseg/image.h"

namespace rfseg {

/// The computing stages for one batch of pictures, on whatever device the engine is: the pipeline
/// drives several of them in turn. Calls come in this order, from three threads, one at a time:
///   add..., seal   by the thread that decodes
///   infer          by the thread of the network, batch after batch
///   finish, then detections of each picture, then clear   by the thread that writes results
class BatchRunner {
 public:
  /// Milliseconds of the batch.
  struct Times {
    double preprocess_ms = 0, network_ms = 0, postprocess_ms = 0;
  };

  virtual ~BatchRunner() = default;
  /// Takes one more picture, whose memory may be reused afterwards. Throws Error(kInput) for one
  /// that cannot be resized; it is not part of the batch then.
  virtual void add(const ImageView& picture) = 0;
  virtual std::size_t size() const = 0;
  /// No more pictures come.
  virtual void seal() = 0;
  virtual void infer() = 0;
  /// Waits until the batch is done.
  virtual void finish() = 0;
  virtual Detections detections(std::size_t picture) = 0;
  /// Of the batch; complete after its last detections().
  virtual Times times() const = 0;
  virtual void clear() = 0;
};

/// `count` runners of one engine for batches up to `batch`, for the device that the engine is on.
/// They refer to both arguments.
std::vector<std::unique_ptr<BatchRunner>> make_batch_runners(Engine& engine,
                                                             const ResolvedOptions& resolved,
                                                             int batch, int count);

}  // namespace rfseg
