#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace rfseg::cli {

/// A progress bar on stderr with rate and remaining time. Silent where stderr is no terminal.
class Progress {
 public:
  /// `unit` names what is counted ("pictures").
  explicit Progress(std::string unit);
  ~Progress();
  /// `total` 0 = unknown.
  void update(int64_t done, int64_t total);
  void clear();

 private:
  std::string unit_;
  bool enabled_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace rfseg::cli
