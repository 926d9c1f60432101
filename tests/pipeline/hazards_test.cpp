// What goes wrong in pipelines: results of another frame, frames lost at the end, memory reused too
// early, queues that grow. With an engine whose answer tells which picture it saw, and whose calls
// take a random time.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <random>
#include <thread>

#include "pipeline/multi_source.h"
#include "pipeline/pipeline.h"
#include "pipeline/tiny_model.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using testing::tiny_config;

void pause_randomly(unsigned seed) {
  std::this_thread::sleep_for(std::chrono::microseconds(std::minstd_rand(seed)() % 300));
}

/// A picture whose every byte is its number.
constexpr int kNumbers = 250;

/// One detection a picture: its box's left edge is the picture's number / 1000, read from the
/// pixels that the network got.
class TellingEngine : public Engine {
 public:
  explicit TellingEngine(float sign = 1) : config_(tiny_config()), sign_(sign) {}
  const ModelConfig& config() const override { return config_; }
  const char* backend_name() const override { return "cpu"; }
  std::size_t memory_bytes() const override { return 0; }
  void forward(const float* input, int batch, EngineOutputs& out, const ForwardOptions&) override {
    EXPECT_FALSE(running_.exchange(true)) << "two calls at once";
    pause_randomly(++calls_);
    out.boxes = Tensor(Shape{batch, config_.queries, 4});
    out.logits = Tensor(Shape{batch, config_.queries, config_.logits});
    out.masks = Tensor(Shape{batch, config_.queries, config_.mask_rows(), config_.mask_cols()});
    std::fill(out.logits.data.begin(), out.logits.data.end(), -20.0f);
    std::fill(out.masks.data.begin(), out.masks.data.end(), 1.0f);
    const std::size_t plane = std::size_t{3} * config_.height * config_.width;
    for (int b = 0; b < batch; ++b) {
      // The inverse of the normalisation of the first channel.
      const float value = input[static_cast<std::size_t>(b) * plane] * 0.229f + 0.485f;
      const float number = std::round(value * 255);
      float* box = out.boxes.data.data() + static_cast<std::size_t>(b) * config_.queries * 4;
      box[0] = 0.5f;
      box[1] = 0.5f;
      box[2] = number / 1000;
      box[3] = 0.5f;
      out.logits.data[static_cast<std::size_t>(b) * config_.queries * config_.logits] = 5 * sign_;
    }
    running_ = false;
  }

 private:
  ModelConfig config_;
  float sign_;
  std::atomic<bool> running_{false};
  unsigned calls_ = 0;
};

/// Which picture a result is of.
int told_number(const Detections& detections) {
  if (detections.items.size() != 1) return -1;
  const float* box = detections.items[0].box_xyxy;
  return static_cast<int>(
      std::lround((box[2] - box[0]) / static_cast<float>(detections.width) * 1000));
}

/// Pictures number `first`, `first + 1`.. of its own, in one buffer that is overwritten each time,
/// or in buffers that are overwritten when their owner lets go of them.
class NumberedSource : public FrameSource {
 public:
  struct Options {
    int first = 0, count = 10;
    bool owned = false, is_live = false;
    int bad_every = 0;
    int pause_us = 0;
  };
  NumberedSource(std::string name, Options options) : name_(std::move(name)), options_(options) {}

