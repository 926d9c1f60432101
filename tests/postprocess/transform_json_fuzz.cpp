#include <cstddef>
#include <cstdint>
#include <string_view>

#include "postprocess/transform_json.h"
#include "rfseg/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    rfseg::parse_class_map(text, "map.json");
  } catch (const rfseg::Error&) {
  }
  try {
    rfseg::parse_transform(text, "transform.json", 480, 640);
  } catch (const rfseg::Error&) {
  }
  return 0;
}
