#include "core/digest.h"

#include <cstring>

namespace rfseg {

uint64_t quick_digest(const void* data, std::size_t size) {
  // Four lanes, so that one multiplication need not wait for the other.
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15u;
  uint64_t lanes[4] = {1, 2, 3, 4 + size};
  const auto* at = static_cast<const unsigned char*>(data);
  std::size_t left = size;
  for (; left >= 32; left -= 32, at += 32) {
    for (int i = 0; i < 4; ++i) {
      uint64_t word;
      std::memcpy(&word, at + 8 * i, 8);
      lanes[i] = (lanes[i] ^ word) * kFactor;
      lanes[i] ^= lanes[i] >> 29;
    }
  }
  uint64_t sum = 0;
  for (; left > 0; --left, ++at) sum = (sum ^ *at) * kFactor;
  for (const uint64_t lane : lanes) {
    sum = (sum ^ lane) * kFactor;
    sum ^= sum >> 32;
  }
  return sum;
}

}  // namespace rfseg