  bool next(SourceFrame& frame) override {
    if (at_ == options_.count) return false;
    if (options_.pause_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(options_.pause_us));
    }
    const int number = (options_.first + at_) % kNumbers;
    frame = SourceFrame();
    frame.file = name_;
    frame.frame = at_++;
    if (options_.bad_every > 0 && at_ % options_.bad_every == 0) {
      frame.error = name_ + ": broken";
      return true;
    }
    const int width = 40 + number % 17, height = 30 + number % 13;
    const std::size_t bytes = static_cast<std::size_t>(width) * height * 3;
    if (options_.owned) {
      const int now = ++*alive_;
      if (now > most_alive) most_alive = now;
      auto* memory = new std::vector<uint8_t>(bytes, static_cast<uint8_t>(number));
      frame.view = ImageView::packed(memory->data(), width, height);
      frame.held.owner = std::shared_ptr<const void>(memory, [alive = alive_](auto* m) {
        std::fill(m->begin(), m->end(), uint8_t{255});
        delete m;
        --*alive;
      });
    } else {
      buffer_.assign(bytes, static_cast<uint8_t>(number));
      frame.view = ImageView::packed(buffer_.data(), width, height);
    }
    return true;
  }
  bool live() const override { return options_.is_live; }
  int alive() const { return *alive_; }
  std::atomic<int> most_alive{0};

 private:
  std::string name_;
  Options options_;
  int at_ = 0;
  std::vector<uint8_t> buffer_;
  std::shared_ptr<std::atomic<int>> alive_ = std::make_shared<std::atomic<int>>(0);
};

ResolvedOptions resolved() {
  PredictOptions predict;
  predict.threshold = 0.5f;
  return resolve_options(predict, tiny_config());
}

std::vector<std::unique_ptr<FrameSource>> sources(int count, NumberedSource::Options options) {
  std::vector<std::unique_ptr<FrameSource>> all;
  for (int i = 0; i < count; ++i) {
    NumberedSource::Options own = options;
    own.first = 31 * i;
    own.count = options.count + i;
    all.push_back(std::make_unique<NumberedSource>("s" + std::to_string(i), own));
  }
  return all;
}

PicturePool pool(const Engine& engine) { return PicturePool(host_allocator(engine)); }

TEST(Hazards, EveryResultIsItsOwnFramesAtEveryDepthAndBatch) {
  TellingEngine engine;
  const ResolvedOptions options = resolved();
  for (const int depth : {1, 2, 4}) {
    for (const int batch : {1, 3}) {
      for (const bool owned : {false, true}) {
        NumberedSource source("s", {5, 100, owned, false, 7, 0});
        PipelineOptions run;
        run.depth = depth;
        run.batch = batch;
        std::vector<std::pair<int64_t, Detections>> results;  // all held to the end
        int failed = 0;
        run_pipeline(engine, source, options, run, [&](PipelineFrame& frame) {
          pause_randomly(static_cast<unsigned>(results.size()));
          failed += frame.error.empty() ? 0 : 1;
          results.emplace_back(*frame.record.frame, frame.record.detections);
        });
        ASSERT_EQ(results.size(), 100u);
        EXPECT_EQ(failed, 14);
        for (std::size_t i = 0; i < results.size(); ++i) {
          EXPECT_EQ(results[i].first, static_cast<int64_t>(i));
          if (i % 7 == 6) continue;
          EXPECT_EQ(told_number(results[i].second), 5 + static_cast<int>(i))
              << "depth " << depth << ", batch " << batch;
        }
        EXPECT_EQ(source.alive(), 0);
        EXPECT_LE(source.most_alive, batch * (depth + 2) + 1);
      }
    }
  }
}

// The last batch is seldom full: it must not wait for more, nor be lost.
TEST(Hazards, FramesOfSeveralStreamsShareBatchesAndNoneIsLostOrExchanged) {
  TellingEngine engine;
  const ResolvedOptions options = resolved();
  for (const int depth : {1, 2, 4}) {
    for (const int batch : {1, 4, 7}) {
      MultiSource::Options several;
      several.at_once = 5;
      MultiSource source(sources(5, {0, 23, false, false, 0, 0}), pool(engine), several);
      PipelineOptions run;
      run.depth = depth;
      run.batch = batch;
      std::map<int, int64_t> seen;
      const PipelineStats stats =
          run_pipeline(engine, source, options, run, [&](PipelineFrame& frame) {
            ASSERT_EQ(frame.error, "");
            EXPECT_EQ(frame.record.file, "s" + std::to_string(frame.stream));
            EXPECT_EQ(*frame.record.frame, seen[frame.stream]++);
            EXPECT_EQ(told_number(frame.record.detections),
                      (31 * frame.stream + static_cast<int>(*frame.record.frame)) % kNumbers);
          });
      EXPECT_EQ(stats.frames, 5 * 23 + 10);
      for (int i = 0; i < 5; ++i) EXPECT_EQ(seen[i], 23 + i);
      EXPECT_EQ(stats.batches, (stats.frames + batch - 1) / batch) << "files fill every batch";
    }
  }
}

