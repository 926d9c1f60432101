#include "core/json_input.h"

#include <algorithm>

namespace rfseg {

int json_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

std::string json_problem(const char* what) {
  std::string text = what;
  const std::size_t tag = text.find("] ");
  if (text.starts_with("[json.") && tag != std::string::npos) text.erase(0, tag + 2);
  if (text.size() > 200) text = text.substr(0, 120) + " ... " + text.substr(text.size() - 60);
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

}  // namespace rfseg
