#include "core/cuda/launch.h"
#include "engine/cuda/hopper/epilogue_residual.h"

#include <type_traits>

// Products of many rows and few k: out[m, n] for k up to about 600.
//
// A block holds the weights of kColumns columns, all k, in shared memory for its whole life, so
// that only rows of A stream by: with both operands streaming, tiles small enough to hide the
// epilogue would need more than the L2 delivers. Blocks of one slice of columns share out the
// 64-row tiles. Two warpgroups take the tiles in turn: while one multiplies, the other applies
// bias, activation and the way out, which for GELU takes half as long as the product itself. A warp
// of a third warpgroup keeps the copy engine busy. The weights are fetched before the previous
// kernel has ended.

namespace rfseg::cuda::hopper {
namespace {

// Named barriers
[[maybe_unused]] constexpr int kAllConsumers = 1, kTurn = 2 /* to 4 */, kOwn = 5 /* to 7 */;

// Of the last warpgroup one thread works; the others only give up their registers.
constexpr int threads(int groups) { return (groups + 1) * 128; }

template <int kGroups, int kColumns, Exit kExit, Activation kActivation>
RFSEG_DEVICE void stationary(const GemmTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr int kRowsBytes = 64 * 128, kWeightBytes = kColumns * 128;
  const uint32_t start = shared_address(shared);
  const uint32_t base = (start + 1023) / 1024 * 1024;
  float* vectors =
      reinterpret_cast<float*>(static_cast<char*>(shared) + (base - start) + kVectorsAt);
  const uint32_t weights = base + stationary_weights_at(kGroups, kColumns, kExit);
  const uint32_t ring = weights + static_cast<uint32_t>(task.k_blocks) * kWeightBytes;
  const uint32_t full = base, empty = base + 128, weight_full = base + 256,
                 residual_full = base + 512;

  const int thread = thread_index(), warp = uniform(thread / 32);
  const int slice = block_x() % task.n_tiles, member = block_x() / task.n_tiles;
  const int members = grid_x() / task.n_tiles;
  const int column = slice * kColumns;

  if (thread == 0) {
    for (int s = 0; s < task.stages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4);
    }
    for (int k = 0; k < task.k_blocks; ++k) barrier_init(weight_full + 8 * k, 1);
    for (int g = 0; g < kGroups; ++g) barrier_init(residual_full + 8 * g, 1);
    barrier_init_fence();
  }
  block_sync();
  release_next_kernel();

  if (warp >= 4 * kGroups) {
    give_registers<kGroups == 2 ? 40 : 32>();
    if (thread != kGroups * 128) return;
    map_prefetch(&task.b);
    map_prefetch(column >= task.split ? &task.a2 : &task.a);
    if (!task.weights_fixed) await_previous_kernel();
    for (int k = 0; k < task.k_blocks; ++k) {
      barrier_expect(weight_full + 8 * k, kWeightBytes);
      load_tile(weights + k * kWeightBytes, &task.b, weight_full + 8 * k, k * 64, column, 0);
    }
    await_previous_kernel();
    const CUtensorMap* rows = column >= task.split ? &task.a2 : &task.a;
    int stage = 0, parity = 1;  // a fresh barrier counts as having ended a phase of parity 1
    for (int tile = member; tile < task.m_tiles; tile += members) {
      for (int k = 0; k < task.k_blocks; ++k) {
        barrier_wait(empty + 8 * stage, parity);
        barrier_expect(full + 8 * stage, kRowsBytes);
        load_tile(ring + stage * kRowsBytes, rows, full + 8 * stage, k * 64,
                  row_tile(task, tile) * 64, 0);
        if (++stage == task.stages) stage = 0, parity ^= 1;
      }
    }
    return;
  }

  take_registers<kGroups == 2 ? 232 : 160>();
  constexpr int kBoxes = staging_boxes(kColumns, kExit, true);
  const int group = warp / 4;
  const uint32_t staging =
      base + kStationaryStagingAt + group * staging_bytes(kColumns, kExit, true);
  stage_vectors<kColumns, kGroups * 128>(task.exit, column, thread, vectors);
  named_sync(kAllConsumers, kGroups * 128);
  if (kBoxes > 0 && thread % 128 == 0) {
    map_prefetch(&task.out);
    if (kExit != Exit::kHalf) map_prefetch(&task.residual);
  }
  await_previous_kernel();
  if (group == kGroups - 1) named_arrive(kTurn + 0, 256);

