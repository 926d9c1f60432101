#pragma once

// Wide loads, byte shuffles and 8-bit matrix products of a warp, beside core/cuda/simt.h, with the
// same two implementations.

#include <cstdint>
#include <cstring>

#include "core/cuda/simt.h"

namespace rfseg::cuda {

#if defined(RFSEG_SIMT_EMULATION)
#define RFSEG_NO_UNROLL
#else
#define RFSEG_NO_UNROLL _Pragma("unroll 1")
#endif

struct alignas(8) Words2 {
  uint32_t w[2];
};
struct alignas(16) Words4 {
  uint32_t w[4];
};

#if defined(RFSEG_SIMT_EMULATION)

template <class T>
T load_constant(const T* p) {
  return *p;
}
/// Bytes of b:a (a has 0..3) chosen by the four low hexadecimal digits of `digits`.
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t digits) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(both >> (8 * (digits >> (4 * i) & 7)) & 255) << (8 * i);
  }
  return result;
}
/// The low word of high:low >> bits, 0 <= bits < 32.
inline uint32_t shift_words(uint32_t low, uint32_t high, int bits) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> bits);
}

namespace emulator {

// Lane g * 4 + t has of row g and row g + 8 the bytes 4t..4t+3 of each 16, of column g likewise.
template <int depth>
void multiply_bytes(int32_t (&c)[4], const uint32_t (&a)[depth / 8],
                    const uint32_t (&b)[depth / 16]) {
  constexpr int kSixteens = depth / 16;
  uint64_t rows[kSixteens][32], columns[32];
  for (int s = 0; s < kSixteens; ++s) {
    std::memcpy(rows[s], warp_exchange(static_cast<uint64_t>(a[2 * s + 1]) << 32 | a[2 * s]),
                sizeof(rows[s]));
  }
  const uint64_t own = static_cast<uint64_t>(b[kSixteens - 1]) << (32 * (kSixteens - 1)) | b[0];
  std::memcpy(columns, warp_exchange(own), sizeof(columns));
  const int lane = position().thread % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;
    uint32_t sum = static_cast<uint32_t>(c[i]);
    for (int s = 0; s < kSixteens; ++s) {
      for (int k = 0; k < 16; ++k) {
        const uint64_t row = rows[s][g * 4 + k / 4] >> (i / 2 * 32);
        const uint64_t other = columns[column * 4 + k / 4] >> (s * 32);
        sum += static_cast<uint32_t>((row >> (k % 4 * 8) & 255) * (other >> (k % 4 * 8) & 255));
      }
    }
    c[i] = static_cast<int32_t>(sum);
  }
}

}  // namespace emulator

// Copies are done at once. The word: arrivals that end a phase, and those so far.
struct RowBarrier {
  uint64_t word;
};
inline void make_row_barrier(RowBarrier& barrier, uint32_t warps) {
  barrier.word = static_cast<uint64_t>(warps) << 32;
}
inline void expect_row(RowBarrier&, uint32_t) {}
inline void copy_row(void* to, const void* from, uint32_t bytes, RowBarrier&) {
  if (thread_index() % 32 == 0) std::memcpy(to, from, bytes);
}
inline void row_started(RowBarrier& barrier) {
  warp_sync();
  if (thread_index() % 32 == 0) ++barrier.word;
}
inline void row_accessed() {}
inline void wait_row(RowBarrier& barrier, uint32_t phase) {
  const auto pending = [&] {
    return ((barrier.word & 0xffffffffu) / (barrier.word >> 32) & 1) == phase;
  };
  while (warp_ballot(pending()) != 0) {
  }
}

/// See the other implementation.
inline uint32_t transpose_pairs(uint32_t row) {
  const uint64_t* rows = emulator::warp_exchange(row);
  const int lane = thread_index() % 32;
  uint32_t column = 0;
  for (int i = 0; i < 2; ++i) {
    const int from = (lane % 4 * 2 + i) * 4 + lane / 4 / 2;
    column |= static_cast<uint32_t>(rows[from] >> (lane / 4 % 2 * 16) & 0xffffu) << (16 * i);
  }
  return column;
}

inline void multiply_bytes_32(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply_bytes<32>(c, a, b);
}
inline void multiply_bytes_16(int32_t (&c)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  emulator::multiply_bytes<16>(c, a, b);
}

