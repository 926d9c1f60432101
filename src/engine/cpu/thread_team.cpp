#include "engine/cpu/thread_team.h"

#include <utility>

#include "core/thread.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rfseg::cpu {
namespace {

// Loops follow each other within microseconds during a forward pass; between passes the workers
// should leave the core to others soon.
constexpr int kSpins = 2000;

void pause_core() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  try {
    for (int i = 1; i < threads; ++i) start_thread(workers_, [this, i] { work(i); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadTeam::~ThreadTeam() { stop(); }

void ThreadTeam::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    loop_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadTeam::claim_tasks(int worker) {
  for (int task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
    try {
      call_(body_, task, worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_ || task < error_task_) {
        error_ = std::current_exception();
        error_task_ = task;
      }
      next_.store(tasks_, std::memory_order_relaxed);
    }
  }
}

void ThreadTeam::run_erased(int tasks, const void* body, Call call) {
  body_ = body;
  call_ = call;
  tasks_ = tasks;
  error_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  if (workers_.empty() || tasks <= 1) {
    claim_tasks(0);
  } else {
    open_.store(true);  // publishes the fields above
    loop_.fetch_add(1);
    if (sleeping_.load() > 0) {
      { const std::lock_guard lock(mutex_); }  // a worker past its check is now waiting
      wake_.notify_all();
    }
    claim_tasks(0);
    // A worker that has not come by now finds nothing to do: only those inside are waited for.
    open_.store(false);
    for (int spins = 0; inside_.load() > 0; ++spins) {
      if (spins < kSpins) {
        pause_core();
      } else {
        std::this_thread::yield();
      }
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadTeam::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    for (int spins = 0; loop_.load(std::memory_order_acquire) == seen && spins < kSpins; ++spins) {
      pause_core();
    }
    if (loop_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return loop_.load() != seen; });
      sleeping_.fetch_sub(1);
    }
    if (stop_.load()) return;
    seen = loop_.load();
    inside_.fetch_add(1);
    if (open_.load()) claim_tasks(worker);
    inside_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace rfseg::cpu
