#pragma once

#include <string>
#include <string_view>

// What every reader of JSON needs around the parser.

namespace rfseg {

/// How deep the brackets of a JSON text nest. Asked before parsing: deep nesting would exhaust the
/// stack, and the parser's own callback takes time that grows with the square of the members.
int json_depth(std::string_view text);

/// What the JSON library says is wrong, without its tag, printable, at most 200 bytes: of a longer
/// one the middle, which quotes the file, is left out.
std::string json_problem(const char* what);

}  // namespace rfseg
