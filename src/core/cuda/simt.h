#pragma once

// What the kernels need of the machine that runs them, in one place: indices, barriers, warp votes
// and shuffles, atomics, thread-block clusters. Two implementations: CUDA, and (with
// RFSEG_SIMT_EMULATION) a plain C++ one that runs each thread as a fiber, so that the kernels'
// source is tested where there is no GPU.
//
// All 32 lanes of a warp take part in every warp function, all threads of a block in every block
// function.

#include <cstdint>

#include "core/cuda/host_device.h"

#if defined(RFSEG_SIMT_EMULATION)

#include "cuda/simt_emulator.h"
#define RFSEG_DEVICE inline
#define RFSEG_DEVICE_CALL inline
#define RFSEG_UNROLL
#define RFSEG_UNROLL_BY(n)

#else

#define RFSEG_DEVICE __device__ __forceinline__
#define RFSEG_DEVICE_CALL __device__ __noinline__  // for what is rare: keeps its registers apart
#define RFSEG_UNROLL _Pragma("unroll")
#define RFSEG_PRAGMA(text) _Pragma(#text)
#define RFSEG_UNROLL_BY(n) RFSEG_PRAGMA(unroll n)

namespace rfseg::cuda {

RFSEG_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RFSEG_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
RFSEG_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
RFSEG_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }

RFSEG_DEVICE void block_sync() { __syncthreads(); }
RFSEG_DEVICE bool block_any(bool value) { return __syncthreads_or(value ? 1 : 0) != 0; }

constexpr unsigned kAllLanes = 0xffffffffu;
RFSEG_DEVICE uint32_t warp_ballot(bool value) { return __ballot_sync(kAllLanes, value); }
template <class T>
RFSEG_DEVICE T warp_read(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <class T>
RFSEG_DEVICE T warp_read_below(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
}
RFSEG_DEVICE void warp_sync() { __syncwarp(); }

RFSEG_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
RFSEG_DEVICE uint64_t atomic_add(uint64_t* p, uint64_t v) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(v));
}
RFSEG_DEVICE void atomic_min(int32_t* p, int32_t v) { atomicMin(p, v); }
RFSEG_DEVICE void atomic_max(uint32_t* p, uint32_t v) { atomicMax(p, v); }

/// `v`, of which the compiler knows nothing: what is computed from it stays where it stands instead
/// of waiting in registers.
RFSEG_DEVICE int opaque(int v) {
  asm volatile("" : "+r"(v));
  return v;
}
RFSEG_DEVICE int lowest_bit(uint32_t v) { return __ffs(static_cast<int>(v)) - 1; }
RFSEG_DEVICE int count_bits(uint32_t v) { return __popc(v); }
RFSEG_DEVICE int leading_zeros(uint32_t v) { return __clz(static_cast<int>(v)); }
/// a / b to a few units in the last place, for |b| < 2^126.
RFSEG_DEVICE float approximate_quotient(float a, float b) { return __fdividef(a, b); }
RFSEG_DEVICE uint32_t float_bits(float v) { return __float_as_uint(v); }
RFSEG_DEVICE float float_of_bits(uint32_t v) { return __uint_as_float(v); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
RFSEG_DEVICE int cluster_rank() { return static_cast<int>(__clusterRelativeBlockRank()); }
RFSEG_DEVICE int cluster_size() { return static_cast<int>(__clusterSizeInBlocks()); }
RFSEG_DEVICE void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
RFSEG_DEVICE void cluster_arrive() { __cluster_barrier_arrive(); }
RFSEG_DEVICE void cluster_wait() { __cluster_barrier_wait(); }
/// The same shared variable of another block of the cluster.
template <class T>
RFSEG_DEVICE T* cluster_peer(T* p, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(p, static_cast<unsigned>(rank)));
}
/// Lets the next kernel of the stream start before this one has ended.
RFSEG_DEVICE void release_next_kernel() { asm volatile("griddepcontrol.launch_dependents;"); }
/// Waits for the previous kernel's end and its memory, where this one was started early.
RFSEG_DEVICE void await_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else  // without clusters every block is alone
RFSEG_DEVICE int cluster_rank() { return 0; }
RFSEG_DEVICE int cluster_size() { return 1; }
RFSEG_DEVICE void cluster_sync() { __syncthreads(); }
RFSEG_DEVICE void cluster_arrive() {}
RFSEG_DEVICE void cluster_wait() { __syncthreads(); }
template <class T>
RFSEG_DEVICE T* cluster_peer(T* p, int) {
  return p;
}
RFSEG_DEVICE void release_next_kernel() {}
RFSEG_DEVICE void await_previous_kernel() {}
#endif

}  // namespace rfseg::cuda

#endif

namespace rfseg::cuda {

constexpr int kWarp = 32;

/// Exclusive sums over a block. Calls alternate between two arrays, so that one barrier a call
/// is enough.
struct ScanScratch {
  uint32_t partial[2][kWarp];
};

template <int threads>
class BlockScan {
 public:
  RFSEG_DEVICE explicit BlockScan(ScanScratch& scratch) : scratch_(scratch) {}
  /// Sum of `value` over the lower threads; `total` over all.
  RFSEG_DEVICE uint32_t operator()(uint32_t value, uint32_t* total) {
    const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
    uint32_t* partial = scratch_.partial[turn_];
    turn_ ^= 1;
    const uint32_t inclusive = within_warp(value);
    if (lane == kWarp - 1) partial[warp] = inclusive;
    block_sync();
    const uint32_t sums = within_warp(lane < threads / kWarp ? partial[lane] : 0u);
    *total = warp_read(sums, kWarp - 1);
    const uint32_t below = warp_read(sums, warp > 0 ? warp - 1 : 0);
    return (warp > 0 ? below : 0u) + inclusive - value;
  }

 private:
  RFSEG_DEVICE static uint32_t within_warp(uint32_t value) {
    const int lane = thread_index() % kWarp;
    for (int d = 1; d < kWarp; d *= 2) {
      const uint32_t other = warp_read_below(value, d);
      if (lane >= d) value += other;
    }
    return value;
  }
  ScanScratch& scratch_;
  int turn_ = 0;
};

}  // namespace rfseg::cuda
