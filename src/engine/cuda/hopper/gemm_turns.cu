#include "core/cuda/launch.h"
#include "engine/cuda/hopper/epilogue_residual.h"

// Products of many rows and long k: tiles of 128 x 128, each by one warpgroup, which keeps all sums
// in registers (128 a thread). Two warpgroups take a block's tiles in turn: while one multiplies,
// the other is at its way out. With a residual stream that takes half as long as a tile's products,
// and one after the other they would leave the tensor cores and the memory idle by turns. Both
// operands stream through one ring in the order of the tiles, fed by a warp of its own. A tile
// leaves in two halves of 64 rows, through the same staging boxes. What bounds it is shared memory:
// 160 bytes for each 128 cycles of products, and what the way out moves.

namespace rfseg::cuda::hopper {
namespace {

// Named barriers: whose turn it is, and each warpgroup's own.
[[maybe_unused]] constexpr int kTurn = 1 /* and 2 */, kOwn = 3 /* and 4 */;

// Of the last warpgroup one thread works; the others only give up their registers.
constexpr int kThreads = 3 * 128;
[[maybe_unused]] constexpr int kColumns = 128;

template <Exit kExit, Activation kActivation>
RFSEG_DEVICE void in_turn(const GemmTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr int kRowsBytes = 128 * 128, kStageBytes = kRowsBytes + kColumns * 128;
  constexpr int kBoxes = staging_boxes(kColumns, kExit, false);
  const uint32_t start = shared_address(shared);
  const uint32_t base = (start + 1023) / 1024 * 1024;
  const uint32_t ring = base + streaming_ring_at(2, kColumns, kExit);
  const uint32_t full = base, empty = base + 128, residual_full = base + 256;
  const int thread = thread_index(), warp = uniform(thread / 32);

  if (thread == 0) {
    for (int s = 0; s < task.stages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4);
    }
    for (int g = 0; g < 2; ++g) barrier_init(residual_full + 8 * g, 1);
    barrier_init_fence();
  }
  block_sync();
  release_next_kernel();

  const auto place_of = [&](int tile) {
    const int rest = tile / task.n_tiles;
    return TilePlace{row_tile(task, rest % task.m_tiles) * 128, tile % task.n_tiles * kColumns,
                     rest / task.m_tiles, thread % 128, kOwn + warp / 4};
  };

  if (warp >= 8) {
    give_registers<40>();
    if (thread != 256) return;
    map_prefetch(&task.b);
    map_prefetch(&task.a);
    const auto load_weights = [&](int stage, const TilePlace& place, int k) {
      load_tile(ring + stage * kStageBytes + kRowsBytes, &task.b, full + 8 * stage, k * 64,
                place.column, place.picture);
    };
    int ahead = 0;
    if (task.weights_fixed) {
      const TilePlace place = place_of(block_x());
      ahead = task.stages < task.k_blocks ? task.stages : task.k_blocks;
      for (int k = 0; k < ahead; ++k) {
        barrier_expect(full + 8 * k, kStageBytes);
        load_weights(k, place, k);
      }
    }
    await_previous_kernel();
    int stage = 0, parity = 1;  // a fresh barrier counts as having ended a phase of parity 1
    for (int tile = block_x(); tile < task.tiles; tile += grid_x()) {
      const TilePlace place = place_of(tile);
      const CUtensorMap* rows = place.column >= task.split ? &task.a2 : &task.a;
      for (int k = 0; k < task.k_blocks; ++k) {
        const uint32_t to = ring + stage * kStageBytes, arrived = full + 8 * stage;
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(empty + 8 * stage, parity);
          barrier_expect(arrived, kStageBytes);
          load_weights(stage, place, k);
        }
        load_tile(to, rows, arrived, k * 64, place.row, place.picture);
        if (++stage == task.stages) stage = 0, parity ^= 1;
      }
    }
    return;
  }

  take_registers<232>();
  const int group = warp / 4;
  float* vectors =
      reinterpret_cast<float*>(static_cast<char*>(shared) + (base - start) + kVectorsAt) +
      group * 3 * kColumns;
  const uint32_t staging =
      base + streaming_staging_at(2, kColumns) + group * staging_bytes(kColumns, kExit, false);
  const uint32_t residual = residual_full + 8 * group;
  if (thread % 128 == 0) {
    map_prefetch(&task.out);
    if (kExit == Exit::kResidual) map_prefetch(&task.residual);
  }
  if (group == 1) named_arrive(kTurn + 0, 256);
  await_previous_kernel();

