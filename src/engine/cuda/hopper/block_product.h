#pragma once

#include "engine/cuda/hopper/block_device.h"
#include "engine/cuda/hopper/epilogue.h"

// The products of an encoder block for few rows. A block has one tile of 64 rows and two
// warpgroups; its weights are on their way to shared memory before the previous kernel has ended.
// The more tiles, the more columns a block has, so that all blocks are at work at once and none
// shares a multiprocessor. Where kPlain's columns do not suffice for that, a block has two tiles
// (kTiles) with two warpgroups each: they read its weights once.
//
// Three forms. kPlain: each warpgroup has half of the columns. With a norm the blocks of a row are
// a cluster, of 8, 6 or 4, and every warpgroup completes an equal part of the row, so that the way
// out is short: kShort, a block has its columns for all k, which its warpgroups share; kLong, it
// has twice as many and two blocks share k. What a warpgroup does not complete it hands over as it
// lies in registers. Each warpgroup tells all blocks of the cluster mean and squared deviations of
// its columns of a row, and everyone merges what arrives (Chan et al. 1979). That goes straight
// into the other's shared memory and counts on its barrier: no one waits for a barrier of the
// cluster after the start.

namespace rfseg::cuda::hopper::block {

enum class Form { kPlain, kShort, kLong };
/// What is done with sums that are normalised: kStream, the residual stream's (384 columns);
/// kMap, a map's (256 columns): affine and activation; kMapTwice, and normalised once more.
enum class Use { kStream, kMap, kMapTwice };

struct BlockTask {
  CUtensorMap a, b;  // boxes of kTiles * 64 rows and of columns, x 64
  const float* bias;
  const float* scale;
  const float* residual;
  float* sum;
  __half* out;
  // kMap
  const float* gamma;
  const float* beta;
  const float* then_gamma;
  const float* then_beta;
  // kStream
  __half* tap;  // of gemm_norm(): null for none
  const float* tap_gamma;
  const float* tap_beta;
  TokenLayout tap_layout;
  int64_t ldr, ld_sum, ldo, ld_tap;
  int m;
  int n_tiles;   // of columns
  int k_blocks;  // of 64, of one block
  int stages;    // of the ring
  float eps;
};

constexpr int kBoxBytes = 64 * 128;  // of a tile's rows
constexpr int kStreamColumns = kStreamWidth, kMapColumns = 256;
constexpr int kMostRowBoxes = 6;
constexpr int kLeadBytes = 1024;  // transaction barriers
RFSEG_HOST_DEVICE constexpr int sum_bytes(int half) { return 64 * (half / 2) * 4; }

/// Whether all of k lies in shared memory; else a warp of its own feeds a ring.
RFSEG_HOST_DEVICE constexpr bool keeps_rows(Form form) { return form == Form::kShort; }
RFSEG_HOST_DEVICE constexpr int multipliers_of(int tiles) { return tiles * 256; }  // threads
RFSEG_HOST_DEVICE constexpr int threads_of(Form form, int tiles) {
  return multipliers_of(tiles) + (keeps_rows(form) ? 0 : 32);
}
RFSEG_HOST_DEVICE constexpr int columns_of(Form form, int half) {
  return form == Form::kShort ? half : 2 * half;
}
/// With a norm: parts of a row, what a warpgroup completes (half of kHalf columns); two a block.
RFSEG_HOST_DEVICE constexpr int parts_of(int half, Use use) {
  return (use == Use::kStream ? kStreamColumns : kMapColumns) / (half / 2);
}
RFSEG_HOST_DEVICE constexpr int cluster_of(int half, Use use) { return parts_of(half, use) / 2; }
RFSEG_HOST_DEVICE constexpr int moment_bytes(int half, Use use) {
  return parts_of(half, use) * 64 * 8;
}
RFSEG_HOST_DEVICE constexpr int rows_at(Form form, int half, Use use) {
  if (form == Form::kPlain) return kLeadBytes;
  const int moments = (use == Use::kMapTwice ? 2 : 1) * moment_bytes(half, use);
  return kLeadBytes + moments + 2 * sum_bytes(half);
}
RFSEG_HOST_DEVICE constexpr int stage_bytes(Form form, int half, int tiles) {
  return columns_of(form, half) * 128 + (keeps_rows(form) ? 0 : tiles * kBoxBytes);
}

#if RFSEG_HOPPER

/// Stages a warp's 16 rows x kColumns halves in its own shared memory and writes them in pieces of
/// 16 bytes. `value(j, h, i)`: element i of the pair in row half h of column group j.
template <int kColumns, class Value>
RFSEG_DEVICE void write_halves(uint32_t staging, __half* out, int64_t ldo, int row, int m,
                               Value&& value) {
  constexpr int kPitch = kColumns * 2 + 16;  // rows begin at different banks
  constexpr int kPieces = kColumns / 8;
  const int lane = lane_index();
  const uint32_t to = staging + static_cast<uint32_t>(lane % 16 * kPitch + lane / 16 * 16);
  RFSEG_UNROLL
  for (int pair = 0; pair < kColumns / 16; ++pair) {
    uint32_t halves[4];
    RFSEG_UNROLL
    for (int g = 0; g < 2; ++g) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        halves[g * 2 + h] = pack_halves(value(2 * pair + g, h, 0), value(2 * pair + g, h, 1));
      }
    }
    store_matrices(to + pair * 32, halves[0], halves[1], halves[2], halves[3]);
  }
  warp_sync();
  RFSEG_UNROLL
  for (int i = 0; i < kPieces / 2; ++i) {
    const int at = i * kWarp + lane, r = at / kPieces, piece = at % kPieces;
    const float4 v = load_shared4(staging + static_cast<uint32_t>(r * kPitch + piece * 16));
    if (row + r < m) *reinterpret_cast<float4*>(out + (row + r) * ldo + piece * 8) = v;
  }
}