#else

/// A load of what no kernel writes while this one runs.
RFSEG_DEVICE Words4 load_constant(const Words4* p) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
RFSEG_DEVICE Words2 load_constant(const Words2* p) {
  const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
  return {{v.x, v.y}};
}
RFSEG_DEVICE uint32_t load_constant(const uint32_t* p) { return __ldg(p); }
RFSEG_DEVICE int32_t load_constant(const int32_t* p) { return __ldg(p); }
RFSEG_DEVICE float load_constant(const float* p) { return __ldg(p); }
RFSEG_DEVICE uint8_t load_constant(const uint8_t* p) { return __ldg(p); }
RFSEG_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t digits) {
  return __byte_perm(a, b, digits);
}
RFSEG_DEVICE uint32_t shift_words(uint32_t low, uint32_t high, int bits) {
  return __funnelshift_r(low, high, static_cast<unsigned>(bits));
}

/// Tells when copies into shared memory that warps have started are complete. Each of its phases, 0
/// and 1 in turn, ends once so many warps have begun theirs and all their bytes are there. A warp
/// calls expect_row, copy_row for each piece, row_started; all lanes call each function.
struct alignas(8) RowBarrier {
  uint64_t word;
};

RFSEG_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/// Once, by one lane; others see it after a barrier. `warps` begin copies in a phase.
RFSEG_DEVICE void make_row_barrier(RowBarrier& barrier, uint32_t warps) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(warps)
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One lane does these, chosen by elect.sync, which tells the compiler that it is one.
/// Before the phase's copies.
RFSEG_DEVICE void expect_row(RowBarrier& barrier, uint32_t bytes) {
  asm volatile(
      "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\n"
      "@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n}" ::"r"(
          shared_address(&barrier)),
      "r"(bytes)
      : "memory");
}
/// `to`, `from` and `bytes` are multiples of 16, and the same for all lanes.
RFSEG_DEVICE void copy_row(void* to, const void* from, uint32_t bytes, RowBarrier& barrier) {
  asm volatile(
      "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\n"
      "@p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];\n}" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}
RFSEG_DEVICE void row_started(RowBarrier&) {}
/// Between this thread's ordinary stores to or loads from a place and the barrier after which
/// copies may be made there, too: such a load may still wait for its turn when the barrier is
/// passed, and a copy overtakes it.
RFSEG_DEVICE void row_accessed() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
RFSEG_DEVICE void wait_row(RowBarrier& barrier, uint32_t phase) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(phase)
        : "memory");
  }
  __syncwarp();
}
#else  // the warps copy themselves
RFSEG_DEVICE void make_row_barrier(RowBarrier& barrier, uint32_t warps) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(warps)
               : "memory");
}
RFSEG_DEVICE void expect_row(RowBarrier&, uint32_t) {}
RFSEG_DEVICE void copy_row(void* to, const void* from, uint32_t bytes, RowBarrier&) {
  for (uint32_t i = threadIdx.x % 32; i < bytes / 16; i += 32) {
    static_cast<uint4*>(to)[i] = __ldg(static_cast<const uint4*>(from) + i);
  }
}
RFSEG_DEVICE void row_started(RowBarrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                     shared_address(&barrier))
                 : "memory");
  }
}
RFSEG_DEVICE void row_accessed() {}
RFSEG_DEVICE void wait_row(RowBarrier& barrier, uint32_t phase) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(phase)
        : "memory");
  }
  __syncwarp();
}
#endif

/// c += a * b for a of 16 rows x 32 unsigned bytes, b of 32 x 8, c of 16 x 8, spread over a warp as
/// PTX's mma.m16n8k32 has them. Sums wrap.
RFSEG_DEVICE void multiply_bytes_32(int32_t (&c)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// The same with 16 instead of 32 bytes (mma.m16n8k16).
RFSEG_DEVICE void multiply_bytes_16(int32_t (&c)[4], const uint32_t (&a)[2],
                                    const uint32_t (&b)[1]) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}
/// Of an 8 x 8 matrix of 16-bit elements, of which lane 4r + c has elements 2c and 2c + 1 of row r,
/// the same two of column r.
RFSEG_DEVICE uint32_t transpose_pairs(uint32_t row) {
  uint32_t column;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(column) : "r"(row));
  return column;
}

#endif

}  // namespace rfseg::cuda