TEST(Hazards, ALiveStreamUnderOverloadLosesOldFramesAndCountsThem) {
  TellingEngine engine;
  MultiSource::Options several;
  several.queue = 2;
  MultiSource source(sources(2, {0, 60, false, true, 0, 100}), pool(engine), several);
  PipelineOptions run;
  std::map<int, int64_t> last, count;
  run_pipeline(engine, source, resolved(), run, [&](PipelineFrame& frame) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto before = last.find(frame.stream);
    if (before != last.end()) {
      EXPECT_GT(*frame.record.frame, before->second);
    }
    last[frame.stream] = *frame.record.frame;
    ++count[frame.stream];
    EXPECT_EQ(told_number(frame.record.detections),
              (31 * frame.stream + static_cast<int>(*frame.record.frame)) % kNumbers);
  });
  const std::vector<MultiSource::StreamStats> stats = source.stats();
  for (int i = 0; i < 2; ++i) {
    const auto& stream = stats[static_cast<std::size_t>(i)];
    EXPECT_GT(stream.dropped, 0);
    EXPECT_EQ(stream.frames, count[i]);
    EXPECT_EQ(stream.frames + stream.dropped, 60 + i);
    EXPECT_EQ(last[i], 59 + i) << "the newest frame counts";
    EXPECT_LE(stream.max_queue, 2u);
  }
}

/// Frames of a file, an error and then live frames, as fast as they are taken.
class FileThenLive : public FrameSource {
 public:
  FileThenLive(int files, int live) : files_(files), end_(files + 1 + live) {}
  bool next(SourceFrame& frame) override {
    if (at_ == end_) return false;
    frame = SourceFrame();
    frame.frame = at_;
    if (at_ == files_) frame.error = "broken";
    frame.storage.width = frame.storage.height = 1;
    frame.storage.pixels.resize(3);
    frame.view = frame.storage.view();
    ++at_;
    return true;
  }
  // Of the frame handed out last.
  bool live() const override { return at_ > files_ + 1; }

 private:
  const int files_, end_;
  int at_ = 0;
};

TEST(Hazards, OnlyLiveFramesAreDroppedForLiveFrames) {
  constexpr int kFiles = 3, kLive = 40;
  TellingEngine engine;
  for (const int room : {1, 2, 5}) {
    std::vector<std::unique_ptr<FrameSource>> one;
    one.push_back(std::make_unique<FileThenLive>(kFiles, kLive));
    MultiSource::Options options;
    options.queue = room;
    MultiSource source(std::move(one), pool(engine), options);
    std::vector<int64_t> seen;
    int errors = 0;
    for (SourceFrame frame; source.next(frame);) {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      seen.push_back(*frame.frame);
      errors += frame.error.empty() ? 0 : 1;
    }
    ASSERT_GT(seen.size(), static_cast<std::size_t>(kFiles)) << "queue " << room;
    for (int i = 0; i <= kFiles; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
    EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
    EXPECT_EQ(seen.back(), kFiles + kLive);
    EXPECT_EQ(errors, 1);
    const MultiSource::StreamStats stats = source.stats().at(0);
    EXPECT_GT(stats.dropped, 0);
    EXPECT_EQ(stats.frames + stats.dropped, kFiles + 1 + kLive);
    EXPECT_LE(stats.max_queue, static_cast<std::size_t>(room));
  }
}

// A batch of live frames goes on its way when the wait is over, though it is not full.
TEST(Hazards, ALiveFrameWaitsNoLongerThanAllowed) {
  TellingEngine engine;
  MultiSource source(sources(1, {0, 6, false, true, 0, 40000}), pool(engine), {});
  PipelineOptions run;
  run.batch = 64;
  run.max_wait_ms = 5;
  const PipelineStats stats = run_pipeline(engine, source, resolved(), run, [](PipelineFrame&) {});
  EXPECT_EQ(stats.frames, 6);
  EXPECT_GE(stats.batches, 4);  // 40 ms apart, 5 ms of patience
}

// Frame k + 1 is read while frame k is computed: with a source and a sink that both take 2 ms and
// depth 2, 40 frames take much less than their sum.
TEST(Hazards, StagesOverlap) {
  TellingEngine engine;
  const auto time = [&](int depth) {
    NumberedSource source("s", {0, 40, false, false, 0, 2000});
    PipelineOptions run;
    run.depth = depth;
    return run_pipeline(
               engine, source, resolved(), run,
               [](PipelineFrame&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); })
        .wall_ms;
  };
  EXPECT_LT(time(2), 0.8 * time(1));
}

