#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "engine/engine.h"
#include "pipeline/frame_source.h"
#include "pipeline/multi_source.h"

namespace rfseg::cli {

/// The inputs of a run as one source: one after another, or several at once.
class InputSet {
 public:
  /// `streams`: videos and live inputs that are read at once; 0 is all live ones, and beside them
  /// the others one after another.
  InputSet(const std::vector<Input>& inputs, const InputOptions& options, int streams,
           const Engine& engine);
  ~InputSet();
  InputSet(const InputSet&) = delete;
  InputSet& operator=(const InputSet&) = delete;

  FrameSource& source() { return *source_; }
  /// Ends reading; before the counts are asked for.
  void close();
  /// Sums over InputSource's of the same names.
  int64_t broken_frames() const { return sum(&InputSource::broken_frames); }
  int64_t cut_short() const { return sum(&InputSource::cut_short); }
  int64_t reconnects() const { return sum(&InputSource::reconnects); }
  int64_t picture_work_us() const { return sum(&InputSource::picture_work_us); }
  /// Whether the input `stream` of several has ended and `frames` are all that came of it. May be
  /// called from any thread.
  bool ended(int stream, int64_t frames) const {
    return several_ != nullptr && several_->ended(static_cast<std::size_t>(stream), frames);
  }
  /// Frames that live inputs lost to newer ones.
  int64_t dropped() const;
  /// Each of the inputs that are read at once, for --stats; one entry where files follow each
  /// other, and none where they are not read ahead.
  nlohmann::json streams() const;

 private:
  int64_t sum(int64_t (InputSource::*count)() const) const;

  std::shared_ptr<std::atomic<bool>> stop_;  ///< also ends what waits for a network
  std::vector<std::string> names_;
  std::vector<InputSource*> inputs_;  ///< owned by source_
  MultiSource* several_ = nullptr;    ///< source_, where it is one
  std::unique_ptr<FrameSource> source_;
};

}  // namespace rfseg::cli
