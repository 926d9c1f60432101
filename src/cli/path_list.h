#pragma once

#include <istream>
#include <string>
#include <vector>

#include "pipeline/frame_source.h"

namespace rfseg::cli {

/// The paths of a list, one a line, or each ended by a NUL byte (find -print0) where the list has
/// one; names may hold anything else then. Throws Error(kInput) for text in UTF-16.
std::vector<std::string> read_path_list(std::istream& list);

/// expand_inputs of the arguments, with the list on stdin in the place of "-".
std::vector<Input> inputs_of(const std::vector<std::string>& arguments);

}  // namespace rfseg::cli
