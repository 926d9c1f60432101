#include "cli/path_list.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>

#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

// std::cin would take a failure for the end.
std::string read_stdin() {
  std::string bytes;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count > 0) bytes.append(buffer, static_cast<std::size_t>(count));
    if (count == 0) return bytes;
    if (count < 0 && errno != EINTR) {
      throw Error(ErrorCode::kInput,
                  fmt::format("-: cannot read the list of inputs from standard input: {}",
                              std::strerror(errno)));
    }
  }
}

}  // namespace

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
    std::istringstream list(read_stdin());
    for (std::string& path : read_path_list(list))
      words.push_back(path == "-" ? "./-" : std::move(path));
  }
  std::istringstream none;
  return expand_inputs(words, none);
}

}  // namespace rfseg::cli