#endif

template <Form kForm, int kHalf, Activation kActivation, Use kUse, int kTiles>
RFSEG_DEVICE void multiply(const BlockTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr bool kNorm = kForm != Form::kPlain, kKeeps = keeps_rows(kForm);
  constexpr int kColumns = columns_of(kForm, kHalf);
  constexpr int kStageBytes = stage_bytes(kForm, kHalf, kTiles), kRowBytes = kTiles * kBoxBytes;
  constexpr int kMultipliers = multipliers_of(kTiles);
  constexpr int kWeightsAt = kKeeps ? 0 : kRowBytes;  // in a stage
  constexpr int kBlocksInRow = kForm == Form::kLong ? 2 : 1;
  constexpr bool kStream = kUse == Use::kStream;
  constexpr int kOwn = kNorm ? kHalf / 2 : kHalf;  // columns that a warpgroup completes
  constexpr int kCluster = cluster_of(kHalf, kUse), kParts = parts_of(kHalf, kUse);
  constexpr int kMomentBytes = moment_bytes(kHalf, kUse);
  constexpr int kGroups = kOwn / 8, kSumBytes = sum_bytes(kHalf);
  const uint32_t base = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t full = base, empty = base + 128, rows_full = base + 256;
  const int thread = thread_index(), warp = uniform(thread / 32);
  static_assert(kTiles == 1 || !kNorm);
  const int high = kTiles > 1 ? warp / 8 : 0;  // of the block's tiles this warp's
  constexpr int kMoments = kUse == Use::kMapTwice ? 2 : 1;
  const uint32_t sums_full = base + 384, moments_full = base + 448;
  const uint32_t moments = base + kLeadBytes;
  const uint32_t rows = base + rows_at(kForm, kHalf, kUse);
  const uint32_t sums = rows - 2 * kSumBytes;
  const uint32_t ring = rows + (kKeeps ? task.k_blocks * kRowBytes : 0);
  const int in_row = task.n_tiles * kBlocksInRow;
  const int first_tile = block_x() / in_row * kTiles, place = block_x() % in_row;
  const int part = place % kBlocksInRow, column = place / kBlocksInRow * kColumns;
  const int first_k = part * task.k_blocks;
  const int rank = cluster_rank();

  if (thread == 0) {
    for (int s = 0; s < task.stages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 8 * kTiles);
    }
    if constexpr (kKeeps) {
      for (int k = 0; k < task.k_blocks; ++k) barrier_init(rows_full + 8 * k, 1);
    }
    if constexpr (kNorm) {
      for (int i = 0; i < 2; ++i) {
        barrier_init(sums_full + 8 * i, 1);
        barrier_init(moments_full + 8 * i, 1);
      }
    }
    barrier_init_fence();
    if constexpr (kKeeps) {
      for (int k = 0; k < task.k_blocks; ++k) barrier_expect(rows_full + 8 * k, kRowBytes);
    }
    if constexpr (kNorm) {
      for (int i = 0; i < 2; ++i) {
        if (i < kMoments) barrier_expect(moments_full + 8 * i, kMomentBytes);
        if constexpr (kForm == Form::kLong) barrier_expect(sums_full + 8 * i, kSumBytes);
      }
    }
  }
  if constexpr (kNorm) {
    cluster_meet();
  } else {
    block_sync();
  }

  const int group = warp / 4 % 2, lane = lane_index();
  const auto fetch = [&](const CUtensorMap& map, int k, int stage, int at, int first) {
    load_tile(ring + stage * kStageBytes + at, &map, full + 8 * stage, (first_k + k) * 64, first,
              0);
  };
  const bool leads = thread == (kKeeps ? 0 : kMultipliers);
  if (leads) {
    map_prefetch(&task.b);
    map_prefetch(&task.a);
    for (int k = 0; k < task.stages; ++k) {
      barrier_expect(full + 8 * k, kStageBytes);
      fetch(task.b, k, k, kWeightsAt, column);
    }
  }
  if constexpr (!kKeeps) {
    if (warp == 8 * kTiles) {
      if (!leads) return;
      await_previous_kernel();
      for (int k = 0; k < task.stages; ++k) fetch(task.a, k, k, 0, first_tile * 64);
      int stage = 0, parity = 0;
      for (int k = task.stages; k < task.k_blocks; ++k) {
        barrier_wait(empty + 8 * stage, parity);
        barrier_expect(full + 8 * stage, kStageBytes);
        fetch(task.a, k, stage, 0, first_tile * 64);
        fetch(task.b, k, stage, kWeightsAt, column);
        if (++stage == task.stages) stage = 0, parity ^= 1;
      }
      return;
    }
  } else {
    warp_sync();
  }
  // This warpgroup's columns to complete.
  const int own = kForm == Form::kPlain   ? column + group * kHalf
                  : kForm == Form::kShort ? column + group * kOwn
                                          : column + group * kHalf + part * kOwn;
  const int first_row = (first_tile + high) * 64 + warp % 4 * 16;  // of the warp
  const int row = first_row + lane / 4, pair = lane % 4 * 2;  // of the thread: this and row + 8
  // The stream's scale, or a map's gamma; a map's beta.
  float2 bias[kGroups], scale[kNorm ? kGroups : 1], old[kNorm ? 2 : 1][kNorm ? kGroups : 1];
  float2 shift[kNorm && !kStream ? kGroups : 1];
  RFSEG_UNROLL
  for (int j = 0; j < kGroups; ++j) {
    const int at = own + j * 8 + pair;
    bias[j] = task.bias ? *reinterpret_cast<const float2*>(task.bias + at) : float2{0, 0};
    if constexpr (kNorm && kStream) {
      scale[j] = task.scale ? *reinterpret_cast<const float2*>(task.scale + at) : float2{1, 1};
    } else if constexpr (kNorm) {
      scale[j] = *reinterpret_cast<const float2*>(task.gamma + at);
      shift[j] = *reinterpret_cast<const float2*>(task.beta + at);
    }
  }
  await_previous_kernel();
  if constexpr (kKeeps) {
    if (leads) {
      for (int k = rank; k < task.k_blocks; k += kCluster) {
        load_tile_for_all(rows + k * kRowBytes, &task.a, rows_full + 8 * k, k * 64, first_tile * 64,
                          0, (1 << kCluster) - 1);
      }
    }
    warp_sync();
  }
  // Only now: what comes next shall find each multiprocessor with one block at work, not two.
  release_next_kernel();
  if constexpr (kNorm && kStream) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float* from = task.residual + (row + 8 * h) * task.ldr + own + pair;
      RFSEG_UNROLL
      for (int j = 0; j < kGroups; ++j) {
        old[h][j] =
            row + 8 * h < task.m ? *reinterpret_cast<const float2*>(from + j * 8) : float2{0, 0};
      }
    }
  }

  float d[kHalf / 2];
  {
    constexpr int kStep = kForm == Form::kShort ? 2 : 1;
    const int begin = kForm == Form::kShort ? group : 0;
    const uint64_t a = tile_descriptor((kKeeps ? rows : ring) + high * kBoxBytes);
    const uint64_t b =
        tile_descriptor(ring + kWeightsAt + (kForm == Form::kShort ? 0 : group * kHalf * 128));
    int stage = begin, parity = 0, last = 0;
    for (int k = begin; k < task.k_blocks; k += kStep) {
      if constexpr (kKeeps) barrier_wait(rows_full + 8 * k, 0);
      barrier_wait(full + 8 * stage, parity);
      const uint64_t at =
          a + static_cast<uint32_t>((kKeeps ? k * kRowBytes : stage * kStageBytes) / 16);
      const uint64_t weights = b + static_cast<uint32_t>(stage * kStageBytes / 16);
      wgmma_fence();
      RFSEG_UNROLL
      for (int step = 0; step < 4; ++step) {
        Wgmma<kHalf>::run(d, at + 2 * step, weights + 2 * step, k - begin + step > 0);
      }
      wgmma_commit();
      if (kForm != Form::kShort && k > 0) {
        wgmma_wait<1>();
        if (lane == 0) barrier_arrive(empty + 8 * last);
      }
      last = stage;
      stage += kStep;
      if (stage >= task.stages) stage -= task.stages, parity ^= 1;
    }
    wgmma_wait<0>();
    fence_registers(d);
  }

  if constexpr (!kNorm) {
    named_sync(1, kMultipliers);  // the weights' places are done with: warps stage their rows there
    write_halves<kHalf>(
        ring + static_cast<uint32_t>(warp * 16 * (kHalf * 2 + 16)), task.out + own, task.ldo,
        first_row, task.m, [&](int j, int h, int i) {
          return activate<kActivation>(d[4 * j + 2 * h + i] + (i ? bias[j].y : bias[j].x));
        });
  } else {
    constexpr int kCount = 4 * kGroups;
    const auto in_group = static_cast<uint32_t>(thread % 128 * 16);
    const bool second = kForm == Form::kShort ? group : part;
    float v[kCount];
    {
      const int to_group = kForm == Form::kShort ? 1 - group : group;
      uint32_t to = sums + to_group * kSumBytes + in_group, arrived = sums_full + 8 * to_group;
      if constexpr (kForm == Form::kLong) {
        to = address_at(to, rank ^ 1);
        arrived = address_at(arrived, rank ^ 1);
      }
      RFSEG_UNROLL
      for (int j = 0; j < kGroups; ++j) {
        float away[4];
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          v[4 * j + i] = second ? d[kCount + 4 * j + i] : d[4 * j + i];
          away[i] = second ? d[4 * j + i] : d[kCount + 4 * j + i];
        }
        if constexpr (kForm == Form::kLong) {
          store_at(to + j * 2048, away[0], away[1], away[2], away[3], arrived);
        } else {
          store_shared4(to + j * 2048, away[0], away[1], away[2], away[3]);
        }
      }
    }
    if constexpr (kForm == Form::kLong) {
      barrier_wait(sums_full + 8 * group, 0);
    } else {
      named_sync(1, 256);
    }
    RFSEG_UNROLL
    for (int j = 0; j < kGroups; ++j) {
      const float4 other = load_shared4(sums + group * kSumBytes + in_group + j * 2048);
      const float more[4] = {other.x, other.y, other.z, other.w};
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        float &x = v[4 * j + 2 * h], &y = v[4 * j + 2 * h + 1];
        x += more[2 * h] + bias[j].x;
        y += more[2 * h + 1] + bias[j].y;
        if constexpr (kStream) {
          x = fused(x, scale[j].x, old[h][j].x);
          y = fused(y, scale[j].y, old[h][j].y);
        }
      }
    }
    float mean[2], factor[2];
    // Of the values as they are, to all blocks: [part][row, row + 8][2] at `at`, counted on `full`.
    const auto tell_moments = [&](uint32_t at, uint32_t full) {
      float squares[2] = {0, 0};
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        mean[h] = 0;
        RFSEG_UNROLL
        for (int j = 0; j < kGroups; ++j) mean[h] += v[4 * j + 2 * h] + v[4 * j + 2 * h + 1];
        mean[h] += __shfl_xor_sync(kAllLanes, mean[h], 1);
        mean[h] += __shfl_xor_sync(kAllLanes, mean[h], 2);
        mean[h] *= 1.0f / kOwn;
      }
      RFSEG_UNROLL
      for (int i = 0; i < kCount; ++i) {
        const float off = v[i] - mean[i / 2 % 2];
        squares[i / 2 % 2] = fused(off, off, squares[i / 2 % 2]);
      }
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 1);
        squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 2);
      }
      // Each of the four lanes that share two rows tells two blocks, or one.
      RFSEG_UNROLL
      for (int i = 0; i < (kCluster + 3) / 4; ++i) {
        const int to = lane % 4 + 4 * i;
        if (kCluster % 4 != 0 && to >= kCluster) continue;
        store_at(address_at(at + own / kOwn * 512, to), mean[0], squares[0], mean[1], squares[1],
                 address_at(full, to));
      }
    };
    // Mean and factor of whole rows, relative to the first part's mean, so that one pass is enough.
    const auto merge_moments = [&](uint32_t at, uint32_t full) {
      barrier_wait(full, 0);
      const float4 first = load_shared4(at);
      const float pivot[2] = {first.x, first.z};
      float sum[2] = {0, 0}, between[2] = {0, 0}, within[2] = {0, 0};
      RFSEG_UNROLL
      for (int i = 0; i < kParts / 4; ++i) {
        const float4 one = load_shared4(at + (lane % 4 + 4 * i) * 512);
        const float off[2] = {one.x - pivot[0], one.z - pivot[1]};
        RFSEG_UNROLL
        for (int h = 0; h < 2; ++h) {
          sum[h] += off[h];
          between[h] = fused(off[h], off[h], between[h]);
        }
        within[0] += one.y;
        within[1] += one.w;
      }
      RFSEG_UNROLL
      for (int d = 1; d < 4; d *= 2) {
        RFSEG_UNROLL
        for (int h = 0; h < 2; ++h) {
          sum[h] += __shfl_xor_sync(kAllLanes, sum[h], d);
          between[h] += __shfl_xor_sync(kAllLanes, between[h], d);
          within[h] += __shfl_xor_sync(kAllLanes, within[h], d);
        }
      }
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float off = sum[h] * (1.0f / kParts);
        mean[h] = pivot[h] + off;
        const float deviations = fused(fused(-sum[h], off, between[h]), kOwn, within[h]);
        factor[h] = rsqrtf(fused(deviations, 1.0f / (kParts * kOwn), task.eps));
      }
    };
    const uint32_t rows_of = moments + static_cast<uint32_t>((warp % 4 * 8 + lane / 4) * 16);
    tell_moments(rows_of, moments_full);
    // While that is under way.
    constexpr bool kTaps = kForm == Form::kLong && kStream;
    float2 gamma[kGroups], beta[kGroups];
    int64_t tap_at[2] = {-1, -1};
    if constexpr (kUse == Use::kMapTwice) {
      RFSEG_UNROLL
      for (int j = 0; j < kGroups; ++j) {
        gamma[j] = *reinterpret_cast<const float2*>(task.then_gamma + own + pair + j * 8);
        beta[j] = *reinterpret_cast<const float2*>(task.then_beta + own + pair + j * 8);
      }
    }
    if (kTaps && task.tap != nullptr) {
      RFSEG_UNROLL
      for (int j = 0; j < kGroups; ++j) {
        gamma[j] = *reinterpret_cast<const float2*>(task.tap_gamma + own + pair + j * 8);
        beta[j] = *reinterpret_cast<const float2*>(task.tap_beta + own + pair + j * 8);
      }
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int tokens = task.tap_layout.tokens(), picture = (row + 8 * h) / tokens;
        const int cell = task.tap_layout.cell_of(row + 8 * h - picture * tokens);
        if (cell < 0 || row + 8 * h >= task.m) continue;
        tap_at[h] = (picture * task.tap_layout.cells() + cell) * task.ld_tap + own + pair;
      }
    }
    if constexpr (kStream) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h >= task.m) continue;
        float* to = task.sum + (row + 8 * h) * task.ld_sum + own + pair;
        RFSEG_UNROLL
        for (int j = 0; j < kGroups; ++j) {
          *reinterpret_cast<float2*>(to + j * 8) = float2{v[4 * j + 2 * h], v[4 * j + 2 * h + 1]};
        }
      }
    }
    merge_moments(rows_of, moments_full);
    RFSEG_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int j = i / 4, h = i / 2 % 2;
      v[i] = (v[i] - mean[h]) * factor[h];
      if constexpr (!kStream) {
        v[i] = activate<kActivation>(
            fused(v[i], i % 2 ? scale[j].y : scale[j].x, i % 2 ? shift[j].y : shift[j].x));
      }
    }
    if constexpr (kUse == Use::kMapTwice) {
      tell_moments(rows_of + kMomentBytes, moments_full + 8);
      merge_moments(rows_of + kMomentBytes, moments_full + 8);
      RFSEG_UNROLL
      for (int i = 0; i < kCount; ++i) {
        const int j = i / 4, h = i / 2 % 2;
        v[i] = fused((v[i] - mean[h]) * factor[h], i % 2 ? gamma[j].y : gamma[j].x,
                     i % 2 ? beta[j].y : beta[j].x);
      }
    }
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (row + 8 * h >= task.m) continue;
      __half* to = task.out + (row + 8 * h) * task.ldo + own + pair;
      RFSEG_UNROLL
      for (int j = 0; j < kGroups; ++j) {
        *reinterpret_cast<uint32_t*>(to + j * 8) =
            pack_halves(v[4 * j + 2 * h], v[4 * j + 2 * h + 1]);
      }
      if constexpr (kTaps) {
        if (tap_at[h] < 0) continue;
        RFSEG_UNROLL
        for (int j = 0; j < kGroups; ++j) {
          *reinterpret_cast<uint32_t*>(task.tap + tap_at[h] + j * 8) =
              pack_halves(fused(v[4 * j + 2 * h], gamma[j].x, beta[j].x),
                          fused(v[4 * j + 2 * h + 1], gamma[j].y, beta[j].y));
        }
      }
    }
  }
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

}  // namespace rfseg::cuda::hopper::block
