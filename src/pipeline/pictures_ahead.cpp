#include "pipeline/pictures_ahead.h"

#include <algorithm>
#include <utility>

namespace rfseg {

PicturesAhead::PicturesAhead(Decode decode, int threads)
    : decode_(std::move(decode)), most_threads_(static_cast<std::size_t>(std::max(1, threads))) {}

PicturesAhead::~PicturesAhead() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool PicturesAhead::has_room() const {
  const std::lock_guard lock(mutex_);
  return pictures_.empty() ||
         (pictures_.size() < 2 * most_threads_ && (pictures_.size() + 1) * largest_ <= kMostBytes);
}

void PicturesAhead::ask(const std::string& path) {
  auto picture = std::make_shared<Picture>();
  picture->path = path;
  const std::lock_guard lock(mutex_);
  pictures_.push_back(std::move(picture));
  if (threads_.size() < std::min(most_threads_, pictures_.size())) {
    threads_.emplace_back([this] { work(); });
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
  if (picture->failure) std::rethrow_exception(picture->failure);
  return std::move(picture->image);
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
      picture->image = decode_(picture->path);
    } catch (...) {
      picture->failure = std::current_exception();
    }
    lock.lock();
    picture->done = true;
    largest_ = std::max(largest_, picture->image.pixels.size());
    done_.notify_all();
  }
}

}  // namespace rfseg
