#include "engine/cuda/hopper/block_steps.h"

#include <algorithm>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/block_device.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/hopper/softmax.h"
#include "engine/cuda/portable/portable.h"

// Attention with heads of 64 for few rows and sequences too long for block_attention.cu: flash
// attention as in attention.cu, but every block has all it ever does at once, so that the pass
// takes one round of blocks whatever the number of tiles.
//
// A block has kTiles tiles of 64 queries of one head; the keys of each are shared by kParts
// warpgroups, or by the kBlocks blocks of a cluster, in steps of kKeys taken by turns. A warp of
// its own fills a ring with keys and values, which the tiles share. At the end those who shared a
// tile's keys hand over their sums as they lie in registers, and each completes a part of the
// columns.
//
// Which division: a tile's step takes a multiprocessor 650 cycles whatever else it has under way.
// So one tile a block where all find room; else three in two blocks, which keeps more of the
// multiprocessors busy than two in one, but costs an exchange between blocks.

namespace rfseg::cuda::hopper {
namespace {

struct StepTask {
  CUtensorMap q, k, v;  // [sequences, length, heads * 64], boxes of 64 x 64
  __half* out;
  int64_t ldo;
  int length, heads;
  int row_tiles;    // of 64 queries
  int tile_groups;  // of kTiles
  int slots;        // of the ring
  float scale;      // of scores, log2(e) included
};

constexpr int kMostSlots = 24, kMostTiles = 3;
constexpr int kBoxBytes = 64 * 128;
constexpr int kLeadBytes = 1024;  // transaction barriers
static_assert(8 * (2 * kMostSlots + 2 * kMostTiles) <= kLeadBytes);
// From the other block: half of the columns, and each row's softmax once.
constexpr int kHandedBytes = 4 * 2048, kRowBytes = 64 * 8;

// Of the last warpgroup one thread works; the others only give up their registers.
RFSEG_HOST_DEVICE constexpr int threads_of(int tiles, int parts) {
  return (tiles * parts + 1) * 128;
}
RFSEG_HOST_DEVICE constexpr int exchange_bytes(int tiles, int parts, int blocks) {
  return blocks > 1  ? (tiles * (kHandedBytes + kRowBytes) + 1023) / 1024 * 1024
         : parts > 1 ? tiles * parts * kAttendedBytes
                     : 0;
}
/// Of a step's values, or keys.
RFSEG_HOST_DEVICE constexpr int slot_bytes(int keys) { return value_rows(keys) * 128; }
RFSEG_HOST_DEVICE constexpr int bytes_of(int tiles, int parts, int blocks, int keys, int slots) {
  return 1024 + kLeadBytes + tiles * kBoxBytes + slots * slot_bytes(keys) +
         exchange_bytes(tiles, parts, blocks);
}
constexpr int kRoom = 227 * 1024;

template <int kTiles, int kParts, int kBlocks, int kKeys>
RFSEG_DEVICE void attend(const StepTask& task, void* shared) {
#if RFSEG_HOPPER
  static_assert(kParts == 1 || kBlocks == 1);
  static_assert(kKeys % 8 == 0);
  constexpr int kValueRows = value_rows(kKeys), kSlotBytes = slot_bytes(kKeys);
  // A warpgroup waits for the next step's keys and values before it is done with its own values.
  static_assert(bytes_of(kTiles, kParts, kBlocks, kKeys, 3 * kParts) <= kRoom &&
                kTiles <= kMostTiles);
  const uint32_t base = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t full = base, empty = base + 8 * kMostSlots, query_full = base + 16 * kMostSlots;
  const uint32_t exchange_full = query_full + 8 * kMostTiles;
  const uint32_t queries = base + kLeadBytes, exchanges = queries + kTiles * kBoxBytes;
  const uint32_t ring = exchanges + exchange_bytes(kTiles, kParts, kBlocks);
  const int thread = thread_index(), warp = uniform(thread / 32);
  const int rank = kBlocks > 1 ? block_x() % kBlocks : 0, place = block_x() / kBlocks;
  const int first_tile = place % task.tile_groups * kTiles;
  const int head = place / task.tile_groups % task.heads;
  const int sequence = place / task.tile_groups / task.heads;
  const int left_tiles = task.row_tiles - first_tile;
  const int tiles = left_tiles < kTiles ? left_tiles : kTiles;
  // Of the keys; this block has every kBlocks-th, from `rank` on.
  const int all_steps = (task.length + kKeys - 1) / kKeys;
  const int steps = (all_steps - rank + kBlocks - 1) / kBlocks;

  if (thread == 0) {
    for (int s = 0; s < task.slots; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * tiles);
    }
    for (int t = 0; t < kTiles; ++t) {
      barrier_init(query_full + 8 * t, 1);
      if constexpr (kBlocks > 1) barrier_init(exchange_full + 8 * t, 1);
    }
    barrier_init_fence();
    if constexpr (kBlocks > 1) {
      for (int t = 0; t < kTiles; ++t) {
        barrier_expect(exchange_full + 8 * t, kHandedBytes + kRowBytes);
      }
    }
  }
  if constexpr (kBlocks > 1) {
    cluster_meet();
  } else {
    block_sync();
  }

