#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"
#include "pipeline/cases.h"
#include "pipeline/conventions.h"

// One piece of work done in several ways on a GPU, each a step further from separate operations, so
// that a table shows what each step gains. All ways take turns in one run.

namespace rfseg {

/// One way, measured.
struct AblationRow {
  std::string name;
  /// How its answer differs from what must come out; not set: it does not. Post-processing only.
  std::optional<std::string> difference;
  std::vector<double> ms;      ///< wall time of a call, closed by its last synchronisation
  int kernels = 0;             ///< that run on the GPU in a call
  int launches = 0;            ///< calls that start them: a graph is one
  int synchronisations = 0;    ///< the host waits for the GPU
  uint64_t bytes_to_host = 0;  ///< copied or written there in a call
  std::string precision;       ///< of the network; empty without
  Detections answer;           ///< of ways with a network: the picture's
};

struct AblationOptions {
  int device = 0, warmup = 5, rounds = 50;
  /// Called after each call with their number so far and in all.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// A scene for post-processing: `survivors` queries of `queries` with a score above the default
/// threshold and an ellipse with a rough border as mask, on 91 classes and a grid of 78x78, in a
/// picture of `height` x `width`. Always the same for the same arguments; what must come out is
/// what the reference implementation says. Throws Error(kUsage) for more survivors than queries.
RecordedCase ablation_scene(int queries, int survivors, int height, int width);

/// From outputs in device memory to detections with run lengths in host memory: a kernel an
/// operation; masks of pixels by one kernel, run lengths on the host; the same without those;
/// run lengths by fused kernels; these in a captured graph. `recorded` is of post-processing and
/// not of the convention `inference`. Throws Error(kDevice) without a usable GPU.
std::vector<AblationRow> ablate_postprocess(const RecordedCase& recorded,
                                            const AblationOptions& options);

/// The network for one picture, from its tensor in device memory to its outputs there: kernel by
/// kernel with kernels for every GPU; by two streams; with launches ahead of time; as a captured
/// graph; with the GPU's own kernels; then in tf32 and fp32. `answer` is what post-processing
/// makes of the outputs by `spec`, whose geometry is the picture's. `input` is [3, H, W].
/// Throws Error(kDevice) without a usable GPU.
std::vector<AblationRow> ablate_network(const ModelConfig& config, const WeightSource& weights,
                                        const float* input, const PostprocessSpec& spec,
                                        const AblationOptions& options);

/// A picture in host memory to its detections: stage by stage, and as the one graph that the
/// pipeline launches. `answer` is each way's. Throws Error(kDevice) without a usable GPU.
std::vector<AblationRow> ablate_frame(const ModelConfig& config, const WeightSource& weights,
                                      const ImageView& picture, const ResolvedOptions& resolved,
                                      const AblationOptions& options);

}  // namespace rfseg
