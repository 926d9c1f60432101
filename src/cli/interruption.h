#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rfseg::cli {

/// How far a run came that the user ended.
struct Interruption {
  int64_t done = 0;    ///< pictures and frames
  int64_t total = 0;   ///< of the inputs; 0 if unknown
  bool exact = false;  ///< what `total` is: lengths of videos are estimates
};

/// "interrupted after 12 of 250 frames".
std::string tell_interruption(const Interruption& how);
/// The same with what the outputs hold, which are named; without a frame none is written.
std::string tell_interruption(const Interruption& how, const std::vector<std::string>& outputs);

}  // namespace rfseg::cli
