#pragma once

// wgmma on floats with fp32's accuracy: each factor is split in two TF32 numbers, of the four
// products the smallest is left out. A comes from registers, where the thread splits it as the
// portable kernels do (portable/arithmetic.h says more of the rounding). B comes from shared
// memory: there the tensor core cuts off the lower 13 bits itself, so that the floats as they are
// serve as the large part, and the small part is made once and lies beside them.

#include "engine/cuda/hopper/device.h"
#include "engine/cuda/portable/arithmetic.h"

#if RFSEG_HOPPER

namespace rfseg::cuda::hopper {

using SplitA = Arithmetic<Math::kFp32>::A;

/// The small part of an element of B, as bits; of NaN and infinity, which the large part carries,
/// anything.
RFSEG_DEVICE uint32_t small_part(uint32_t raw) {
  using Split = Arithmetic<Math::kFp32>;
  const float small = float_of_bits(raw) - float_of_bits(raw & ~Split::kCut);
  return float_bits(small) + Split::kHalfCut;  // the tensor core cuts it to the nearest
}

/// 16 bytes of shared memory.
RFSEG_DEVICE void load_words(uint32_t from, uint32_t (&v)[4]) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(from)
               : "memory");
}
RFSEG_DEVICE void store_words(uint32_t to, const uint32_t (&v)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}

/// Behind wgmma_wait(): the tensor core has read them until now, which the compiler does not know.
RFSEG_DEVICE void fence_registers(SplitA& a) {
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a.large[i]), "+r"(a.small[i])::"memory");
}

/// d (+)= a * B^T for 64 rows of 8 floats in registers and N rows of 8 floats in shared memory.
template <int N>
struct WgmmaTf32;
// clang-format off
template <>
struct WgmmaTf32<32> {
  RFSEG_DEVICE static void run(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 "}, {%16, %17, %18, %19}, %20, p, 1, 1;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaTf32<48> {
  RFSEG_DEVICE static void run(float (&d)[24], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %29, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n48k8.f32.tf32.tf32 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 "}, {%24, %25, %26, %27}, %28, p, 1, 1;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaTf32<64> {
  RFSEG_DEVICE static void run(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 "}, {%32, %33, %34, %35}, %36, p, 1, 1;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
template <>
struct WgmmaTf32<96> {
  RFSEG_DEVICE static void run(float (&d)[48], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k8.f32.tf32.tf32 {" RFSEG_NAMES_0 ", " RFSEG_NAMES_1 ", " RFSEG_NAMES_2 ", " RFSEG_NAMES_3 ", " RFSEG_NAMES_4 ", " RFSEG_NAMES_5 "}, {%48, %49, %50, %51}, %52, p, 1, 1;\n}\n"
                 : RFSEG_OUT8(d, 0), RFSEG_OUT8(d, 8), RFSEG_OUT8(d, 16), RFSEG_OUT8(d, 24), RFSEG_OUT8(d, 32), RFSEG_OUT8(d, 40)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};
// clang-format on

}  // namespace rfseg::cuda::hopper

#endif