  TilePlace place = {0, column, 0, thread % 128, kOwn + group};
  int box = 0;
  float d[kColumns / 2];
  // This warpgroup's place in the ring, and the steps of the others' tiles that it passes over.
  int stage = group * task.k_blocks % task.stages;
  int parity = group * task.k_blocks / task.stages % 2;
  const int pass_stages = (kGroups - 1) * task.k_blocks % task.stages;
  const int pass_parity = (kGroups - 1) * task.k_blocks / task.stages % 2;
  const bool leader = lane_index() == 0;
  const uint64_t rows_descriptor = tile_descriptor(ring);
  const uint64_t weight_descriptor = tile_descriptor(weights);
  const auto next = [&](int at) { return at + 1 == task.stages ? 0 : at + 1; };
  // The products of a tile. Up to three steps are under way: one takes the tensor cores 256 cycles
  // with 128 columns, and what is done here between two takes longer when the other warpgroups are
  // busy.
  const auto multiply = [&](auto weights_awaited) {
    int oldest = stage;  // not released yet
    for (int k = 0; k < task.k_blocks; ++k) {
      if constexpr (weights_awaited.value) barrier_wait(weight_full + 8 * k, 0);
      barrier_wait(full + 8 * stage, parity);
      const uint64_t a = rows_descriptor + static_cast<uint32_t>(stage * (kRowsBytes / 16));
      const uint64_t b = weight_descriptor + static_cast<uint32_t>(k * (kWeightBytes / 16));
      wgmma_fence();
      RFSEG_UNROLL
      for (int step = 0; step < 4; ++step) {
        Wgmma<kColumns>::run(d, a + 2 * step, b + 2 * step, k + step > 0);
      }
      wgmma_commit();
      stage = next(stage);
      if (stage == 0) parity ^= 1;
      if (k > 1) {
        wgmma_wait<2>();
        if (leader) barrier_arrive(empty + 8 * oldest);
        oldest = next(oldest);
      }
    }
    return oldest;
  };
  for (int i = group, tile = member + group * members; tile < task.m_tiles;
       i += kGroups, tile += kGroups * members) {
    place.row = row_tile(task, tile) * 64;
    if constexpr (kExit == Exit::kHalfPlus || kExit == Exit::kResidual) {
      if (place.thread == 0) {
        fetch_residual<kColumns, kExit == Exit::kResidual>(place, staging, task,
                                                           residual_full + 8 * group);
      }
    }
    RowNorms norms;
    if constexpr (kExit == Exit::kHalf) norms = row_norms(task.exit, place);
    named_sync(kTurn + group, 256);
    int oldest = i == group ? multiply(std::true_type()) : multiply(std::false_type());
    if (tile + members < task.m_tiles) named_arrive(kTurn + (group + 1) % kGroups, 256);
    wgmma_wait<0>();
    fence_registers(d);
    for (; oldest != stage; oldest = next(oldest)) {
      if (leader) barrier_arrive(empty + 8 * oldest);
    }
    stage += pass_stages;
    parity ^= pass_parity;
    if (stage >= task.stages) stage -= task.stages, parity ^= 1;

    if constexpr (kExit == Exit::kHalf) {
      leave_as_halves<kColumns, kActivation, kBoxes>(d, place, vectors, staging, box, &task.out, 0,
                                                     0, norms);
    } else if constexpr (kExit == Exit::kHalfPlus) {
      leave_as_halves<kColumns, kActivation, kBoxes, true>(
          d, place, vectors, staging, box, &task.out, residual_full + 8 * group, i / kGroups % 2);
    } else if constexpr (kExit == Exit::kResidual) {
      leave_with_residual<kColumns>(d, place, task, vectors, staging, residual_full + 8 * group,
                                    i / kGroups % 2);
    } else {
      leave<kColumns, kActivation>(d, place, task.exit, vectors);
    }
  }
  if (kBoxes > 0 && place.thread == 0) store_wait_all();
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

template <int kGroups, int kColumns, Exit kExit, Activation kActivation>
bool run(const Queue* queue, int blocks, const GemmTask* task, int groups, int columns, Exit exit,
         Activation activation) {
  if (groups != kGroups || columns != kColumns || exit != kExit || activation != kActivation) {
    return false;
  }
  if (queue) {
    const int bytes = shared_bytes({true, groups, columns}, exit, task->k_blocks, task->stages);
    launch<&stationary<kGroups, kColumns, kExit, kActivation>, threads(kGroups)>(
        *queue, {blocks, 1}, static_cast<std::size_t>(bytes), *task);
  }
  return true;
}

// The instances, one list for the question and the launch.
template <int kGroups, int kColumns>
bool dispatch(const Queue* queue, int blocks, const GemmTask* task, int groups, int columns,
              Exit exit, Activation activation) {
  const auto any = [&](auto... f) {
    return (f(queue, blocks, task, groups, columns, exit, activation) || ...);
  };
  return any(run<kGroups, kColumns, Exit::kHalf, Activation::kNone>,
             run<kGroups, kColumns, Exit::kHalf, Activation::kGelu>,
             run<kGroups, kColumns, Exit::kHalfPlus, Activation::kGelu>,
             run<kGroups, kColumns, Exit::kResidual, Activation::kNone>);
}

bool dispatch(const Queue* queue, int blocks, const GemmTask* task, int groups, int columns,
              Exit exit, Activation activation) {
  return dispatch<2, 128>(queue, blocks, task, groups, columns, exit, activation) ||
         dispatch<3, 128>(queue, blocks, task, groups, columns, exit, activation) ||
         dispatch<2, 192>(queue, blocks, task, groups, columns, exit, activation) ||
         dispatch<2, 256>(queue, blocks, task, groups, columns, exit, activation);
}

}  // namespace

bool has_stationary(int groups, int columns, Exit exit, Activation activation) {
  return dispatch(nullptr, 0, nullptr, groups, columns, exit, activation);
}

void launch_stationary(const Queue& queue, int blocks, int groups, int columns, Exit exit,
                       Activation activation, const GemmTask& task) {
  dispatch(&queue, blocks, &task, groups, columns, exit, activation);
}

}  // namespace rfseg::cuda::hopper
