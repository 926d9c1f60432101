#pragma once

// What Hopper's own kernels need of the machine: transaction barriers, the copy engine (TMA), and
// the warpgroup's matrix product (wgmma), as thin wrappers of PTX. Only meaningful where the
// compiler targets sm_90a (RFSEG_HOPPER); other passes see nothing.
//
// Operand tiles in shared memory all have rows of 64 halves (128 bytes), laid out by TMA with the
// 128-byte swizzle in a tile aligned to 1024 bytes: 16-byte piece p of row r lies at
// r * 128 + ((p ^ (r % 8)) * 16).

#include <cuda.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/cuda/simt.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RFSEG_HOPPER 1

namespace rfseg::cuda::hopper {

RFSEG_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// A value that all lanes of the warp have, known to the compiler as such: what hangs on it does
/// not diverge.
RFSEG_DEVICE int uniform(int value) { return __shfl_sync(kAllLanes, value, 0); }
/// Moves registers of this warpgroup to or from the block's pool, to have kCount a thread.
template <int kCount>
RFSEG_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
RFSEG_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// Asked for once: the compiler would read the thread's index again wherever it is short of
/// registers, which takes longer than a step of a product.
RFSEG_DEVICE int lane_index() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// ---- Transaction barriers

RFSEG_DEVICE void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
/// Makes the initialisation visible to the copy engine and the cluster.
RFSEG_DEVICE void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
RFSEG_DEVICE void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives at the same barrier of block `rank` of the cluster. Orders nothing across blocks: a
/// release at cluster scope would cost a memory fence each time, and reads by wgmma that have ended
/// need none.
RFSEG_DEVICE void barrier_arrive_at(uint32_t barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
/// Arrives and adds `bytes` that the copy engine still has to deliver to this phase.
RFSEG_DEVICE void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
/// Waits until the phase of this parity has ended.
RFSEG_DEVICE void barrier_wait(uint32_t barrier, int parity) {
  uint32_t done = 0;
#if defined(RFSEG_HOPPER_WATCHDOG)
  const long long start = clock64();
#endif
  while (true) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done) return;
#if defined(RFSEG_HOPPER_WATCHDOG)
    if (clock64() - start > 100000000ll) __trap();  // a hang would hold the GPU
#endif
  }
}
/// Meets all other blocks' threads that have not ended, again without a memory fence.
RFSEG_DEVICE void cluster_meet() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}
/// A barrier of `threads` threads (whole warps); `id` 0 is __syncthreads'.
RFSEG_DEVICE void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
RFSEG_DEVICE void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Copy engine. Coordinates are those of the tensor map, innermost first; what lies outside of
// the tensor is read as zeros and not written.

RFSEG_DEVICE void map_prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}
RFSEG_DEVICE void load_tile(uint32_t to, const CUtensorMap* map, uint32_t barrier, int x, int y,
                            int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
/// load_tile from a map of four dimensions.
RFSEG_DEVICE void load_box(uint32_t to, const CUtensorMap* map, uint32_t barrier, int x, int y,
                           int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
/// load_tile to the same place of every block of the cluster in `blocks` (a bit each), each
/// counting the bytes on its own barrier.
RFSEG_DEVICE void load_tile_for_all(uint32_t to, const CUtensorMap* map, uint32_t barrier, int x,
                                    int y, int z, int blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(x), "r"(y), "r"(z),
      "h"(static_cast<uint16_t>(blocks))
      : "memory");
}
/// As many cells in a row as the map's column says, from cell (x, y) of picture `picture` on, each
/// moved by (dx, dy).
RFSEG_DEVICE void load_cells(uint32_t to, const CUtensorMap* map, uint32_t barrier, int channel,
                             int x, int y, int picture, int dx, int dy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(channel), "r"(x), "r"(y),
      "r"(picture), "h"(static_cast<uint16_t>(dx)), "h"(static_cast<uint16_t>(dy))
      : "memory");
}
RFSEG_DEVICE void store_tile(const CUtensorMap* map, uint32_t from, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
          reinterpret_cast<uint64_t>(map)),
      "r"(from), "r"(x), "r"(y), "r"(z)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// store_tile to a map of four dimensions.
