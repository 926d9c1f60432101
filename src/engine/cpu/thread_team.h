#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace rfseg::cpu {

/// A fixed team of threads that runs loops whose tasks are claimed one by one, so that a thread
/// that lost its core to another process holds up one task and not a share of the loop. Between
/// loops the workers spin for some microseconds and then sleep. The caller is worker 0.
/// One loop at a time; not to be called from a task.
class ThreadTeam {
 public:
  /// `threads` >= 1 in all, the caller included.
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(task, worker) for every task in [0, tasks), each once, from any worker; returns
  /// when all are done. If tasks throw, no new ones start and the exception of the lowest task
  /// leaves.
  template <class Body>
  void run(int tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased(tasks, &body, [](const void* b, int task, int worker) {
      (*static_cast<Plain*>(const_cast<void*>(b)))(task, worker);
    });
  }

 private:
  using Call = void (*)(const void* body, int task, int worker);
  void run_erased(int tasks, const void* body, Call call);
  void work(int worker);
  void stop();
  void claim_tasks(int worker);

  std::vector<std::thread> workers_;
  const void* body_ = nullptr;
  Call call_ = nullptr;
  int tasks_ = 0;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> inside_{0};     // workers that may touch the fields above
  std::atomic<bool> open_{false};              // whether workers may start on the current loop
  alignas(64) std::atomic<uint32_t> loop_{0};  // counts loops; workers wait for it to change
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::exception_ptr error_;
  int error_task_ = 0;
};

}  // namespace rfseg::cpu
