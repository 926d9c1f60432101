#include "pipeline/pictures_ahead.h"

#include <algorithm>
#include <utility>

#include "core/thread.h"
#include "media/image_io.h"
#include "rfseg/error.h"

namespace rfseg {

PicturesAhead::PicturesAhead(Decode decode, int threads)
    : decode_(std::move(decode)), most_threads_(static_cast<std::size_t>(std::max(1, threads))) {}

PicturesAhead::~PicturesAhead() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool PicturesAhead::has_room() const {
  const std::lock_guard lock(mutex_);
  return pictures_.empty() || (pictures_.size() < 2 * most_threads_ && held_ < kMostBytes);
}

void PicturesAhead::ask(const std::string& path) {
  auto picture = std::make_shared<Picture>();
  picture->path = path;
  const std::lock_guard lock(mutex_);
  pictures_.push_back(std::move(picture));
  if (threads_.size() < std::min(most_threads_, pictures_.size())) {
    try {
      start_thread(threads_, [this] { work(); });
    } catch (const Error&) {  // the others go on alone
      if (threads_.empty()) throw;
    }
  }
  asked_.notify_one();
}

std::size_t PicturesAhead::waiting() const {
  const std::lock_guard lock(mutex_);
  return pictures_.size();
}

Image PicturesAhead::take() {
  std::unique_lock lock(mutex_);
  const std::shared_ptr<Picture> picture = pictures_.front();
  done_.wait(lock, [&] { return picture->done; });
  pictures_.pop_front();
  held_ -= picture->bytes;
  room_.notify_all();
  if (picture->failure) std::rethrow_exception(picture->failure);
  return std::move(picture->image);
}

bool PicturesAhead::is_next_to_hold(const std::shared_ptr<Picture>& picture) const {
  for (const auto& before : pictures_) {
    if (before == picture) return true;
    if (!before->sized && !before->done) return false;
  }
  return true;
}

// In the order of asking, so that those who wait never wait for a picture that waits for them.
void PicturesAhead::reserve(const std::shared_ptr<Picture>& picture, std::size_t bytes) {
  std::unique_lock lock(mutex_);
  if (picture->sized) return;
  room_.wait(lock, [&] {
    return stopping_ || (is_next_to_hold(picture) && (held_ == 0 || held_ + bytes <= kMostBytes));
  });
  if (stopping_) throw Error(ErrorCode::kCancelled, picture->path + ": cancelled");
  held_ += picture->bytes = bytes;
  picture->sized = true;
  room_.notify_all();
}

void PicturesAhead::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    std::shared_ptr<Picture> picture;
    asked_.wait(lock, [&] {
      const auto next =
          std::find_if(pictures_.begin(), pictures_.end(), [](const auto& p) { return !p->begun; });
      picture = next == pictures_.end() ? nullptr : *next;
      return stopping_ || picture != nullptr;
    });
    if (stopping_) return;
    picture->begun = true;
    lock.unlock();
    try {
      const AnnounceImageBytes announce([&](std::size_t bytes) { reserve(picture, bytes); });
      picture->image = decode_(picture->path);
    } catch (...) {
      picture->failure = std::current_exception();
    }
    lock.lock();
    picture->done = true;
    held_ += picture->image.pixels.size() - picture->bytes;  // 0 of one that failed
    picture->bytes = picture->image.pixels.size();
    done_.notify_all();
    room_.notify_all();
  }
}

}  // namespace rfseg
