#pragma once

#include <string>
#include <vector>

#include "pipeline/frame_source.h"

namespace rfseg::cli {

/// expand_inputs of the arguments, with the list on stdin in the place of "-".
std::vector<Input> inputs_of(const std::vector<std::string>& arguments);

}  // namespace rfseg::cli
