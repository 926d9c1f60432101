#pragma once

#include "core/cuda/tensor_core.h"
#include "engine/cuda/decoder_plan.h"

// The weights of a warp on their way through shared memory: fetched in the order of use, as far
// ahead as there is room, by the GPU's bulk copies. With the emulator's implementation as in
// core/cuda/simt.h.

namespace rfseg::cuda {

#if defined(RFSEG_SIMT_EMULATION)

inline void make_bulk_barrier(uint64_t*) {}
inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t*) {
  std::memcpy(to, from, bytes);
}
inline void await_bulk(uint64_t*, uint32_t) { warp_sync(); }

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/// By one lane; others see it after a barrier.
RFSEG_DEVICE void make_bulk_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// By one lane: copies `bytes` (a multiple of 16) to shared memory; the barrier's phase ends with
/// them.
RFSEG_DEVICE void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
/// By whole warps.
RFSEG_DEVICE void await_bulk(uint64_t* barrier, uint32_t phase) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase)
        : "memory");
  }
  __syncwarp();
}

#else

RFSEG_DEVICE void make_bulk_barrier(uint64_t*) {}
RFSEG_DEVICE void bulk_copy(void*, const void*, uint32_t, uint64_t*) {}
RFSEG_DEVICE void await_bulk(uint64_t*, uint32_t) {}

#endif

class WeightStream {
 public:
  /// A ring of `slots` chunks with a barrier each. By whole warps.
  RFSEG_DEVICE WeightStream(const std::byte* from, int chunks, std::byte* ring, uint64_t* barriers,
                            int slots)
      : from_(from), ring_(ring), barriers_(barriers), slots_(slots), left_(chunks) {
    if (thread_index() % kWarp == 0) {
      RFSEG_ROLLED
      for (int i = 0; i < slots; ++i) make_bulk_barrier(barriers + i);
    }
    warp_sync();
    RFSEG_ROLLED
    for (int i = 0; i < slots; ++i) fetch(i);
  }

  /// The lane's part of the next step.
  RFSEG_DEVICE Quad next() {
    if (step_ == 0) await_bulk(barriers_ + slot_, phase_);
    const Quad q = load_quad(ring_ + slot_ * kChunkBytes + step_ * kStepBytes +
                             thread_index() % kWarp * static_cast<int>(sizeof(Quad)));
    if (++step_ < kChunkSteps) return q;
    step_ = 0;
    warp_sync();  // all lanes have read the chunk
    fetch(slot_);
    if (++slot_ == slots_) {
      slot_ = 0;
      phase_ ^= 1;
    }
    return q;
  }

 private:
  RFSEG_DEVICE void fetch(int slot) {
    if (left_ == 0) return;
    --left_;
    if (thread_index() % kWarp == 0) {
      bulk_copy(ring_ + slot * kChunkBytes, from_, kChunkBytes, barriers_ + slot);
    }
    from_ += kChunkBytes;
  }

  const std::byte* from_;
  std::byte* ring_;
  uint64_t* barriers_;
  int slots_, left_;
  int slot_ = 0, step_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace rfseg::cuda
