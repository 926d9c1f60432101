#pragma once

#include <fmt/format.h>

#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "rfseg/error.h"

namespace rfseg {

/// A thread that runs `body`. Throws Error(kDevice) where the system starts no more of them.
template <class Body>
std::thread start_thread(Body&& body) {
  try {
    return std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw Error(
        ErrorCode::kDevice,
        fmt::format("cannot start another thread: {}; memory and the numbers of threads and "
                    "processes (ulimit -v, -u) limit them, --threads takes fewer",
                    error.code().message()));
  }
}

/// The same, at the end of `threads`. Throws std::bad_alloc before it starts where there is no
/// place for it: a running thread without one would end the program.
template <class Body>
void start_thread(std::vector<std::thread>& threads, Body&& body) {
  threads.reserve(threads.size() + 1);
  threads.push_back(start_thread(std::forward<Body>(body)));
}

}  // namespace rfseg
