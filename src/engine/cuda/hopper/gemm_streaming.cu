#include "core/cuda/launch.h"
#include "engine/cuda/hopper/epilogue_residual.h"

// Products of any k: tiles of 64 kGroups rows x kColumns columns, both operands streaming through a
// ring of shared memory. Each of kGroups warpgroups multiplies 64 of the tile's rows; one more warp
// feeds the ring, and runs ahead into the next tile while the others are at the way out. With one
// warpgroup two blocks fit on a multiprocessor and hide each other's ends. The first weights are
// fetched before the previous kernel has ended.
// Both operands streaming ask the L2 for more than it delivers (128x192 tiles: 53 bytes a cycle and
// multiprocessor at the tensor cores' rate, of about 25), so in the variants for large k a cluster
// of blocks with the same columns shares the weights: each block fetches a part of them for all.
// Convolutions: the copy engine walks the output cells of a tap itself (im2col mode), so that a
// stage's rows are the cells' 64 channels under one tap.

namespace rfseg::cuda::hopper {
namespace {

// Two warpgroups with wide tiles want the registers that a third one gives up.
constexpr int threads(int groups) { return groups == 2 ? 3 * 128 : groups * 128 + 32; }

[[maybe_unused]] constexpr int kOwn = 1;  // named barriers, one a warpgroup

template <int kGroups, int kColumns, int kCluster, bool kConvolution, Exit kExit,
          Activation kActivation>
RFSEG_DEVICE void streaming(const GemmTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr int kRowsBytes = kGroups * 64 * 128, kWeightBytes = kColumns * 128;
  constexpr int kStageBytes = kRowsBytes + kWeightBytes;
  const uint32_t start = shared_address(shared);
  const uint32_t base = (start + 1023) / 1024 * 1024;
  const uint32_t ring = base + streaming_ring_at(kGroups, kColumns, kExit);
  const uint32_t full = base, empty = base + 128, residual_full = base + 256;
  const int thread = thread_index(), warp = uniform(thread / 32);

  if (thread == 0) {
    for (int s = 0; s < task.stages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * kGroups * kCluster);
    }
    for (int g = 0; g < kGroups; ++g) barrier_init(residual_full + 8 * g, 1);
    barrier_init_fence();
  }
  if constexpr (kCluster > 1) {
    cluster_meet();
  } else {
    block_sync();
  }
  release_next_kernel();

  const int rank = kCluster > 1 ? cluster_rank() : 0;
  const int clusters = grid_x() / kCluster, cluster = block_x() / kCluster;

  if (warp >= 4 * kGroups) {
    if constexpr (kGroups == 2) give_registers<40>();
    if (thread != kGroups * 128) return;
    map_prefetch(&task.b);
    map_prefetch(&task.a);
    // A cluster's blocks have successive rows and the same columns: each fetches a part of the
    // weights for all of them.
    const auto load_weights = [&](int stage, int column, int picture, int k) {
      const uint32_t to = ring + stage * kStageBytes + kRowsBytes;
      if constexpr (kCluster > 1) {
        constexpr int kPart = kColumns / kCluster;
        load_tile_for_all(to + rank * kPart * 128, &task.b, full + 8 * stage, k * 64,
                          column + rank * kPart, picture, (1 << kCluster) - 1);
      } else {
        load_tile(to, &task.b, full + 8 * stage, k * 64, column, picture);
      }
    };
    int ahead = 0;
    if (task.weights_fixed) {
      const int column = cluster % task.n_tiles * kColumns;
      const int picture = cluster / task.n_tiles / task.m_tiles;
      ahead = task.stages < task.k_blocks ? task.stages : task.k_blocks;
      for (int k = 0; k < ahead; ++k) {
        barrier_expect(full + 8 * k, kStageBytes);
        load_weights(k, column, picture, k);
      }
    }
    await_previous_kernel();
    int stage = 0, parity = 1;  // a fresh barrier counts as having ended a phase of parity 1
    for (int tile = cluster; tile < task.tiles; tile += clusters) {
      const int column = tile % task.n_tiles * kColumns, rest = tile / task.n_tiles;
      const int row = (row_tile(task, rest % task.m_tiles) * kCluster + rank) * kGroups * 64;
      const int picture = rest / task.m_tiles;
      const CUtensorMap* rows = column >= task.split ? &task.a2 : &task.a;
      int map = 0, x = 0, y = 0, tap = 0, channel_block = 0;
      if constexpr (kConvolution) {
        map = row / task.out_cells;
        y = row % task.out_cells / task.out_cols * task.stride - 1;
        x = row % task.out_cells % task.out_cols * task.stride - 1;
      }
      for (int k = 0; k < task.k_blocks; ++k) {
        const uint32_t to = ring + stage * kStageBytes, arrived = full + 8 * stage;
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(empty + 8 * stage, parity);
          barrier_expect(arrived, kStageBytes);
          load_weights(stage, column, picture, k);
        }
        if constexpr (kConvolution) {
          load_cells(to, rows, arrived, channel_block * 64, x, y, map, tap % 3, tap / 3);
          if (++channel_block == task.channel_blocks) channel_block = 0, ++tap;
        } else {
          load_tile(to, rows, arrived, k * 64, row, picture);
        }
        if (++stage == task.stages) stage = 0, parity ^= 1;
      }
    }
    return;
  }

