#include "engine/cpu/kernels.h"

#include <cstdlib>
#include <string>

#include "rfseg/error.h"

namespace rfseg::cpu {

const Kernels* find_kernels(std::string_view name) {
  if (name == "avx512") return avx512_kernels();
  if (name == "avx2") return avx2_kernels();
  return name == "plain" ? &plain_kernels() : nullptr;
}

const Kernels& best_kernels() {
  if (const char* forced = std::getenv("RFSEG_CPU_ISA"); forced && *forced) {
    if (const Kernels* k = find_kernels(forced)) return *k;
    throw Error(ErrorCode::kUsage, std::string("RFSEG_CPU_ISA=") + forced +
                                       ": unknown, or not supported by this processor; accepted "
                                       "are avx512, avx2 and plain");
  }
  if (const Kernels* k = avx512_kernels()) return *k;
  if (const Kernels* k = avx2_kernels()) return *k;
  return plain_kernels();
}

}  // namespace rfseg::cpu
