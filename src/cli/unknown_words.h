#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace rfseg::cli {

/// One of `known` that `word` is probably a misspelling of, or "". Counts inserted, missing, other
/// and exchanged neighbouring letters; up to a third of the word may differ.
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);

/// What is wrong with the first word of the command line that no verb and no option takes, or "" if
/// there is none. For a program whose parsing has ended, in an error too.
std::string describe_unknown_word(const CLI::App& app);

}  // namespace rfseg::cli