  float d[2][kColumns / 2];
  const bool leader = lane_index() == 0;
  // This warpgroup's place in the ring; it passes over the steps of the other's tiles.
  int stage = group * task.k_blocks % task.stages;
  int parity = group * task.k_blocks / task.stages % 2;
  const int pass_stages = task.k_blocks % task.stages;
  const int pass_parity = task.k_blocks / task.stages % 2;
  const uint64_t rows_descriptor = tile_descriptor(ring);
  const uint64_t weight_descriptor = tile_descriptor(ring + kRowsBytes);
  int box = 0;
  for (int tile = block_x() + group * grid_x(); tile < task.tiles; tile += 2 * grid_x()) {
    TilePlace place = place_of(tile);
    named_sync(place.barrier, 128);  // the last tile's vectors have been read
    stage_vectors<kColumns, 128>(task.exit, place.column, place.thread, vectors);
    named_sync(place.barrier, 128);
    if constexpr (kExit == Exit::kResidual) {
      if (place.thread == 0) {
        fetch_residual<kColumns, true>(place, staging, task, residual);
      }
    }
    named_sync(kTurn + group, 256);
    int last = 0;
    for (int k = 0; k < task.k_blocks; ++k) {
      barrier_wait(full + 8 * stage, parity);
      const uint64_t a = rows_descriptor + static_cast<uint32_t>(stage * (kStageBytes / 16));
      const uint64_t b = weight_descriptor + static_cast<uint32_t>(stage * (kStageBytes / 16));
      wgmma_fence();
      RFSEG_UNROLL
      for (int step = 0; step < 4; ++step) {
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          Wgmma<kColumns>::run(d[half], a + half * (64 * 128 / 16) + 2 * step, b + 2 * step,
                               k + step > 0);
        }
      }
      wgmma_commit();
      if (k > 0) {
        wgmma_wait<1>();
        if (leader) barrier_arrive(empty + 8 * last);
      }
      last = stage;
      if (++stage == task.stages) stage = 0, parity ^= 1;
    }
    if (tile + grid_x() < task.tiles) named_arrive(kTurn + 1 - group, 256);
    wgmma_wait<0>();
    fence_registers(d[0]);
    fence_registers(d[1]);
    if (leader) barrier_arrive(empty + 8 * last);
    stage += pass_stages;
    parity ^= pass_parity;
    if (stage >= task.stages) stage -= task.stages, parity ^= 1;

    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      if constexpr (kExit == Exit::kResidual) {
        if (half > 0 && place.thread == 0) {
          fetch_residual<kColumns, true>(place, staging, task, residual);
        }
        // Two phases a tile.
        leave_with_residual<kColumns>(d[half], place, task, vectors, staging, residual, half);
      } else {
        leave_as_halves<kColumns, kActivation, kBoxes>(
            d[half], place, vectors, staging, box, &task.out, 0, 0, row_norms(task.exit, place));
      }
      place.row += 64;
    }
  }
  if (thread % 128 == 0) store_wait_all();
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

template <Exit kExit, Activation kActivation>
bool run(const Queue* queue, int blocks, const GemmTask* task, Exit exit, Activation activation) {
  if (exit != kExit || activation != kActivation) return false;
  if (queue) {
    const int bytes =
        shared_bytes({false, 2, kColumns, 1, true}, exit, task->k_blocks, task->stages);
    launch<&in_turn<kExit, kActivation>, kThreads>(*queue, {blocks, 1},
                                                   static_cast<std::size_t>(bytes), *task);
  }
  return true;
}

// The instances, one list for the question and the launch.
bool dispatch(const Queue* queue, int blocks, const GemmTask* task, Exit exit,
              Activation activation) {
  const auto any = [&](auto... f) { return (f(queue, blocks, task, exit, activation) || ...); };
  return any(run<Exit::kResidual, Activation::kNone>, run<Exit::kHalf, Activation::kNone>,
             run<Exit::kHalf, Activation::kGelu>);
}

}  // namespace

bool has_in_turn(Exit exit, Activation activation) {
  return dispatch(nullptr, 0, nullptr, exit, activation);
}

void launch_in_turn(const Queue& queue, int blocks, Exit exit, Activation activation,
                    const GemmTask& task) {
  dispatch(&queue, blocks, &task, exit, activation);
}

}  // namespace rfseg::cuda::hopper
