#pragma once

// src/core/cuda/tensor_core.h for the emulator. Lanes lend each other their fragments by pointers
// into the fibers' stacks. Asynchronous copies happen when they are waited for, as late as they
// may, so that a missing wait shows.

#include <cmath>
#include <vector>

#include "core/half.h"

namespace rfseg::cuda {

struct alignas(16) Quad {
  uint32_t word[4];
};

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

inline Quad load_quad(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) __builtin_trap();
  Quad v;
  std::memcpy(&v, p, 16);
  return v;
}
inline void store_quad(void* p, const Quad& v) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) __builtin_trap();
  std::memcpy(p, &v, 16);
}

inline void store_pair(void* p, uint32_t first, uint32_t second) {
  if (reinterpret_cast<uintptr_t>(p) % 8 != 0) __builtin_trap();
  const uint32_t both[2] = {first, second};
  std::memcpy(p, both, 8);
}

inline uint32_t pack_halves(float low, float high) {
  return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
}
inline float low_half(uint32_t v) { return half_to_float(static_cast<uint16_t>(v)); }
inline float high_half(uint32_t v) { return half_to_float(static_cast<uint16_t>(v >> 16)); }
inline uint16_t half_of(float v) { return float_to_half(v); }

inline uint32_t round_to_tf32(float v) {
  const uint32_t bits = float_bits(v);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

inline float approximate_exp2(float v) { return std::exp2(v); }
inline float approximate_reciprocal(float v) { return 1 / v; }
inline float exact_sqrt(float v) { return std::sqrt(v); }

namespace emulator {

/// The tensor core's sum: exact products, the result cut to a float.
inline float cut(double v) {
  const float near = static_cast<float>(v);
  return std::fabs(static_cast<double>(near)) > std::fabs(v) ? std::nextafter(near, 0.0f) : near;
}

struct Lent {
  const uint32_t* a;
  const uint32_t* b;
};

/// `products(x, y)` of two words is added to each element.
template <class Products>
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Products&& products) {
  const Lent mine{a, b};
  const uint64_t* values = warp_exchange(to_word(&mine));
  const Lent* lanes[32];
  for (int lane = 0; lane < 32; ++lane) lanes[lane] = from_word<const Lent*>(values[lane]);
  const int g = thread_index() % 32 / 4, t = thread_index() % 4;
  float result[4];
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2, below = i / 2;
    double sum = static_cast<double>(c[i]);
    for (int word = 0; word < 8; ++word) {
      sum += products(lanes[4 * g + word % 4]->a[below + 2 * (word / 4)],
                      lanes[4 * column + word % 4]->b[word / 4]);
    }
    result[i] = cut(sum);
  }
  warp_exchange(0);
  for (int i = 0; i < 4; ++i) c[i] = result[i];
}

struct AsyncCopy {
  uintptr_t to;
  const void* from;
  std::size_t bytes;
  bool valid;
};
struct AsyncCopies {
  std::vector<AsyncCopy> copies;
  std::vector<std::size_t> ends;  ///< of the groups, in `copies`
};
inline AsyncCopies& async_copies() {
  static std::vector<AsyncCopies> all(16 * 1024);
  const Position& p = position();
  return all[static_cast<std::size_t>(p.cluster_rank * 1024 + p.thread)];
}

inline const std::byte* const* matrix_rows(SharedAddress row, const std::byte* (&rows)[32]) {
  const uint64_t* values = warp_exchange(row);
  for (int lane = 0; lane < 32; ++lane) {
    if (values[lane] % 16 != 0) __builtin_trap();
    rows[lane] = reinterpret_cast<const std::byte*>(values[lane]);
  }
  return rows;
}

}  // namespace emulator

inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply(c, a, b, [](uint32_t x, uint32_t y) {
    return static_cast<double>(low_half(x)) * static_cast<double>(low_half(y)) +
           static_cast<double>(high_half(x)) * static_cast<double>(high_half(y));
  });
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply(c, a, b, [](uint32_t x, uint32_t y) {
    return static_cast<double>(float_of_bits(x & ~0x1fffu)) *
           static_cast<double>(float_of_bits(y & ~0x1fffu));
  });
}

inline void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  const std::byte* rows[32];
  emulator::matrix_rows(row, rows);
  const int lane = thread_index() % 32;
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows[8 * i + lane / 4] + lane % 4 * 4, 4);
  emulator::warp_exchange(0);
}
inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  const std::byte* rows[32];
  emulator::matrix_rows(row, rows);
  const int lane = thread_index() % 32;
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      std::memcpy(&pair[e], rows[8 * i + 2 * (lane % 4) + e] + lane / 4 * 2, 2);
    }
    r[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
  emulator::warp_exchange(0);
}
inline uint32_t load_shared_word(SharedAddress p) {
  uint32_t r;
  std::memcpy(&r, reinterpret_cast<const void*>(p), 4);
  return r;
}

inline void copy_async_16(SharedAddress to, const void* from, bool valid) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) __builtin_trap();
  emulator::async_copies().copies.push_back({to, from, 16, valid});
}
inline void copy_async_16(SharedAddress to, const void* from) { copy_async_16(to, from, true); }
inline void copy_async_4(SharedAddress to, const void* from, bool valid) {
  emulator::async_copies().copies.push_back({to, from, 4, valid});
}
inline void copy_async_commit() {
  emulator::AsyncCopies& mine = emulator::async_copies();
  mine.ends.push_back(mine.copies.size());
}
/// A kernel waits for all its copies before it ends.
template <int pending>
void copy_async_wait() {
  emulator::AsyncCopies& mine = emulator::async_copies();
  if (mine.ends.size() <= pending) return;
  const std::size_t groups = mine.ends.size() - pending, end = mine.ends[groups - 1];
  for (std::size_t i = 0; i < end; ++i) {
    const emulator::AsyncCopy& copy = mine.copies[i];
    void* to = reinterpret_cast<void*>(copy.to);
    copy.valid ? std::memcpy(to, copy.from, copy.bytes) : std::memset(to, 0, copy.bytes);
  }
  mine.copies.erase(mine.copies.begin(), mine.copies.begin() + static_cast<std::ptrdiff_t>(end));
  mine.ends.erase(mine.ends.begin(), mine.ends.begin() + static_cast<std::ptrdiff_t>(groups));
  for (std::size_t& e : mine.ends) e -= end;
}

}  // namespace rfseg::cuda
