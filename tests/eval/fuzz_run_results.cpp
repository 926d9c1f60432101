#include <cstdint>
#include <string_view>

#include "eval/parity.h"
#include "rfseg/error.h"

// Any bytes as the results of a run, compared with themselves.

using namespace rfseg;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    JsonBytes source(std::string_view(reinterpret_cast<const char*>(data), size), "run");
    const RunResults run = read_run(source);
    const ParityReport report = compare_runs(run, run, {});
    if (report.detections_a != report.detections_b) __builtin_trap();
    if (report.matched > report.detections_a || report.identical > report.mask_pairs) {
      __builtin_trap();
    }
  } catch (const Error&) {
  }
  return 0;
}
