// Compiled with AVX-512 F, BW, DQ and VL where the compiler has them (sources.cmake).
#include "engine/cpu/kernels.h"

#if defined(__AVX512F__)
#include "engine/cpu/kernels_impl.h"

namespace rfseg::cpu {

const Kernels* avx512_kernels() {
  static constexpr Kernels kTable = make_table("avx512");
  __builtin_cpu_init();
  const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("fma");
  return runs ? &kTable : nullptr;
}

}  // namespace rfseg::cpu
#else
const rfseg::cpu::Kernels* rfseg::cpu::avx512_kernels() { return nullptr; }
#endif
