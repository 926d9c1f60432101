#include "core/cuda/usable.h"
#include "media/gpu_frames.h"

namespace rfseg {

std::unique_ptr<GpuFrames> open_gpu_frames(int, std::string& why) {
  why = cuda::kAbsent;
  return nullptr;
}

}  // namespace rfseg