  if (warp >= 4 * kTiles * kParts) {
    give_registers<kTiles * kParts == 3 ? 32 : 24>();
    if (thread != kTiles * kParts * 128) return;
    map_prefetch(&task.q);
    map_prefetch(&task.k);
    map_prefetch(&task.v);
    await_previous_kernel();
    release_next_kernel();
    for (int t = 0; t < tiles; ++t) {
      barrier_expect(query_full + 8 * t, kBoxBytes);
      load_tile(queries + t * kBoxBytes, &task.q, query_full + 8 * t, head * 64,
                (first_tile + t) * 64, sequence);
    }
    int slot = 0, parity = 1;  // a fresh barrier counts as having ended a phase of parity 1
    for (int round = 0; round < steps; round += kParts) {
      const int end = round + kParts < steps ? round + kParts : steps;
      for (int value = 0; value < 2; ++value) {
        for (int step = round; step < end; ++step) {
          barrier_wait(empty + 8 * slot, parity);
          barrier_expect(full + 8 * slot, value ? kSlotBytes : kKeys * 128);
          load_tile(ring + slot * kSlotBytes, value ? &task.v : &task.k, full + 8 * slot, head * 64,
                    (step * kBlocks + rank) * kKeys, sequence);
          if (++slot == task.slots) slot = 0, parity ^= 1;
        }
      }
    }
    return;
  }

  take_registers<kTiles * kParts == 3 ? 160 : 112>();
  const int group = warp / 4, tile = group / kParts, part = group % kParts, lane = lane_index();
  if (tile >= tiles) return;
  await_previous_kernel();
  release_next_kernel();

  Rows rows;
  float o[32];
  RFSEG_UNROLL
  for (int i = 0; i < 32; ++i) o[i] = 0.0f;
  if (part < steps) {
    float s[kKeys / 2], factor[2];
    uint32_t p[kValueRows / 4] = {};
    struct {
      int slot, parity;
    } key = {0, 0}, value = {0, 0};
    const auto ahead = [&](auto& cursor, int count) {
      cursor.slot += count;
      while (cursor.slot >= task.slots) cursor.slot -= task.slots, cursor.parity ^= 1;
    };
    const auto await = [&](const auto& cursor) {
      barrier_wait(full + 8 * cursor.slot, cursor.parity);
    };
    const auto release = [&](const auto& cursor) {
      if (lane == 0) barrier_arrive(empty + 8 * cursor.slot);
    };
    // The values of a round of steps lie behind its keys.
    const auto in_round = [&](int step) {
      const int count = steps - (step - part);
      return count < kParts ? count : kParts;
    };
    const uint64_t query = tile_descriptor(queries + tile * kBoxBytes);
    const auto multiply_keys = [&](int slot) {
      const uint64_t k = tile_descriptor(ring + slot * kSlotBytes);
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) Wgmma<kKeys>::run(s, query + 2 * i, k + 2 * i, i > 0);
      wgmma_commit();
    };
    const auto multiply_values = [&](int slot) {
      const uint64_t v = tile_descriptor(ring + slot * kSlotBytes);
      RFSEG_UNROLL
      for (int i = 0; i < kValueRows / 16; ++i) {
        WgmmaRegisters<64, true>::run(o, p + 4 * i, v + 128 * i, 1);
      }
      wgmma_commit();
    };
    const auto mask_absent = [&](int step) {
      const int left = task.length - (step * kBlocks + rank) * kKeys;
      if (left < kKeys) mask<kKeys>(s, left, lane);
    };

