#include "postprocess/kernels.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RFSEG_X86_KERNELS 1
#else
#define RFSEG_X86_KERNELS 0
#endif

namespace rfseg {

namespace plain {
extern const Kernels kKernels;
}
#if RFSEG_X86_KERNELS
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

void reserve_toggles(Toggles& toggles, std::size_t extra) {
  if (toggles.size + extra <= toggles.capacity) return;
  auto& storage = *static_cast<std::vector<uint32_t>*>(toggles.owner);
  storage.resize(std::max(toggles.size + extra, toggles.capacity * 2));
  toggles.data = storage.data();
  toggles.capacity = storage.size();
}

bool isa_supported(Isa isa) {
#if RFSEG_X86_KERNELS
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  }
  if (isa == Isa::kAvx512) {
    return isa_supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == Isa::kPlain;
}

Isa best_isa() {
  static const Isa best = isa_supported(Isa::kAvx512) ? Isa::kAvx512
                          : isa_supported(Isa::kAvx2) ? Isa::kAvx2
                                                      : Isa::kPlain;
  return best;
}

const Kernels& kernels_for(Isa isa) {
#if RFSEG_X86_KERNELS
  if (isa == Isa::kAvx2) return avx2::kKernels;
  if (isa == Isa::kAvx512) return avx512::kKernels;
#endif
  (void)isa;
  return plain::kKernels;
}

}  // namespace rfseg
