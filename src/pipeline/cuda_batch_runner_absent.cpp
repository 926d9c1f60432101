// Batches on a GPU in a build without CUDA: there is no engine that could ask for them.

#include "core/cuda/usable.h"
#include "pipeline/cuda_batch_runner.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void refuse() { throw Error(ErrorCode::kDevice, cuda::kAbsent); }

}  // namespace

std::vector<std::unique_ptr<CudaBatchRunner>> make_cuda_batch_runners(CudaEngine&,
                                                                      const ResolvedOptions&,
                                                                      const RunnerOptions&) {
  refuse();
}
std::function<std::shared_ptr<std::byte>(std::size_t)> pinned_allocator(int) { refuse(); }
std::size_t device_memory_used(int) { refuse(); }
uint64_t gpu_clock_step_ns(int) { refuse(); }
Image fetch_rgb(const ImageView&, const HeldPixels&) { refuse(); }

}  // namespace rfseg