    ahead(key, part);
    value = key;
    ahead(value, in_round(part));
    barrier_wait(query_full + 8 * tile, 0);
    await(key);
    wgmma_fence();
    multiply_keys(key.slot);
    wgmma_wait<0>();
    fence_registers(s);
    release(key);
    mask_absent(part);
    weigh(s, rows, task.scale, factor);
    pack_weights<kKeys>(s, p);
    await(value);
    for (int next = part + kParts; next < steps; next += kParts) {
      ahead(key, 2 * kParts);  // only the last round is short
      await(key);
      wgmma_fence();
      multiply_keys(key.slot);
      multiply_values(value.slot);
      wgmma_wait<1>();
      fence_registers(s);
      release(key);
      mask_absent(next);
      const bool raised = weigh(s, rows, task.scale, factor);
      fence_registers(s);
      const auto done = value;
      value = key;
      ahead(value, in_round(next));
      // The assembler would wait for the products first and exponentiate after, if this loop did
      // not stand between.
      await(value);
      wgmma_wait<0>();
      fence_registers(o);
      release(done);
      pack_weights<kKeys>(s, p);
      if (raised) {
        RFSEG_UNROLL
        for (int i = 0; i < 32; ++i) o[i] *= factor[i / 2 % 2];
      }
    }
    wgmma_fence();
    multiply_values(value.slot);
    wgmma_wait<0>();
    fence_registers(o);
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    rows.sum[h] += __shfl_xor_sync(kAllLanes, rows.sum[h], 1);
    rows.sum[h] += __shfl_xor_sync(kAllLanes, rows.sum[h], 2);
  }

