// Compiled with AVX2 and FMA where the compiler has them (sources.cmake).
#include "engine/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "engine/cpu/kernels_impl.h"

namespace rfseg::cpu {

const Kernels* avx2_kernels() {
  static constexpr Kernels kTable = make_table("avx2");
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kTable : nullptr;
}

}  // namespace rfseg::cpu
#else
const rfseg::cpu::Kernels* rfseg::cpu::avx2_kernels() { return nullptr; }
#endif
