#pragma once

// Runs the kernels' source without a GPU: every thread of a cluster is a fiber, switched at
// barriers and warp functions, so that missing barriers show as wrong results or as a deadlock.
// x86-64 only. See src/core/cuda/simt.h.

#include <cstdint>
#include <cstring>
#include <functional>

namespace rfseg::cuda {

namespace emulator {

struct Position {
  int thread, block_x, block_y, grid_x, cluster_rank, cluster_size;
};
const Position& position();

/// Runs `body(shared)` for a grid of whole clusters. `shared_bytes` of zero-free garbage are given
/// to each block.
void launch(int grid_x, int grid_y, int threads, int cluster, std::size_t shared_bytes,
            const std::function<void(void* shared)>& body);

void block_barrier();
bool block_any(bool value);
void cluster_barrier();
/// Gives `value` to the warp and returns those of all 32 lanes.
const uint64_t* warp_exchange(uint64_t value);
void* peer(void* p, int rank);

template <class T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
template <class T>
uint64_t to_word(T value) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}

}  // namespace emulator

inline int thread_index() { return emulator::position().thread; }
inline int block_x() { return emulator::position().block_x; }
inline int block_y() { return emulator::position().block_y; }
inline int grid_x() { return emulator::position().grid_x; }
inline int cluster_rank() { return emulator::position().cluster_rank; }
inline int cluster_size() { return emulator::position().cluster_size; }
inline void block_sync() { emulator::block_barrier(); }
inline bool block_any(bool value) { return emulator::block_any(value); }
inline void cluster_sync() { emulator::cluster_barrier(); }
inline void cluster_arrive() {}
inline void cluster_wait() { emulator::cluster_barrier(); }
inline float approximate_quotient(float a, float b) { return a / b * 1.000001f; }
inline void warp_sync() { emulator::warp_exchange(0); }
inline uint32_t warp_ballot(bool value) {
  const uint64_t* values = emulator::warp_exchange(value ? 1 : 0);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(values[lane]) << lane;
  return bits;
}
template <class T>
T warp_read(T value, int lane) {
  return emulator::from_word<T>(emulator::warp_exchange(emulator::to_word(value))[lane & 31]);
}
template <class T>
T warp_read_below(T value, int distance) {
  const int lane = thread_index() % 32;
  const uint64_t* values = emulator::warp_exchange(emulator::to_word(value));
  return lane >= distance ? emulator::from_word<T>(values[lane - distance]) : value;
}
template <class T>
T* cluster_peer(T* p, int rank) {
  return static_cast<T*>(emulator::peer(p, rank));
}
template <class T>
T atomic_add(T* p, T v) {
  const T old = *p;
  *p = static_cast<T>(old + v);
  return old;
}
inline void atomic_min(int32_t* p, int32_t v) { *p = v < *p ? v : *p; }
inline void atomic_max(uint32_t* p, uint32_t v) { *p = v > *p ? v : *p; }
inline int opaque(int v) { return v; }
inline int lowest_bit(uint32_t v) { return __builtin_ctz(v); }
inline int count_bits(uint32_t v) { return __builtin_popcount(v); }
inline int leading_zeros(uint32_t v) { return v == 0 ? 32 : __builtin_clz(v); }
inline uint32_t float_bits(float v) { return emulator::from_word<uint32_t>(emulator::to_word(v)); }
inline float float_of_bits(uint32_t v) { return emulator::from_word<float>(v); }
inline void release_next_kernel() {}
inline void await_previous_kernel() {}

}  // namespace rfseg::cuda