  // What this thread completes: groups of 8 columns from `first_group` on, of two rows.
  constexpr int kOwn = 8 / (kParts * kBlocks);
  const int first_group = (kBlocks > 1 ? rank : part) * kOwn;
  const auto in_group = static_cast<uint32_t>(thread % 128 * 16);
  float mine[kOwn][4], sum[2];
  if constexpr (kBlocks > 1) {
    const uint32_t exchange = exchanges + tile * (kHandedBytes + kRowBytes);
    const uint32_t row_at = exchange + kHandedBytes + (warp % 4 * 8 + lane / 4) * 16;
    const uint32_t arrived = address_at(exchange_full + 8 * tile, rank ^ 1);
    const uint32_t to = address_at(exchange + in_group, rank ^ 1);
    RFSEG_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      float away[4];
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) {
        mine[j][i] = rank ? o[4 * (kOwn + j) + i] : o[4 * j + i];
        away[i] = rank ? o[4 * j + i] : o[4 * (kOwn + j) + i];
      }
      store_at(to + j * 2048, away[0], away[1], away[2], away[3], arrived);
    }
    if (lane % 4 == 0) {
      store_at(address_at(row_at, rank ^ 1), rows.maximum[0], rows.sum[0], rows.maximum[1],
               rows.sum[1], arrived);
    }
    barrier_wait(exchange_full + 8 * tile, 0);
    const float4 other = load_shared4(row_at);
    float own[2], theirs[2];
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float maximum = h ? other.z : other.x, highest = fmaxf(rows.maximum[h], maximum);
      own[h] = exp2_approximate(rows.maximum[h] - highest);
      theirs[h] = exp2_approximate(maximum - highest);
      sum[h] = fused(rows.sum[h], own[h], (h ? other.w : other.y) * theirs[h]);
    }
    RFSEG_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const float4 more = load_shared4(exchange + in_group + j * 2048);
      mine[j][0] = fused(mine[j][0], own[0], more.x * theirs[0]);
      mine[j][1] = fused(mine[j][1], own[0], more.y * theirs[0]);
      mine[j][2] = fused(mine[j][2], own[1], more.z * theirs[1]);
      mine[j][3] = fused(mine[j][3], own[1], more.w * theirs[1]);
    }
  } else {
    const uint32_t of_tile = exchanges + tile * kParts * kAttendedBytes + in_group;
    const uint32_t own = of_tile + part * kAttendedBytes;
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) {
      store_shared4(own + j * 2048, o[4 * j], o[4 * j + 1], o[4 * j + 2], o[4 * j + 3]);
    }
    store_shared4(own + 8 * 2048, rows.maximum[0], rows.sum[0], rows.maximum[1], rows.sum[1]);
    named_sync(1 + tile, kParts * 128);
    float4 of_part[kParts];
    RFSEG_UNROLL
    for (int q = 0; q < kParts; ++q)
      of_part[q] = load_shared4(of_tile + q * kAttendedBytes + 8 * 2048);
    float highest[2] = {of_part[0].x, of_part[0].z};
    RFSEG_UNROLL
    for (int q = 1; q < kParts; ++q) {
      highest[0] = fmaxf(highest[0], of_part[q].x);
      highest[1] = fmaxf(highest[1], of_part[q].z);
    }
    sum[0] = sum[1] = 0;
    RFSEG_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      RFSEG_UNROLL
      for (int i = 0; i < 4; ++i) mine[j][i] = 0;
    }
    RFSEG_UNROLL
    for (int q = 0; q < kParts; ++q) {
      const float low = exp2_approximate(of_part[q].x - highest[0]);
      const float high = exp2_approximate(of_part[q].z - highest[1]);
      sum[0] = fused(low, of_part[q].y, sum[0]);
      sum[1] = fused(high, of_part[q].w, sum[1]);
      RFSEG_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        const float4 v = load_shared4(of_tile + q * kAttendedBytes + (first_group + j) * 2048);
        mine[j][0] = fused(low, v.x, mine[j][0]);
        mine[j][1] = fused(low, v.y, mine[j][1]);
        mine[j][2] = fused(high, v.z, mine[j][2]);
        mine[j][3] = fused(high, v.w, mine[j][3]);
      }
    }
  }
  const int row = (first_tile + tile) * 64 + warp % 4 * 16 + lane / 4;
  __half* out = task.out + (static_cast<int64_t>(sequence) * task.length + row) * task.ldo +
                head * 64 + first_group * 8 + lane % 4 * 2;
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= task.length) continue;
    const float inverse = __fdividef(1.0f, sum[h]);
    RFSEG_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      *reinterpret_cast<uint32_t*>(out + 8 * h * task.ldo + j * 8) =
          pack_halves(mine[j][2 * h] * inverse, mine[j][2 * h + 1] * inverse);
    }
  }
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

struct Kernel {
  StepDivision division;
  void (*run)(const Queue&, int blocks, std::size_t bytes, const StepTask&);
};

template <int kTiles, int kParts, int kBlocks, int kKeys>
constexpr Kernel kernel() {
  return {{kTiles, kParts, kBlocks, kKeys},
          [](const Queue& queue, int blocks, std::size_t bytes, const StepTask& task) {
            launch_cluster<&attend<kTiles, kParts, kBlocks, kKeys>, threads_of(kTiles, kParts)>(
                queue, {blocks, 1}, kBlocks, bytes, task);
          }};
}

constexpr Kernel kKernels[] = {kernel<1, 4, 1, 64>(), kernel<2, 2, 1, 64>(), kernel<3, 1, 2, 64>(),
                               kernel<2, 2, 1, 56>()};
