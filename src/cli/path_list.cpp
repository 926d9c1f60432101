#include "cli/path_list.h"

#include <iostream>
#include <iterator>
#include <sstream>
#include <string_view>

#include "rfseg/error.h"

namespace rfseg::cli {

std::vector<std::string> read_path_list(std::istream& list) {
  const std::string bytes{std::istreambuf_iterator<char>(list), {}};
  std::string_view rest = bytes;
  if (rest.starts_with("\xff\xfe") || rest.starts_with("\xfe\xff")) {
    throw Error(ErrorCode::kInput,
                "-: the list of paths is UTF-16 text; bytes as the file system has them, one path "
                "a line or ended by NUL, are accepted");
  }
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  const bool zero = rest.find('\0') != std::string_view::npos;
  std::vector<std::string> paths;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(zero ? '\0' : '\n'), rest.size());
    std::string_view path = rest.substr(0, end);
    if (!zero && path.ends_with('\r')) path.remove_suffix(1);
    if (!path.empty()) paths.emplace_back(path);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return paths;
}

std::vector<Input> inputs_of(const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  for (const std::string& argument : arguments) {
    if (argument != "-") {
      words.push_back(argument);
      continue;
    }
    // In a list it is the name of a file.
    for (std::string& path : read_path_list(std::cin))
      words.push_back(path == "-" ? "./-" : std::move(path));
  }
  std::istringstream none;
  return expand_inputs(words, none);
}

}  // namespace rfseg::cli
