#pragma once

// What the kernels of an encoder block need beside hopper/device.h: stores into another block's
// shared memory that count on its barriers, and three more widths of wgmma.

#include "engine/cuda/hopper/device.h"

namespace rfseg::cuda::hopper {

/// Of attention: a warpgroup's sums of 64 columns and its rows' softmax, as its threads have them.
constexpr int kAttendedBytes = 9 * 2048;
/// Rows of values that attention reads for so many keys: in its second product they count in
/// sixteens, and those beyond the keys are weighed with 0.
RFSEG_HOST_DEVICE constexpr int value_rows(int keys) { return (keys + 15) / 16 * 16; }

}  // namespace rfseg::cuda::hopper

#if RFSEG_HOPPER

namespace rfseg::cuda::hopper {

/// The address of the same shared variable in block `rank` of the cluster.
RFSEG_DEVICE uint32_t address_at(uint32_t address, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
/// Stores to (another block's) shared memory; the bytes count on that block's `barrier`. Both
/// addresses as of address_at().
RFSEG_DEVICE void store_at(uint32_t to, float a, float b, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "f"(a), "f"(b), "r"(barrier)
      : "memory");
}
RFSEG_DEVICE void store_at(uint32_t to, float a, float b, float c, float d, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
      : "memory");
}
RFSEG_DEVICE float2 load_shared2(uint32_t from) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from) : "memory");
  return v;
}
RFSEG_DEVICE float4 load_shared4(uint32_t from) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
RFSEG_DEVICE void store_shared4(uint32_t to, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(a), "f"(b), "f"(c), "f"(d)
               : "memory");
}

// clang-format off
template <>
struct Wgmma<48> {
  RFSEG_DEVICE static void run(float (&d)[24], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %26, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n48k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 "}, %24, %25, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<56> {
  RFSEG_DEVICE static void run(float (&d)[28], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %30, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n56k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", %24, %25, %26, %27}, %28, %29, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<72> {
  RFSEG_DEVICE static void run(float (&d)[36], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %38, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n72k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", %32, %33, %34, %35}, %36, %37, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
template <>
struct Wgmma<88> {
  RFSEG_DEVICE static void run(float (&d)[44], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %46, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n88k16.f32.f16.f16 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", %40, %41, %42, %43}, %44, %45, p, 1, 1, 0, 0;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
                 : "l"(a), "l"(b), "r"(accumulate));
  }
};
// clang-format on

}  // namespace rfseg::cuda::hopper

#endif  // RFSEG_HOPPER
