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
/// `kMostBytes` of pixels or one picture. Memory is given in the order of asking, to a picture
/// whose size is known (AnnounceImageBytes) before it is decoded; others wait for theirs.
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
    std::size_t bytes = 0;  // of pixels, that it holds or is about to
    bool begun = false, sized = false, done = false;
  };
  void work();
  /// Waits until the picture may take its memory. Throws Error(kCancelled) at the end of all.
  void reserve(const std::shared_ptr<Picture>& picture, std::size_t bytes);
  bool is_next_to_hold(const std::shared_ptr<Picture>& picture) const;

  Decode decode_;
  std::size_t most_threads_;
  mutable std::mutex mutex_;
  std::condition_variable asked_, done_, room_;
  std::deque<std::shared_ptr<Picture>> pictures_;
  std::size_t held_ = 0;  // bytes of pixels of pictures_
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace rfseg
