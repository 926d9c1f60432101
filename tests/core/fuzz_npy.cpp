#include <cstdint>

#include "core/npy.h"
#include "rfseg/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    rfseg::parse_npy(data, size, "fuzz.npy");
  } catch (const rfseg::Error&) {
  }
  return 0;
}
