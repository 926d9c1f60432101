#include "engine/cpu/kernels_impl.h"

namespace rfseg::cpu {

const Kernels& plain_kernels() {
  static constexpr Kernels kTable = make_table("plain");
  return kTable;
}

}  // namespace rfseg::cpu
