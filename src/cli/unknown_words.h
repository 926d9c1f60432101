#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace rfseg::cli {

/// What is wrong with the first word of the command line that no verb and no option takes, or "" if
/// there is none. For a program whose parsing has ended, in an error too.
std::string describe_unknown_word(const CLI::App& app);

}  // namespace rfseg::cli
