#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

namespace rfseg {

/// A first-in first-out queue between two threads that never holds more than `capacity` items.
template <class T>
class BoundedQueue {
 public:
  explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

  /// Waits for room. False when the queue was closed: the item was not taken.
  bool push(T item) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || items_.size() < capacity_; });
    if (closed_) return false;
    items_.push_back(std::move(item));
    if (items_.size() > max_depth_) max_depth_ = items_.size();
    depths_ += items_.size();
    ++pushes_;
    changed_.notify_all();
    return true;
  }

  /// Waits for an item. Nothing when the queue is closed and empty.
  std::optional<T> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !items_.empty(); });
    return take();
  }

  /// As `pop`, but nothing also when `deadline` passes first.
  std::optional<T> pop_until(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return closed_ || !items_.empty(); });
    return take();
  }

  /// No more items come; those that are in can still be taken.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  /// Closes and throws away what is in.
  void abort() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    items_.clear();
    changed_.notify_all();
  }

  std::size_t max_depth() const {
    const std::lock_guard lock(mutex_);
    return max_depth_;
  }

  /// Items in the queue after a push, in the mean.
  double mean_depth() const {
    const std::lock_guard lock(mutex_);
    return pushes_ > 0 ? static_cast<double>(depths_) / static_cast<double>(pushes_) : 0;
  }

 private:
  std::optional<T> take() {
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    changed_.notify_all();
    return item;
  }

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> items_;
  std::size_t max_depth_ = 0;
  uint64_t depths_ = 0, pushes_ = 0;
  bool closed_ = false;
};

}  // namespace rfseg