constexpr StepDivision kOneTile = kKernels[0].division, kTwoTiles = kKernels[1].division,
                       kThreeTiles = kKernels[2].division, kTwoTilesFewKeys = kKernels[3].division;

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

int blocks_of(const AttentionArguments& a, const StepDivision& d) {
  const int tiles = (a.length + 63) / 64;
  return a.sequences * a.heads * ((tiles + d.tiles - 1) / d.tiles) * d.blocks;
}

}  // namespace

std::string name(const StepDivision& d) {
  return std::to_string(d.tiles) + " tiles, keys by " + std::to_string(d.parts) + " x " +
         std::to_string(d.blocks) + ", " + std::to_string(d.keys) + " a step";
}

std::vector<StepDivision> step_divisions() {
  std::vector<StepDivision> all;
  for (const Kernel& kernel : kKernels) all.push_back(kernel.division);
  return all;
}

bool block_attention_steps(const Queue& queue, const AttentionArguments& a,
                           const StepDivision& division) {
  if (a.head_dim != 64 || a.length < 1 || a.sequences < 1 || !(a.scale > 0)) return false;
  if (!aligned(a.q) || !aligned(a.k) || !aligned(a.v) || reinterpret_cast<uintptr_t>(a.out) % 4 ||
      a.ldq % 8 || a.ldk % 8 || a.ldv % 8 || a.ldo % 2) {
    return false;
  }
  for (const Kernel& kernel : kKernels) {
    const StepDivision& d = kernel.division;
    if (d != division) continue;
    StepTask task = {};
    const auto map = [&](CUtensorMap* to, const void* data, int64_t ld, int rows) {
      return matrix_map(to, data, a.heads * 64, a.length, ld, a.sequences, a.length * ld, 64, rows);
    };
    if (!map(&task.q, a.q, a.ldq, 64) || !map(&task.k, a.k, a.ldk, d.keys) ||
        !map(&task.v, a.v, a.ldv, value_rows(d.keys))) {
      return false;
    }
    task.out = static_cast<__half*>(a.out);
    task.ldo = a.ldo;
    task.length = a.length;
    task.heads = a.heads;
    task.row_tiles = (a.length + 63) / 64;
    task.tile_groups = (task.row_tiles + d.tiles - 1) / d.tiles;
    task.scale = a.scale * 1.4426950408889634f;
    const int steps = (a.length + d.keys - 1) / d.keys;
    const int room = (kRoom - bytes_of(d.tiles, d.parts, d.blocks, d.keys, 0)) / slot_bytes(d.keys);
    task.slots = std::min({kMostSlots, room, 2 * steps});
    const int bytes = bytes_of(d.tiles, d.parts, d.blocks, d.keys, task.slots);
    kernel.run(queue, blocks_of(a, d), static_cast<std::size_t>(bytes), task);
    return true;
  }
  return false;
}

bool block_attention_steps(const Queue& queue, const AttentionArguments& a) {
  if (a.length < 1 || a.sequences < 1) return false;
  // Two blocks for the keys are worth their exchange only where there are many.
  constexpr int kManyKeys = 768;
  for (const StepDivision& d : {kOneTile, kThreeTiles, kTwoTiles}) {
    if (d == kThreeTiles && a.length <= kManyKeys) continue;
    if (blocks_of(a, d) > portable::multiprocessors()) continue;
    // As many steps as with more keys, and fewer that do not exist: 336 instead of 384 for 325.
    const auto turns = [&](const StepDivision& by) {
      return ((a.length + by.keys - 1) / by.keys + by.parts - 1) / by.parts;
    };
    const bool fewer = d == kTwoTiles && turns(kTwoTilesFewKeys) == turns(kTwoTiles);
    return block_attention_steps(queue, a, fewer ? kTwoTilesFewKeys : d);
  }
  return false;
}

}  // namespace rfseg::cuda::hopper
