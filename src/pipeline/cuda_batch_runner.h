#pragma once

#include <memory>
#include <vector>

#include "engine/cuda/cuda_engine.h"
#include "pipeline/batch_runner.h"

namespace rfseg {

/// Runners that keep pixels, network outputs and masks on the engine's GPU: what a batch costs the
/// host is one copy of its pixels into pinned memory, some launches and one wait. Uploads and
/// post-processing of one batch run beside the network of another. Throws Error(kDevice) in a build
/// without CUDA.
std::vector<std::unique_ptr<BatchRunner>> make_cuda_batch_runners(CudaEngine& engine,
                                                                  const ResolvedOptions& resolved,
                                                                  int batch, int count);

}  // namespace rfseg
