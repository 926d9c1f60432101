#include "cli/path_list.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <string>

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

std::vector<Input> inputs_of(const std::vector<std::string>& arguments) {
  const bool listed = std::find(arguments.begin(), arguments.end(), "-") != arguments.end();
  std::istringstream list(listed ? read_stdin() : std::string());
  return expand_inputs(arguments, list);
}

}  // namespace rfseg::cli