  if constexpr (kGroups == 2) take_registers<232>();
  constexpr int kBoxes = staging_boxes(kColumns, kExit, false);
  const int group = warp / 4;
  float* vectors =
      reinterpret_cast<float*>(static_cast<char*>(shared) + (base - start) + kVectorsAt) +
      group * 3 * kColumns;
  const uint32_t staging = base + streaming_staging_at(kGroups, kColumns) +
                           group * staging_bytes(kColumns, kExit, false);
  TilePlace place = {0, 0, 0, thread % 128, kOwn + group};
  if (kBoxes > 0 && place.thread == 0) {
    map_prefetch(&task.out);
    if (kExit == Exit::kResidual || kExit == Exit::kHalfPlus) map_prefetch(&task.residual);
  }
  int stage = 0, parity = 0, box = 0, residual_parity = 0;
  const int lane = lane_index();
  const auto release = [&](int at) {
    if constexpr (kCluster > 1) {
      if (lane < kCluster) barrier_arrive_at(empty + 8 * at, lane);
    } else {
      if (lane == 0) barrier_arrive(empty + 8 * at);
    }
  };
  bool first = true;
  float d[kColumns / 2];
  const uint64_t rows_descriptor = tile_descriptor(ring + group * 64 * 128);
  const uint64_t weight_descriptor = tile_descriptor(ring + kRowsBytes);
  for (int tile = cluster; tile < task.tiles; tile += clusters) {
    const int rest = tile / task.n_tiles;
    place.column = tile % task.n_tiles * kColumns;
    place.row = ((row_tile(task, rest % task.m_tiles) * kCluster + rank) * kGroups + group) * 64;
    place.picture = rest / task.m_tiles;
    named_sync(place.barrier, 128);  // the last tile's vectors have been read
    stage_vectors<kColumns, 128>(task.exit, place.column, place.thread, vectors);
    named_sync(place.barrier, 128);
    if (first) await_previous_kernel();
    first = false;
    RowNorms norms;
    if constexpr (kExit == Exit::kHalf) norms = row_norms(task.exit, place);
    // The residual is asked for halfway: until then the last tile's sums are still leaving from
    // where it goes, and this thread must wait for that.
    const int fetch_at = tile == cluster ? 0 : task.k_blocks / 2;
    int last = 0;
    for (int k = 0; k < task.k_blocks; ++k) {
      barrier_wait(full + 8 * stage, parity);
      const uint64_t a = rows_descriptor + static_cast<uint32_t>(stage * (kStageBytes / 16));
      const uint64_t b = weight_descriptor + static_cast<uint32_t>(stage * (kStageBytes / 16));
      wgmma_fence();
      RFSEG_UNROLL
      for (int step = 0; step < 4; ++step) {
        Wgmma<kColumns>::run(d, a + 2 * step, b + 2 * step, k + step > 0);
      }
      wgmma_commit();
      if constexpr (kExit == Exit::kHalfPlus || kExit == Exit::kResidual) {
        if (k == fetch_at && place.thread == 0) {
          fetch_residual<kColumns, kExit == Exit::kResidual>(place, staging, task,
                                                             residual_full + 8 * group);
        }
      }
      if (k > 0) {
        wgmma_wait<1>();
        release(last);
      }
      last = stage;
      if (++stage == task.stages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    fence_registers(d);
    release(last);

    if constexpr (kExit == Exit::kHalf) {
      leave_as_halves<kColumns, kActivation, kBoxes>(d, place, vectors, staging, box, &task.out, 0,
                                                     0, norms);
    } else if constexpr (kExit == Exit::kHalfPlus) {
      leave_as_halves<kColumns, kActivation, kBoxes, true>(
          d, place, vectors, staging, box, &task.out, residual_full + 8 * group, residual_parity);
      residual_parity ^= 1;
    } else if constexpr (kExit == Exit::kNorm) {
      leave_normed<kColumns, kActivation>(d, place, task.exit, vectors, staging, box, &task.out);
    } else if constexpr (kExit == Exit::kResidual) {
      leave_with_residual<kColumns>(d, place, task, vectors, staging, residual_full + 8 * group,
                                    residual_parity);
      residual_parity ^= 1;
    } else {
      leave<kColumns, kActivation>(d, place, task.exit, vectors);
    }
  }
  if (kBoxes > 0 && place.thread == 0) store_wait_all();
  if constexpr (kCluster > 1) cluster_meet();  // others may still arrive at this block's barriers
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

template <int kGroups, int kColumns, int kCluster, bool kConvolution, Exit kExit,
          Activation kActivation>
bool run(const Queue* queue, int blocks, const GemmTask* task, const GemmVariant& variant,
         bool convolution, Exit exit, Activation activation) {
  if (variant != GemmVariant{false, kGroups, kColumns, kCluster} || convolution != kConvolution ||
      exit != kExit || activation != kActivation) {
    return false;
  }
  if (queue) {
    const auto bytes =
        static_cast<std::size_t>(shared_bytes(variant, exit, task->k_blocks, task->stages));
    constexpr auto kBody =
        &streaming<kGroups, kColumns, kCluster, kConvolution, kExit, kActivation>;
    constexpr int kTogether = kGroups == 1 && kColumns <= 128 ? 2 : 1;
    if constexpr (kCluster > 1) {
      launch_cluster<kBody, threads(kGroups), kTogether>(*queue, {blocks, 1}, kCluster, bytes,
                                                         *task);
    } else {
      launch<kBody, threads(kGroups), kTogether>(*queue, {blocks, 1}, bytes, *task);
    }
  }
  return true;
}

// The instances, one list for the question and the launch: every division has the ways out of the
// large products, some have all.
bool dispatch(const Queue* queue, int blocks, const GemmTask* task, const GemmVariant& variant,
              bool convolution, Exit exit, Activation activation) {
  const auto any = [&](auto... f) {
    return (f(queue, blocks, task, variant, convolution, exit, activation) || ...);
  };
  constexpr Exit kHalf = Exit::kHalf, kPlus = Exit::kHalfPlus, kResidual = Exit::kResidual,
                 kNorm = Exit::kNorm, kAny = Exit::kAny;
  constexpr Activation kNone = Activation::kNone, kGelu = Activation::kGelu,
                       kRelu = Activation::kRelu, kSilu = Activation::kSilu;
  return any(run<2, 128, 2, false, kHalf, kNone>, run<2, 128, 2, false, kResidual, kNone>,
             run<2, 128, 4, false, kHalf, kNone>, run<2, 128, 4, false, kResidual, kNone>,
             run<2, 192, 2, false, kResidual, kNone>, run<2, 192, 4, false, kResidual, kNone>,
             run<3, 128, 2, false, kResidual, kNone>, run<3, 128, 2, true, kNorm, kSilu>,
             run<3, 128, 4, true, kNorm, kSilu>, run<1, 256, 2, false, kNorm, kSilu>,
             run<1, 256, 4, false, kNorm, kSilu>, run<2, 256, 2, false, kNorm, kSilu>,
             run<2, 256, 2, false, kHalf, kGelu>, run<1, 32, 1, false, kHalf, kNone>,
             run<1, 32, 1, false, kResidual, kNone>, run<1, 64, 1, false, kHalf, kNone>,
             run<1, 64, 1, false, kHalf, kGelu>, run<1, 64, 1, false, kHalf, kRelu>,
             run<1, 64, 1, false, kPlus, kNone>, run<1, 64, 1, false, kPlus, kGelu>,
             run<1, 64, 1, false, kResidual, kNone>, run<1, 64, 1, false, kAny, kNone>,
             run<1, 64, 1, false, kAny, kGelu>, run<1, 64, 1, false, kAny, kRelu>,
             run<1, 64, 1, false, kAny, kSilu>, run<1, 96, 1, false, kHalf, kNone>,
             run<1, 96, 1, false, kResidual, kNone>, run<1, 128, 1, false, kHalf, kNone>,
             run<1, 128, 1, false, kHalf, kGelu>, run<1, 128, 1, false, kHalf, kRelu>,
             run<1, 128, 1, false, kPlus, kGelu>, run<1, 128, 1, false, kResidual, kNone>,
             run<1, 128, 1, false, kAny, kNone>, run<2, 128, 1, false, kHalf, kNone>,
             run<2, 128, 1, false, kHalf, kGelu>, run<2, 128, 1, false, kHalf, kRelu>,
             run<2, 128, 1, false, kResidual, kNone>, run<2, 128, 1, false, kAny, kNone>,
             run<2, 192, 1, false, kHalf, kNone>, run<2, 192, 1, false, kHalf, kGelu>,
             run<2, 192, 1, false, kResidual, kNone>, run<2, 256, 1, false, kHalf, kNone>,
             run<2, 256, 1, false, kHalf, kGelu>, run<3, 128, 1, false, kHalf, kNone>,
             run<1, 128, 1, true, kNorm, kSilu>, run<2, 128, 1, true, kNorm, kSilu>,
             run<3, 128, 1, true, kNorm, kSilu>, run<1, 64, 1, true, kAny, kNone>,
             run<1, 256, 1, false, kNorm, kSilu>, run<1, 256, 1, false, kNorm, kNone>,
             run<2, 256, 1, false, kNorm, kSilu>, run<2, 256, 1, false, kNorm, kNone>);
}

}  // namespace

bool has_streaming(const GemmVariant& variant, bool convolution, Exit exit, Activation activation) {
  return dispatch(nullptr, 0, nullptr, variant, convolution, exit, activation);
}

void launch_streaming(const Queue& queue, int blocks, const GemmVariant& variant, bool convolution,
                      Exit exit, Activation activation, const GemmTask& task) {
  dispatch(&queue, blocks, &task, variant, convolution, exit, activation);
}

}  // namespace rfseg::cuda::hopper
