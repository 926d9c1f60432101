// Any bytes decode to a picture or to Error(kInput), in bounded memory.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "media/image_io.h"
#include "rfseg/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  rfseg::DecodeOptions options;
  options.max_pixels = 1 << 18;
  try {
    const rfseg::Image image = rfseg::decode_image(data, size, "fuzz", options);
    const std::size_t expected = static_cast<std::size_t>(image.width) * image.height * 3;
    if (image.pixels.size() != expected || expected == 0) std::abort();
  } catch (const rfseg::Error& error) {
    if (error.code() != rfseg::ErrorCode::kInput) std::abort();
  }
  return 0;
}
