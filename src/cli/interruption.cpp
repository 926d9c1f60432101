#include "cli/interruption.h"

#include <fmt/format.h>

namespace rfseg::cli {

std::string tell_interruption(const Interruption& how) {
  if (how.total <= 0 || how.total < how.done) {
    return fmt::format("interrupted after {} frame{}", how.done, how.done == 1 ? "" : "s");
  }
  return fmt::format("interrupted after {} of {}{} frame{}", how.done, how.exact ? "" : "about ",
                     how.total, how.total == 1 ? "" : "s");
}

std::string tell_interruption(const Interruption& how, const std::vector<std::string>& outputs) {
  if (how.done == 0) return "interrupted before the first frame was done: nothing is written";
  if (outputs.empty()) return tell_interruption(how);
  std::string names = outputs.front();
  for (std::size_t i = 1; i < outputs.size(); ++i) {
    names += (i + 1 == outputs.size() ? " and " : ", ") + outputs[i];
  }
  return fmt::format("{}: {} hold{} no more than these", tell_interruption(how), names,
                     outputs.size() == 1 ? "s" : "");
}

}  // namespace rfseg::cli
