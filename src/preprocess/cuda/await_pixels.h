#pragma once

#include "core/cuda/simt.h"
#include "preprocess/cuda/records.h"

namespace rfseg::cuda {

/// All threads of all blocks, before they read pixels: waits until the gate is open, where there is
/// one (pixel_gate.h). The last block closes it behind itself.
RFSEG_DEVICE void await_pixels(const PreprocessArguments& a) {
  if (a.gate == nullptr) return;
#if !defined(RFSEG_SIMT_EMULATION)
  if (thread_index() == 0) {
    uint32_t open;
    do {
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(open) : "l"(a.gate) : "memory");
    } while (open == 0);
    if (atomic_add(a.gate + 1, 1u) == static_cast<uint32_t>(grid_x()) - 1) {
      a.gate[1] = 0;
      *const_cast<volatile uint32_t*>(a.gate) = 0;
    }
  }
  block_sync();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async;" ::: "memory");  // the copy engine reads behind this, too
#endif
#endif
}

}  // namespace rfseg::cuda
