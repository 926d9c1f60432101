#include <cstdint>
#include <string_view>

#include "pipeline/case_manifest.h"
#include "rfseg/error.h"

// What is accepted is written and read again the same.

using namespace rfseg;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const std::string text = manifest_text(parse_manifest(bytes, "manifest"));
    if (manifest_text(parse_manifest(text, "manifest")) != text) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
