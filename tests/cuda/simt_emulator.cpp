#include "cuda/simt_emulator.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

// Saves the registers that a call must keep, and goes on on another stack.
extern "C" void rfseg_switch_stack(void** save, void* to);
asm(R"(
.text
.globl rfseg_switch_stack
.type rfseg_switch_stack,@function
rfseg_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rfseg_switch_stack,.-rfseg_switch_stack
)");

namespace rfseg::cuda::emulator {
namespace {

constexpr std::size_t kStack = 32768;

struct Barrier {
  int expected = 0, arrived = 0;
  uint64_t generation = 0;
  bool any[2] = {false, false};
};
struct Warp {
  Barrier barrier;
  uint64_t values[2][32];
};
struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<std::byte[]> memory;
  std::byte* shared = nullptr;
};
struct Fiber {
  void* stack_pointer = nullptr;
  std::unique_ptr<std::byte[]> stack{new std::byte[kStack]};
  Position position;
  Block* block = nullptr;
  bool done = false;
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Block> blocks;
  Barrier cluster;
  Fiber* current = nullptr;
  void* main_stack = nullptr;
  bool progress = false;
  const std::function<void(void*)>* body = nullptr;
};
Machine machine;

void yield() { rfseg_switch_stack(&machine.current->stack_pointer, machine.main_stack); }

void wait(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  machine.progress = true;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    barrier.any[(generation + 1) & 1] = false;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}

void fiber_main() {
  (*machine.body)(machine.current->block->shared);
  machine.current->done = true;
  machine.progress = true;
  yield();
  std::abort();
}

void start(Fiber& fiber) {
  // The stack as rfseg_switch_stack leaves it: six registers and a return address, placed so that
  // the function begins with the alignment that a call gives.
  void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(fiber.stack.get() + kStack) &
                                        ~uintptr_t{15});
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.done = false;
}

}  // namespace

const Position& position() { return machine.current->position; }

void block_barrier() { wait(machine.current->block->barrier); }

bool block_any(bool value) {
  Barrier& barrier = machine.current->block->barrier;
  bool& any = barrier.any[barrier.generation & 1];
  any = any || value;
  wait(barrier);
  return any;
}

void cluster_barrier() { wait(machine.cluster); }

const uint64_t* warp_exchange(uint64_t value) {
  const int thread = machine.current->position.thread;
  Warp& warp = machine.current->block->warps[static_cast<std::size_t>(thread / 32)];
  uint64_t* values = warp.values[warp.barrier.generation & 1];
  values[thread % 32] = value;
  wait(warp.barrier);
  return values;
}

void* peer(void* p, int rank) {
  const Fiber& fiber = *machine.current;
  Block& other = machine.blocks[static_cast<std::size_t>(rank)];
  return other.shared + (static_cast<std::byte*>(p) - fiber.block->shared);
}

void launch(int grid_x, int grid_y, int threads, int cluster, std::size_t shared_bytes,
            const std::function<void(void*)>& body) {
  machine.body = &body;
  const std::size_t count = static_cast<std::size_t>(threads * cluster);
  while (machine.fibers.size() < count) machine.fibers.push_back(std::make_unique<Fiber>());
  for (int y = 0; y < grid_y; ++y) {
    for (int first = 0; first < grid_x; first += cluster) {
      machine.blocks.clear();
      machine.blocks.resize(static_cast<std::size_t>(cluster));
      machine.cluster = Barrier{};
      machine.cluster.expected = threads * cluster;
      for (int b = 0; b < cluster; ++b) {
        Block& block = machine.blocks[static_cast<std::size_t>(b)];
        block.barrier.expected = threads;
        block.warps.resize(static_cast<std::size_t>(threads / 32));
        for (Warp& warp : block.warps) warp.barrier.expected = 32;
        block.memory.reset(new std::byte[shared_bytes + 64]);
        block.shared = reinterpret_cast<std::byte*>(
            (reinterpret_cast<uintptr_t>(block.memory.get()) + 63) & ~uintptr_t{63});
        std::memset(block.shared, 0xa5, shared_bytes);
        for (int t = 0; t < threads; ++t) {
          Fiber& fiber = *machine.fibers[static_cast<std::size_t>(b * threads + t)];
          fiber.position = {t, first + b, y, grid_x, b, cluster};
          fiber.block = &block;
          start(fiber);
        }
      }
      for (std::size_t alive = count; alive > 0;) {
        machine.progress = false;
        for (std::size_t i = 0; i < count; ++i) {
          Fiber& fiber = *machine.fibers[i];
          if (fiber.done) continue;
          machine.current = &fiber;
          rfseg_switch_stack(&machine.main_stack, fiber.stack_pointer);
          if (fiber.done) --alive;
        }
        if (!machine.progress && alive > 0) {
          std::fprintf(stderr, "emulated block %d: its threads wait for each other\n", first);
          std::abort();
        }
      }
    }
  }
}

}  // namespace rfseg::cuda::emulator
