// Notes of the GPU's clock: one thread reads %globaltimer and writes it into pinned memory, where
// the host finds it once the stream has been waited for. The number of the round is in device
// memory, so that a captured note serves every replay.

#include "pipeline/cuda_clock.h"

namespace rfseg::cuda {
namespace {

__device__ uint64_t now() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

__global__ void rfseg_note_time(uint64_t* notes, uint32_t* round, int point) {
  const uint32_t r = *round;
  notes[r % Clock::kRounds * Clock::kPoints + point] = now();
  if (point == Clock::kPoints - 1) *round = r + 1;
}

__global__ void rfseg_clock_step(uint64_t* step) {
  uint64_t least = ~uint64_t{0};
  uint64_t before = now();
  for (int changes = 0; changes < 200;) {
    const uint64_t after = now();
    if (after == before) continue;
    if (after - before < least) least = after - before;
    before = after;
    ++changes;
  }
  *step = least;
}

}  // namespace

Clock::Clock() {
  notes_.reserve(sizeof(uint64_t) * kPoints * kRounds);
  round_.reserve(sizeof(uint32_t));
  check(cudaMemset(round_.data(), 0, sizeof(uint32_t)), "clearing a counter");
  // The stream that notes does not wait for the default stream.
  check(cudaDeviceSynchronize(), "clearing a counter");
}

void Clock::enqueue(int point, cudaStream_t stream) {
  rfseg_note_time<<<1, 1, 0, stream>>>(notes_.as<uint64_t>(), round_.as<uint32_t>(), point);
  check(cudaGetLastError(), "launching a kernel that notes the time");
}

uint64_t Clock::at(uint32_t round, int point) const {
  return notes_.as<const uint64_t>()[round % kRounds * kPoints + static_cast<uint32_t>(point)];
}

uint64_t Clock::resolution() {
  Buffer step(Buffer::Kind::kPinned);
  step.reserve(sizeof(uint64_t));
  Stream stream;
  rfseg_clock_step<<<1, 1, 0, stream>>>(step.as<uint64_t>());
  check(cudaGetLastError(), "launching a kernel that reads the clock");
  stream.synchronize("reading the clock");
  return *step.as<uint64_t>();
}

}  // namespace rfseg::cuda
