#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "pipeline/frame_source.h"
#include "pipeline/picture_pool.h"

namespace rfseg {

/// Several sources read at once, each by a thread of its own, their frames taken in turn: one of
/// each that has one. Frames of one source stay in order. No source has more than `queue` frames
/// waiting: one that is quicker waits. A live one that has a live frame waiting loses the oldest of
/// these instead: pictures, frames of files and errors are never lost.
class MultiSource : public FrameSource {
 public:
  struct Options {
    int at_once = 8;  ///< sources that are open; the next begins when one has handed on its last
    int queue = 2;
    std::function<bool()> cancelled;  ///< called from several threads
  };
  /// What became of a source's frames.
  struct StreamStats {
    int64_t frames = 0;   ///< handed on, failures included
    int64_t dropped = 0;  ///< live ones, for newer ones
    std::size_t max_queue = 0;
  };

  /// Frames whose pixels have no owner are copied into `pool`.
  MultiSource(std::vector<std::unique_ptr<FrameSource>> sources, PicturePool pool, Options options);
  ~MultiSource() override;
  bool next(SourceFrame& frame) override;
  Got next_until(SourceFrame& frame, std::chrono::steady_clock::time_point deadline) override;
  bool live() const override { return live_; }
  int64_t estimated_total() const override;
  /// Waits until nothing is read any more; frames that wait are not handed on. A source that blocks
  /// has to be cancelled first. By the thread that calls `next`.
  void stop();
  /// Whether `source` has nothing more to give and has handed on `frames`. May be called from any
  /// thread.
  bool ended(std::size_t source, int64_t frames) const;
  /// In the order of the sources; may be called from any thread.
  std::vector<StreamStats> stats() const;

 private:
  struct Stream {
    struct Waiting {
      SourceFrame frame;
      bool droppable = false;  // live, and no error
    };
    std::deque<Waiting> waiting;
    StreamStats stats;
    bool ended = false;
  };
  void work();
  void read(std::size_t index);
  bool push(std::size_t index, SourceFrame& frame, bool live);
  bool take(SourceFrame& frame);
  bool all_ended() const;

  std::vector<std::unique_ptr<FrameSource>> sources_;
  PicturePool pool_;
  Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Stream> streams_;  // guarded by mutex_, as all below
  std::size_t next_source_ = 0, turn_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::atomic<bool> live_{false};
  std::vector<std::thread> threads_;
};

}  // namespace rfseg
