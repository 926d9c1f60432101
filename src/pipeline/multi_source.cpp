#include "pipeline/multi_source.h"

#include <algorithm>
#include <utility>

#include "core/thread.h"

namespace rfseg {

MultiSource::MultiSource(std::vector<std::unique_ptr<FrameSource>> sources, PicturePool pool,
                         Options options)
    : sources_(std::move(sources)),
      pool_(std::move(pool)),
      options_(std::move(options)),
      streams_(sources_.size()) {
  const std::size_t threads =
      std::min(sources_.size(), static_cast<std::size_t>(std::max(1, options_.at_once)));
  try {
    for (std::size_t i = 0; i < threads; ++i) start_thread(threads_, [this] { work(); });
  } catch (...) {
    stop();
    throw;
  }
}

MultiSource::~MultiSource() { stop(); }

void MultiSource::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void MultiSource::work() {
  while (true) {
    std::size_t index = 0;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || next_source_ == sources_.size()) return;
      index = next_source_++;
    }
    try {
      read(index);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stopping_ = true;
    }
    std::unique_lock lock(mutex_);
    streams_[index].ended = true;
    changed_.notify_all();
    // Else many short sources would wait in memory at once, and be under way at once downstream.
    changed_.wait(lock, [&] { return stopping_ || streams_[index].waiting.empty(); });
  }
}

void MultiSource::read(std::size_t index) {
  FrameSource& source = *sources_[index];
  while (true) {
    if (options_.cancelled && options_.cancelled()) return;
    SourceFrame frame;
    if (!source.next(frame)) return;
    frame.stream = static_cast<int>(index);
    const bool live = source.live();
    if (live) live_ = true;
    // A picture brings its own memory along.
    if (frame.error.empty() && frame.storage.empty()) pool_.keep(frame.view, frame.held);
    if (!push(index, frame, live)) return;
  }
}

bool MultiSource::push(std::size_t index, SourceFrame& frame, bool live) {
  std::unique_lock lock(mutex_);
  Stream& stream = streams_[index];
  const auto room = static_cast<std::size_t>(std::max(1, options_.queue));
  const bool droppable = live && frame.error.empty();
  if (droppable && stream.waiting.size() >= room) {
    const auto oldest = std::find_if(stream.waiting.begin(), stream.waiting.end(),
                                     [](const Stream::Waiting& w) { return w.droppable; });
    if (oldest != stream.waiting.end()) {
      stream.waiting.erase(oldest);
      ++stream.stats.dropped;
    }
  }
  changed_.wait(lock, [&] { return stopping_ || stream.waiting.size() < room; });
  if (stopping_) return false;
  stream.waiting.push_back({std::move(frame), droppable});
  // What a picture's view points to has moved along with it.
  stream.stats.max_queue = std::max(stream.stats.max_queue, stream.waiting.size());
  changed_.notify_all();
  return true;
}

bool MultiSource::take(SourceFrame& frame) {
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    const std::size_t index = (turn_ + i) % streams_.size();
    Stream& stream = streams_[index];
    if (stream.waiting.empty()) continue;
    frame = std::move(stream.waiting.front().frame);
    stream.waiting.pop_front();
    ++stream.stats.frames;
    turn_ = index + 1;
    changed_.notify_all();
    return true;
  }
  return false;
}

bool MultiSource::all_ended() const {
  return std::all_of(streams_.begin(), streams_.end(),
                     [](const Stream& stream) { return stream.ended && stream.waiting.empty(); });
}

bool MultiSource::next(SourceFrame& frame) {
  return next_until(frame, std::chrono::steady_clock::time_point::max()) == Got::kFrame;
}

FrameSource::Got MultiSource::next_until(SourceFrame& frame,
                                         std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (failure_) std::rethrow_exception(failure_);
    if (options_.cancelled && options_.cancelled()) return Got::kEnd;
    if (take(frame)) return Got::kFrame;
    if (all_ended()) return Got::kEnd;
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) return Got::kNothing;
    // Woken now and then: nobody tells when the run is cancelled.
    changed_.wait_until(lock, std::min(deadline, now + std::chrono::milliseconds(50)));
  }
}

int64_t MultiSource::estimated_total() const {
  int64_t total = 0;
  for (const auto& source : sources_) {
    const int64_t one = source->estimated_total();
    if (one == 0) return 0;
    total += one;
  }
  return total;
}

bool MultiSource::ended(std::size_t source, int64_t frames) const {
  const std::lock_guard lock(mutex_);
  const Stream& stream = streams_[source];
  return stream.ended && stream.waiting.empty() && stream.stats.frames == frames;
}

std::vector<MultiSource::StreamStats> MultiSource::stats() const {
  const std::lock_guard lock(mutex_);
  std::vector<StreamStats> all;
  for (const Stream& stream : streams_) all.push_back(stream.stats);
  return all;
}

}  // namespace rfseg
