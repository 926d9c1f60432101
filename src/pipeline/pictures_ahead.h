#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "rfseg/image.h"

namespace rfseg {

/// Decodes pictures on several threads before their turn comes, and hands them out in the order in
/// which they were asked for. What is held at once is bounded: two pictures a thread, and
/// `kMostBytes` of pixels as far as the largest one so far tells.
class PicturesAhead {
 public:
  /// Called on several threads at once; may throw.
  using Decode = std::function<Image(const std::string& path)>;
  static constexpr std::size_t kMostBytes = std::size_t{256} << 20;

  /// `threads` >= 1; they are started as pictures are asked for.
  PicturesAhead(Decode decode, int threads);
  /// Waits for what is being decoded; what has not begun is dropped.
  ~PicturesAhead();
  PicturesAhead(const PicturesAhead&) = delete;
  PicturesAhead& operator=(const PicturesAhead&) = delete;

  /// Whether one more may be asked for now; always true of the first.
  bool has_room() const;
  void ask(const std::string& path);
  /// Pictures asked for and not yet taken.
  std::size_t waiting() const;
  /// The one that was asked for first, or the exception of its decoding.
  Image take();

 private:
  struct Picture {
    std::string path;
    Image image;
    std::exception_ptr failure;
    bool begun = false, done = false;
  };
  void work();

  Decode decode_;
  std::size_t most_threads_;
  mutable std::mutex mutex_;
  std::condition_variable asked_, done_;
  std::deque<std::shared_ptr<Picture>> pictures_;
  std::size_t largest_ = 0;  // bytes of pixels
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace rfseg