TEST(Hazards, TwoEnginesSideBySideDoNotMix) {
  TellingEngine engines[2] = {TellingEngine(1), TellingEngine(-1)};  // the second finds nothing
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int which = 0; which < 2; ++which) {
    threads.emplace_back([&, which] {
      NumberedSource source("s", {0, 80, true, false, 0, 0});
      const ResolvedOptions options = resolved();
      run_pipeline(engines[which], source, options, {}, [&](PipelineFrame& frame) {
        const int told = told_number(frame.record.detections);
        if (told != (which == 0 ? static_cast<int>(*frame.record.frame) : -1)) ++wrong;
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

/// Cannot compute every fifth batch.
class FailingEngine : public TellingEngine {
 public:
  explicit FailingEngine(ErrorCode code) : code_(code) {}
  void forward(const float* input, int batch, EngineOutputs& out,
               const ForwardOptions& options) override {
    if (++count_ % 5 == 0) throw Error(code_, "too much");
    TellingEngine::forward(input, batch, out, options);
  }

 private:
  ErrorCode code_;
  int count_ = 0;
};

TEST(Hazards, ABatchThatCannotBeComputedIsReportedAndTheOthersGoOn) {
  for (const int depth : {1, 3}) {
    FailingEngine engine(ErrorCode::kInput);
    NumberedSource source("s", {0, 40, true, false, 0, 0});
    PipelineOptions run;
    run.depth = depth;
    run.batch = 2;
    std::vector<std::string> errors;
    const PipelineStats stats =
        run_pipeline(engine, source, resolved(), run, [&](PipelineFrame& frame) {
          errors.push_back(frame.error);
          if (!frame.error.empty()) return;
          EXPECT_EQ(told_number(frame.record.detections), static_cast<int>(*frame.record.frame));
        });
    ASSERT_EQ(errors.size(), 40u);
    EXPECT_EQ(stats.failed, 8);
    for (std::size_t i = 0; i < errors.size(); ++i) {
      EXPECT_EQ(errors[i], i / 2 % 5 == 4 ? "s: too much" : "") << i;
    }
    EXPECT_EQ(source.alive(), 0);
  }
}

TEST(Hazards, AnEngineThatIsLostEndsTheRun) {
  for (const int depth : {1, 3}) {
    FailingEngine engine(ErrorCode::kDevice);
    MultiSource source(sources(3, {0, 1000, false, false, 0, 0}), pool(engine), {});
    PipelineOptions run;
    run.depth = depth;
    EXPECT_THROW(run_pipeline(engine, source, resolved(), run, [](PipelineFrame&) {}), Error);
  }
}

// Memory that frames are copied into is used again: a long run needs no more than a short one.
TEST(Hazards, ALongRunNeedsNoMoreMemoryThanAShortOne) {
  TellingEngine engine;
  int buffers[2];
  for (const int length : {40, 2000}) {
    PicturePool shared = pool(engine);
    MultiSource source(sources(3, {0, length, false, false, 0, 0}), shared, {});
    PipelineOptions run;
    run.depth = 2;
    run.batch = 2;
    run.memory = true;
    const PipelineStats stats =
        run_pipeline(engine, source, resolved(), run, [](PipelineFrame&) {});
    buffers[length == 40 ? 0 : 1] = shared.buffers();
    if (length == 40) continue;
    ASSERT_LE(stats.memory.size(), 128u);
    ASSERT_GE(stats.memory.size(), 60u);
    const std::size_t early = stats.memory[stats.memory.size() / 4].host_bytes;
    EXPECT_LE(stats.memory.back().host_bytes, early + (std::size_t{8} << 20));
  }
  // Three streams with two waiting and one being read each, and those of the batch being filled.
  EXPECT_LE(buffers[0], 3 * 3 + 2);
  EXPECT_LE(buffers[1], 3 * 3 + 2);
}

TEST(Hazards, OnlySoManySourcesAreOpenAtOnce) {
  TellingEngine engine;
  MultiSource::Options several;
  several.at_once = 2;
  MultiSource source(sources(5, {0, 30, false, false, 0, 0}), pool(engine), several);
  SourceFrame frame;
  std::array<int, 5> given{};
  while (source.next(frame)) {
    ++given[static_cast<std::size_t>(frame.stream)];
    // A source begins when all but one of those before it have ended, whichever that one is: a
    // thread that has taken its source may not have run since.
    int going_on = 0;
    for (int before = 0; before < frame.stream; ++before) {
      if (given[static_cast<std::size_t>(before)] < 30 + before) ++going_on;
    }
    EXPECT_LE(going_on, 1);
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(given[static_cast<std::size_t>(i)], 30 + i);
}

// Sources of one frame never fill a queue: that must not let all of them begin at once.
TEST(Hazards, NoMoreSourcesThanAllowedAreUnderWayHoweverShort) {
  constexpr int kSources = 30, kAtOnce = 3;
  class One : public FrameSource {
   public:
    explicit One(std::atomic<int>& begun) : begun_(begun) {}
    bool next(SourceFrame& frame) override {
      if (done_) return false;
      ++begun_;
      done_ = true;
      frame = SourceFrame();
      frame.error = "one";
      return true;
    }

   private:
    std::atomic<int>& begun_;
    bool done_ = false;
  };
  TellingEngine engine;
  std::atomic<int> begun{0};
  std::vector<std::unique_ptr<FrameSource>> all;
  for (int i = 0; i < kSources; ++i) all.push_back(std::make_unique<One>(begun));
  MultiSource::Options options;
  options.at_once = kAtOnce;
  MultiSource source(std::move(all), pool(engine), options);
  int taken = 0, ended = 0;
  for (SourceFrame frame; source.next(frame);) {
    // The others of those that were allowed, at least, have ended by now.
    ended = 0;
    for (std::size_t i = 0; i < kSources; ++i) ended += source.ended(i, 1) ? 1 : 0;
    EXPECT_FALSE(source.ended(static_cast<std::size_t>(frame.stream), 0));
    ++taken;
    EXPECT_GE(ended, taken - kAtOnce);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_LE(begun, taken + kAtOnce);
  }
  EXPECT_EQ(taken, kSources);
  for (std::size_t i = 0; i < kSources; ++i) EXPECT_TRUE(source.ended(i, 1)) << i;
}

TEST(Hazards, CancellingEndsStreamsThatGoOnForEver) {
  TellingEngine engine;
  std::atomic<bool> cancelled{false};
  MultiSource::Options several;
  several.cancelled = [&] { return cancelled.load(); };
  MultiSource source(sources(3, {0, 1 << 30, false, true, 0, 50}), pool(engine), several);
  PipelineOptions run;
  run.cancelled = several.cancelled;
  int seen = 0;
  run_pipeline(engine, source, resolved(), run, [&](PipelineFrame&) {
    if (++seen == 20) cancelled = true;
  });
  EXPECT_GE(seen, 20);
  EXPECT_LE(seen, 40);
}

}  // namespace
}  // namespace rfseg