RFSEG_DEVICE void store_box(const CUtensorMap* map, uint32_t from, int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::
          "l"(reinterpret_cast<uint64_t>(map)),
      "r"(from), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until all but the newest `kPending` stores of this thread have read shared memory.
template <int kPending>
RFSEG_DEVICE void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
RFSEG_DEVICE void store_wait_all() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
/// Orders this thread's accesses to shared memory before what the copy engine and wgmma do there
/// later: before they read what it has written, and before they write where it has read. A load
/// that has been issued may still wait for its turn, and a barrier does not wait with it.
RFSEG_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Matrices of 8x8 halves between registers and shared memory

RFSEG_DEVICE void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}
RFSEG_DEVICE void load_matrices(uint32_t from, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(from)
               : "memory");
}
RFSEG_DEVICE uint32_t pack_halves(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// ---- Warpgroup matrix product

/// Descriptor of a tile of rows of 128 swizzled bytes: groups of 8 rows lie 1024 bytes apart. To
/// step 16 halves along a row add 2; to step 16 rows add 128.
RFSEG_DEVICE uint64_t tile_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (uint64_t{1} << 16) |
         (uint64_t{64} << 32) | (uint64_t{1} << 62);
}
RFSEG_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
RFSEG_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
RFSEG_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of accumulators across a wait.
template <int kCount>
RFSEG_DEVICE void fence_registers(float (&d)[kCount]) {
  RFSEG_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Accumulators of a 64 x N product: thread t of the warpgroup has, with r = t / 32 * 16 + t % 32 /
// 4 and c = t % 4 * 2, the elements d[4 j + 0, 1] = (r, 8 j + c + 0, 1) and d[4 j + 2, 3] = the
// same of row r + 8.

// clang-format off
#define RFSEG_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define RFSEG_NAMES_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define RFSEG_NAMES_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define RFSEG_NAMES_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define RFSEG_NAMES_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define RFSEG_NAMES_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define RFSEG_NAMES_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define RFSEG_NAMES_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define RFSEG_NAMES_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define RFSEG_NAMES_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define RFSEG_NAMES_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define RFSEG_NAMES_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define RFSEG_NAMES_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define RFSEG_NAMES_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define RFSEG_NAMES_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define RFSEG_NAMES_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define RFSEG_OUT8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
// clang-format on

/// d (+)= A * B^T for A of 64 rows and B of N rows of 16 halves, both in shared memory.
template <int N>
struct Wgmma;

// clang-format off
template <>
struct Wgmma<32> {
  RFSEG_DEVICE static void run(float (&d)[16], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 "}, %16, %17, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<64> {
  RFSEG_DEVICE static void run(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<96> {
  RFSEG_DEVICE static void run(float (&d)[48], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 "}, %48, %49, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<128> {
  RFSEG_DEVICE static void run(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 ", " RFSEG_NAMES_6 ", " RFSEG_NAMES_7 "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40), RFSEG_OUT8(d, 48), RFSEG_OUT8(d, 56)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<192> {
  RFSEG_DEVICE static void run(float (&d)[96], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 ", " RFSEG_NAMES_6 ", " RFSEG_NAMES_7 ", " RFSEG_NAMES_8 ", " RFSEG_NAMES_9 ", " RFSEG_NAMES_10 ", " RFSEG_NAMES_11 "}, %96, %97, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40), RFSEG_OUT8(d, 48), RFSEG_OUT8(d, 56), RFSEG_OUT8(d, 64), RFSEG_OUT8(d, 72), RFSEG_OUT8(d, 80), RFSEG_OUT8(d, 88)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<256> {
  RFSEG_DEVICE static void run(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 ", " RFSEG_NAMES_6 ", " RFSEG_NAMES_7 ", " RFSEG_NAMES_8 ", " RFSEG_NAMES_9 ", " RFSEG_NAMES_10 ", " RFSEG_NAMES_11 ", " RFSEG_NAMES_12 ", " RFSEG_NAMES_13 ", " RFSEG_NAMES_14 ", " RFSEG_NAMES_15 "}, %128, %129, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40), RFSEG_OUT8(d, 48), RFSEG_OUT8(d, 56), RFSEG_OUT8(d, 64), RFSEG_OUT8(d, 72), RFSEG_OUT8(d, 80), RFSEG_OUT8(d, 88), RFSEG_OUT8(d, 96), RFSEG_OUT8(d, 104), RFSEG_OUT8(d, 112), RFSEG_OUT8(d, 120)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};

/// The same with A (its 64 x 16 elements as mma fragments) in registers; kTransposed: B is [16, N].
template <int N, bool kTransposed>
struct WgmmaRegisters;
template <>
struct WgmmaRegisters<64, false> {
  RFSEG_DEVICE static void run(float (&d)[32], const uint32_t* a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaRegisters<64, true> {
  RFSEG_DEVICE static void run(float (&d)[32], const uint32_t* a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaRegisters<96, false> {
  RFSEG_DEVICE static void run(float (&d)[48], const uint32_t* a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 "}, {%48, %49, %50, %51}, %52, p, 1, 1, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaRegisters<128, false> {
  RFSEG_DEVICE static void run(float (&d)[64], const uint32_t* a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 ", " RFSEG_NAMES_6 ", " RFSEG_NAMES_7 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40), RFSEG_OUT8(d, 48), RFSEG_OUT8(d, 56)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaRegisters<176, false> {
  RFSEG_DEVICE static void run(float (&d)[88], const uint32_t* a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %93, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n176k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 ", " RFSEG_NAMES_6 ", " RFSEG_NAMES_7 ", " RFSEG_NAMES_8 ", " RFSEG_NAMES_9 ", " RFSEG_NAMES_10 "}, {%88, %89, %90, %91}, %92, p, 1, 1, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40), RFSEG_OUT8(d, 48), RFSEG_OUT8(d, 56), RFSEG_OUT8(d, 64), RFSEG_OUT8(d, 72), RFSEG_OUT8(d, 80)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
// clang-format on

}  // namespace rfseg::cuda::hopper

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
