#pragma once

#include <string>
#include <vector>

namespace rfseg {

/// One of `known` that `word` is probably a misspelling of, or "". Counts inserted, missing, other
/// and exchanged neighbouring letters; up to a third of the word may differ.
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);

/// "; did you mean WORD?", or "" where none is near.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& known);

}  // namespace rfseg
