#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/weight_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> image(64);
  std::string why;
  rfseg::parse_weight_cache(data, size, "seed", image, &why);
  return 0;
}
