#include "engine/cuda/timing/step_times.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "core/half.h"
#include "engine/cuda/timing/cublas_lt.h"

namespace rfseg::cuda {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// Milliseconds of one `enqueue(first)`, median over graphs of many in a row.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {}

  double time(const std::function<void(bool first)>& enqueue) {
    enqueue(true);  // loads kernels, which a capture does not allow
    check(cudaStreamSynchronize(stream_), "running a step");
    Graph graph;
    graph.capture(stream_, [&] {
      for (int i = 0; i < kInRow; ++i) enqueue(i == 0);
    });
    std::vector<float> times;
    for (int round = -kWarmup; round < kRounds; ++round) {
      check(cudaEventRecord(before_, stream_), "recording an event");
      graph.launch(stream_);
      check(cudaEventRecord(after_, stream_), "recording an event");
      check(cudaStreamSynchronize(stream_), "running a step");
      if (round >= 0) times.push_back(elapsed_ms(before_, after_));
    }
    std::sort(times.begin(), times.end());
    return double{times[times.size() / 2]} / kInRow;
  }

 private:
  static constexpr int kInRow = 20, kWarmup = 3, kRounds = 15;
  cudaStream_t stream_;
  Event before_{true}, after_{true};
};

/// cuBLASLt on operands of its own; zeros would flatter it.
class LibraryTimer {
 public:
  double time(Timer& timer, cudaStream_t stream, const StepCost& cost) {
    if (!library_.missing().empty()) return kNone;
    const auto halves = [&](Buffer& buffer, double count) {
      buffer.reserve(static_cast<std::size_t>(count) * 2);
      fill(buffer, static_cast<std::size_t>(count) * 2);
    };
    const double batch = cost.batch;
    halves(a_, batch * cost.m * cost.k);
    halves(b_, batch * cost.n * cost.k);
    out_.reserve(static_cast<std::size_t>(batch * cost.m * cost.n) * 2);
    double best = kNone;
    for (int algorithm = 0; algorithm < 4; ++algorithm) {
      const auto multiply = [&] {
        return library_.multiply(stream, cost.m, cost.n, cost.k, a_.data(), b_.data(), out_.data(),
                                 algorithm, cost.batch);
      };
      if (!multiply()) break;
      const double ms = timer.time([&](bool) { multiply(); });
      if (!(ms >= best)) best = ms;
    }
    return best;
  }

 private:
  void fill(const Buffer& buffer, std::size_t bytes) {
    if (pattern_.empty()) {
      std::mt19937 random(3);
      for (int i = 0; i < 1 << 20; ++i) {
        pattern_.push_back(float_to_half(static_cast<float>(random()) * 0x1p-31f - 1.0f));
      }
    }
    const std::size_t size = pattern_.size() * sizeof(pattern_[0]);
    for (std::size_t at = 0; at < bytes; at += size) {
      upload(buffer.data() + at, pattern_.data(), std::min(size, bytes - at), "uploading operands");
    }
  }

  CublasLt library_;
  Buffer a_{Buffer::Kind::kDevice}, b_{Buffer::Kind::kDevice}, out_{Buffer::Kind::kDevice};
  std::vector<uint16_t> pattern_;
};

}  // namespace

std::vector<StepTime> time_steps(const std::function<void(const StepObserver& observer)>& pass,
                                 cudaStream_t stream, bool library) {
  // Steps of one kind and shape cost the same: the first stands for all.
  std::vector<StepTime> times;
  std::vector<int> first;  // index in the pass
  std::vector<StepCost> costs;
  std::map<std::pair<std::string, std::string>, std::size_t> known;
  int count = 0;
  pass([&](const StepCost& cost, const Queue& queue, const auto& enqueue) {
    enqueue(queue);
    const auto [found, fresh] = known.try_emplace({cost.kind, cost.shape}, times.size());
    if (fresh) {
      times.push_back({cost.kind, cost.shape, 0, 0, kNone, cost.flops, cost.bytes});
      costs.push_back(cost);
      first.push_back(count);
    }
    ++times[found->second].count;
    ++count;
  });
  Timer timer(stream);
  LibraryTimer library_timer;
  for (std::size_t i = 0; i < times.size(); ++i) {
    int at = 0;
    pass([&](const StepCost&, const Queue& queue, const auto& enqueue) {
      if (at < first[i]) enqueue(queue);
      if (at == first[i]) {
        times[i].ms = timer.time([&](bool first_in_row) {
          Queue on = queue;
          on.overlap = queue.overlap && !first_in_row;
          enqueue(on);
        });
      }
      ++at;
    });
    if (library && costs[i].m > 0) {
      times[i].cublaslt_ms = library_timer.time(timer, stream, costs[i]);
    }
  }
  check(cudaStreamSynchronize(stream), "timing the network's steps");
  return times;
}

}  // namespace rfseg::cuda
