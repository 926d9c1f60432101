// CUDA in a build without it: not usable.

#include "core/cuda/usable.h"

namespace rfseg::cuda {

bool usable(std::string* why) {
  if (why != nullptr) *why = kAbsent;
  return false;
}

std::vector<std::string> architectures() { return {}; }

}  // namespace rfseg::cuda
