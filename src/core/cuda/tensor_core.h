#pragma once

// Tensor cores and the ways into them: matrix fragments, asynchronous copies to shared memory,
// 16-byte accesses and pairs of halves, in what every GPU from compute capability 8.0 on has. Like
// simt.h with two implementations: CUDA, and (with RFSEG_SIMT_EMULATION) plain C++ that moves the
// fragments between the fibers of a warp.
//
// Fragments of one product of a 16 x K by a K x 8 matrix, as lane `l` of the warp holds them, with
// g = l / 4, t = l % 4. A word is two halves (fp16, K = 16) or one float (TF32, K = 8); word w of a
// row is its bytes [4 w, 4 w + 4):
//   a[0] row g, word t;  a[1] row g + 8, word t;  a[2] row g, word t + 4;  a[3] row g + 8, word t +
//   4 b[0] column g, word t;  b[1] column g, word t + 4      (words along K) c[0], c[1] row g,
//   columns 2 t and 2 t + 1;  c[2], c[3] the same of row g + 8
// So in bytes fp16 and TF32 fragments are the same, and load_matrices() reads both.

#include "core/cuda/simt.h"

#if defined(RFSEG_SIMT_EMULATION)

#include "cuda/tensor_core_emulation.h"
#define RFSEG_ROLLED

#else

#include <cuda_fp16.h>

#define RFSEG_ROLLED _Pragma("unroll 1")  // for loops whose code is better fetched once

namespace rfseg::cuda {

/// 16 bytes that are moved at once.
struct alignas(16) Quad {
  uint32_t word[4];
};

/// A place in the block's shared memory.
using SharedAddress = uint32_t;
RFSEG_DEVICE SharedAddress shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

RFSEG_DEVICE Quad load_quad(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
RFSEG_DEVICE void store_quad(void* p, const Quad& v) {
  *static_cast<uint4*>(p) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

/// Two words at an address that is a multiple of 8.
RFSEG_DEVICE void store_pair(void* p, uint32_t first, uint32_t second) {
  *static_cast<uint2*>(p) = make_uint2(first, second);
}

/// Two floats rounded to halves, `low` in the lower 16 bits.
RFSEG_DEVICE uint32_t pack_halves(float low, float high) {
  const __half2 v = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}
RFSEG_DEVICE float low_half(uint32_t v) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(v)));
}
RFSEG_DEVICE float high_half(uint32_t v) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(v >> 16)));
}
RFSEG_DEVICE uint16_t half_of(float v) { return __half_as_ushort(__float2half_rn(v)); }

/// The nearest number of 10 bits of mantissa, as a float's bits.
RFSEG_DEVICE uint32_t round_to_tf32(float v) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}

/// 2^v and 1/v to a few units in the last place.
RFSEG_DEVICE float approximate_exp2(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
RFSEG_DEVICE float approximate_reciprocal(float v) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
RFSEG_DEVICE float exact_sqrt(float v) { return __fsqrt_rn(v); }

/// c += a * b, 16 x 16 by 16 x 8 halves.
RFSEG_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// c += a * b, 16 x 8 by 8 x 8 floats, of which the lower 13 bits are not read.
RFSEG_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four matrices of 8 rows of 16 bytes: lane l tells where row l % 8 of matrix l / 8 lies. Of
/// matrix i each lane gets word l % 4 of row l / 4.
RFSEG_DEVICE void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
/// The same of the transposed 8 x 8 matrices of halves: rows 2 (l % 4) and the next, column l / 4.
RFSEG_DEVICE void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
RFSEG_DEVICE uint32_t load_shared_word(SharedAddress p) {
  uint32_t r;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(p) : "memory");
  return r;
}

/// Copies 16 (or 4) bytes from device to shared memory; zeros if not `valid` (`from` must point to
/// something all the same). Done when the thread has waited for it and a barrier has followed.
RFSEG_DEVICE void copy_async_16(SharedAddress to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
RFSEG_DEVICE void copy_async_16(SharedAddress to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
RFSEG_DEVICE void copy_async_4(SharedAddress to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
/// Ends the group of the copies issued so far.
RFSEG_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all but the last `pending` groups of this thread are there.
template <int pending>
RFSEG_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace rfseg::cuda

#endif
