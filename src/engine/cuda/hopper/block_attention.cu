#include <algorithm>
#include <type_traits>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/block.h"
#include "engine/cuda/hopper/block_device.h"
#include "engine/cuda/hopper/block_steps.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/hopper/softmax.h"
#include "engine/cuda/portable/portable.h"

// Attention with heads of 64 for few rows and short sequences. A unit of work, 64 queries of one
// head, is shared by the four warpgroups of a block, or (kPair) by eight of a cluster of two, each
// with at most kKeys keys (48, 72 or 88): one product, one softmax, one product, and no loop, since
// with one or two warps a scheduler it is the length of a warp's instruction stream that counts.
// Then each warpgroup completes 16 of the columns for its block, or 8 for the cluster: the sums lie
// in shared memory as they lay in registers, with the row's maximum and sum of weights.

namespace rfseg::cuda::hopper {
namespace {

struct UnitTask {
  CUtensorMap q, k, v;  // [sequences, length, heads * 64], boxes of 64, kKeys and kValueRows x 64
  __half* out;
  int64_t ldo;
  int length, heads;
  int row_tiles;  // of 64 queries
  int share;      // keys of a warpgroup
  float scale;    // of scores, log2(e) included
};

constexpr int kGroups = 4, kThreads = kGroups * 128;
constexpr int kMostKeys = 88;  // of a warpgroup
constexpr int kQueryBytes = 64 * 128;
constexpr int kLeadBytes = 1024;                              // transaction barriers
constexpr int kHandedBytes = 64 * 8 * 4, kRowBytes = 64 * 8;  // from the other block, a warpgroup
constexpr int kExchangeBytes = kHandedBytes + kRowBytes;

/// Of a warpgroup: its keys and values, then its sums.
RFSEG_HOST_DEVICE constexpr int run_bytes(int keys) {
  const int read = (keys + value_rows(keys)) * 128;
  return read > kAttendedBytes ? read : kAttendedBytes;
}
constexpr int shared_bytes(int keys) {
  return 1024 + kLeadBytes + kQueryBytes + kGroups * (run_bytes(keys) + kExchangeBytes);
}

#if RFSEG_HOPPER

/// Of one thread's two rows: the highest score times scale, and the sum of weights below it.
struct Softmax {
  float maximum[2], sum[2];
};

#endif

template <bool kPair, int kKeys>
RFSEG_DEVICE void attend(const UnitTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr int kValueRows = value_rows(kKeys), kRunBytes = run_bytes(kKeys);
  constexpr int kKeyBytes = kKeys * 128, kValueBytes = kValueRows * 128;
  const uint32_t base = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t query_full = base + 64, key_full = base, value_full = base + 32;
  const uint32_t queries = base + kLeadBytes;
  const uint32_t exchanges = queries + kQueryBytes + kGroups * kRunBytes;
  const int thread = thread_index(), warp = uniform(thread / 32);
  const int rank = kPair ? block_x() % 2 : 0, unit = kPair ? block_x() / 2 : block_x();
  const int tile = unit % task.row_tiles, head = unit / task.row_tiles % task.heads;
  const int sequence = unit / task.row_tiles / task.heads;
  const int group = warp / 4, lane = lane_index();
  const uint32_t keys_at = queries + kQueryBytes + group * kRunBytes;
  const uint32_t values_at = keys_at + kKeyBytes;
  const uint32_t exchange_full = base + 128 + 8 * group;

  if (thread == 0) {
    for (int g = 0; g < kGroups; ++g) {
      barrier_init(key_full + 8 * g, 1);
      barrier_init(value_full + 8 * g, 1);
      barrier_init(base + 128 + 8 * g, 1);
    }
    barrier_init(query_full, 1);
    barrier_init_fence();
    if constexpr (kPair) {
      for (int g = 0; g < kGroups; ++g) barrier_expect(base + 128 + 8 * g, kExchangeBytes);
    }
  }
  if constexpr (kPair) {
    cluster_meet();
  } else {
    block_sync();
  }
  const int first = (rank * kGroups + group) * task.share;
  const int beyond = task.length - first;
  const int keys = beyond < task.share ? beyond : task.share;  // may be none
  const bool leads = thread % 128 == 0;
  if (leads) {
    map_prefetch(&task.q);
    map_prefetch(&task.k);
    map_prefetch(&task.v);
  }
  const int row = tile * 64 + warp % 4 * 16 + lane / 4;
  const int column = group * 16 + (kPair ? rank * 8 : 0);
  __half* out = task.out + (static_cast<int64_t>(sequence) * task.length + row) * task.ldo +
                head * 64 + column + lane % 4 * 2;
  const float scale = task.scale;
  await_previous_kernel();
  if (leads) {
    if (group == 0) {
      barrier_expect(query_full, kQueryBytes);
      load_tile(queries, &task.q, query_full, head * 64, tile * 64, sequence);
    }
    barrier_expect(key_full + 8 * group, kKeyBytes);
    load_tile(keys_at, &task.k, key_full + 8 * group, head * 64, first, sequence);
  }
  warp_sync();
  release_next_kernel();

  float s[kKeys / 2];
  barrier_wait(query_full, 0);
  barrier_wait(key_full + 8 * group, 0);
  if (leads) {  // not before: all keys shall come first
    barrier_expect(value_full + 8 * group, kValueBytes);
    load_tile(values_at, &task.v, value_full + 8 * group, head * 64, first, sequence);
  }
  warp_sync();
  {
    const uint64_t q = tile_descriptor(queries), k = tile_descriptor(keys_at);
    wgmma_fence();
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) Wgmma<kKeys>::run(s, q + 2 * i, k + 2 * i, i > 0);
    wgmma_commit();
    wgmma_wait<0>();
    fence_registers(s);
  }
  const auto hide = [&](int from) {
    const int left = keys - lane % 4 * 2;
    RFSEG_UNROLL
    for (int i = 0; i < kKeys / 2; ++i) {
      if (i >= from && i / 4 * 8 + i % 2 >= left) s[i] = -1e30f;
    }
  };
  if (keys < kKeys - 8) {
    hide(0);
  } else if (keys < kKeys) {
    hide(kKeys / 2 - 4);
  }
  Softmax own;
  {
    float highest[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) highest[i] = fmaxf(s[i], s[i + 4]);
    RFSEG_UNROLL
    for (int i = 8; i < kKeys / 2; ++i) highest[i % 4] = fmaxf(highest[i % 4], s[i]);
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      float v = fmaxf(highest[2 * h], highest[2 * h + 1]);
      v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
      v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
      own.maximum[h] = v * scale;
    }
  }
  uint32_t p[kValueRows / 4] = {};
  {
    float sum[4] = {0, 0, 0, 0};
    RFSEG_UNROLL
    for (int i = 0; i < kKeys / 2; i += 2) {
      RFSEG_UNROLL
      for (int j = 0; j < 2; ++j) {
        s[i + j] = exp2_approximate(fused(s[i + j], scale, -own.maximum[i / 2 % 2]));
        sum[i % 4 + j] += s[i + j];
      }
      p[i / 2] = pack_halves(s[i], s[i + 1]);
    }
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) own.sum[h] = sum[2 * h] + sum[2 * h + 1];
  }
  float o[32];
  barrier_wait(value_full + 8 * group, 0);
  {
    const uint64_t v = tile_descriptor(values_at);
    wgmma_fence();
    RFSEG_UNROLL
    for (int i = 0; i < kValueRows / 16; ++i) {
      WgmmaRegisters<64, true>::run(o, p + 4 * i, v + 128 * i, i > 0);
    }
    wgmma_commit();
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      own.sum[h] += __shfl_xor_sync(kAllLanes, own.sum[h], 1);
      own.sum[h] += __shfl_xor_sync(kAllLanes, own.sum[h], 2);
      if (keys <= 0) own.sum[h] = 0;
    }
    wgmma_wait<0>();
    fence_registers(o);
  }
  // What no one has keys for weighs nothing.
  if (keys <= 0) {
    RFSEG_UNROLL
    for (int i = 0; i < 32; ++i) o[i] = 0;
  }

  // To where the keys and values were: column groups of 8, and the rows' softmax. The warpgroup's
  // other warps may still read them.
  named_sync(2 + group, 128);
  const auto in_group = static_cast<uint32_t>(thread % 128 * 16);
  RFSEG_UNROLL
  for (int j = 0; j < 8; ++j) {
    store_shared4(keys_at + in_group + j * 2048, o[4 * j], o[4 * j + 1], o[4 * j + 2],
                  o[4 * j + 3]);
  }
  store_shared4(keys_at + in_group + 8 * 2048, own.maximum[0], own.sum[0], own.maximum[1],
                own.sum[1]);
  named_sync(1, kThreads);
  float4 mine = {0, 0, 0, 0}, other = {0, 0, 0, 0};  // with kPair `other` is the other block's
  const uint32_t others = queries + kQueryBytes + in_group;
  {
    float4 rows[kGroups];
    RFSEG_UNROLL
    for (int g = 0; g < kGroups; ++g) rows[g] = load_shared4(others + g * kRunBytes + 8 * 2048);
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      own.maximum[h] = h ? rows[0].z : rows[0].x;
      RFSEG_UNROLL
      for (int g = 1; g < kGroups; ++g) {
        own.maximum[h] = fmaxf(own.maximum[h], h ? rows[g].z : rows[g].x);
      }
      own.sum[h] = 0;
    }
    const uint32_t first_at = others + (2 * group + (kPair ? rank : 0)) * 2048;
    const uint32_t second_at = others + (2 * group + (kPair ? 1 - rank : 1)) * 2048;
    RFSEG_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      const float low = exp2_approximate(rows[g].x - own.maximum[0]);
      const float high = exp2_approximate(rows[g].z - own.maximum[1]);
      own.sum[0] = fused(low, rows[g].y, own.sum[0]);
      own.sum[1] = fused(high, rows[g].w, own.sum[1]);
      const float4 a = load_shared4(first_at + g * kRunBytes);
      const float4 b = load_shared4(second_at + g * kRunBytes);
      mine.x = fused(low, a.x, mine.x);
      mine.y = fused(low, a.y, mine.y);
      mine.z = fused(high, a.z, mine.z);
      mine.w = fused(high, a.w, mine.w);
      other.x = fused(low, b.x, other.x);
      other.y = fused(low, b.y, other.y);
      other.z = fused(high, b.z, other.z);
      other.w = fused(high, b.w, other.w);
    }
  }
  if constexpr (kPair) {
    const uint32_t exchange = exchanges + group * kExchangeBytes;
    const uint32_t row_at = exchange + kHandedBytes + (warp % 4 * 8 + lane / 4) * 16;
    const uint32_t arrived = address_at(exchange_full, rank ^ 1);
    store_at(address_at(exchange + in_group, rank ^ 1), other.x, other.y, other.z, other.w,
             arrived);
    if (lane % 4 == 0) {
      store_at(address_at(row_at, rank ^ 1), own.maximum[0], own.sum[0], own.maximum[1], own.sum[1],
               arrived);
    }
    barrier_wait(exchange_full, 0);
    const float4 rows = load_shared4(row_at), sums = load_shared4(exchange + in_group);
    float scales[2], theirs[2];
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float maximum = h ? rows.z : rows.x, highest = fmaxf(own.maximum[h], maximum);
      scales[h] = exp2_approximate(own.maximum[h] - highest);
      theirs[h] = exp2_approximate(maximum - highest);
      const float whole = fused(own.sum[h], scales[h], (h ? rows.w : rows.y) * theirs[h]);
      const float inverse = __fdividef(1.0f, whole);
      scales[h] *= inverse;
      theirs[h] *= inverse;
    }
    mine.x = fused(mine.x, scales[0], sums.x * theirs[0]);
    mine.y = fused(mine.y, scales[0], sums.y * theirs[0]);
    mine.z = fused(mine.z, scales[1], sums.z * theirs[1]);
    mine.w = fused(mine.w, scales[1], sums.w * theirs[1]);
  } else {
    const float low = __fdividef(1.0f, own.sum[0]), high = __fdividef(1.0f, own.sum[1]);
    mine.x *= low, mine.y *= low, mine.z *= high, mine.w *= high;
    other.x *= low, other.y *= low, other.z *= high, other.w *= high;
  }
  if (row < task.length) {
    *reinterpret_cast<uint32_t*>(out) = pack_halves(mine.x, mine.y);
    if (!kPair) *reinterpret_cast<uint32_t*>(out + 8) = pack_halves(other.x, other.y);
  }
  if (row + 8 < task.length) {
    *reinterpret_cast<uint32_t*>(out + 8 * task.ldo) = pack_halves(mine.z, mine.w);
    if (!kPair)
      *reinterpret_cast<uint32_t*>(out + 8 * task.ldo + 8) = pack_halves(other.z, other.w);
  }
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

/// launch_cluster() with a bound on registers that lets the blocks of qkv and out-projection be on
/// the same multiprocessor.
template <bool kPair, int kKeys>
__global__ void __maxnreg__(80) attention_kernel(const __grid_constant__ UnitTask task) {
  extern __shared__ uint4 shared[];
  attend<kPair, kKeys>(task, shared);
}

template <bool kPair, int kKeys>
void launch_attention(const Queue& queue, int blocks, const UnitTask& task) {
  auto* kernel = attention_kernel<kPair, kKeys>;
  reserve_shared(kernel, shared_bytes(kKeys));
  const LaunchConfig launch(queue, {blocks, 1}, kThreads, kPair ? 2 : 1, shared_bytes(kKeys));
  check(cudaLaunchKernelEx(&launch.config, kernel, task), "launching attention");
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool block_attention(const Queue& queue, const AttentionArguments& a) {
  if (a.head_dim != 64 || a.length < 1 || a.sequences < 1 || !(a.scale > 0)) return false;
  if (!aligned(a.q) || !aligned(a.k) || !aligned(a.v) || !aligned(a.out) || a.ldq % 8 ||
      a.ldk % 8 || a.ldv % 8 || a.ldo % 2) {
    return false;
  }
  UnitTask task = {};
  task.length = a.length;
  task.heads = a.heads;
  task.row_tiles = (a.length + 63) / 64;
  const int units = a.sequences * a.heads * task.row_tiles;
  const int resident = portable::multiprocessors();  // blocks at a time, one on each
  const bool pair = 2 * units <= resident && a.length > kMostKeys;
  const int blocks = pair ? 2 * units : units, groups = pair ? 2 * kGroups : kGroups;
  if (blocks > resident || a.length > groups * kMostKeys) return block_attention_steps(queue, a);
  task.out = static_cast<__half*>(a.out);
  task.ldo = a.ldo;
  task.share = (a.length + groups - 1) / groups;
  task.scale = a.scale * 1.4426950408889634f;
  const auto run = [&](auto keys) {
    constexpr int kKeys = keys.value;
    const auto map = [&](CUtensorMap* to, const void* data, int64_t ld, int rows) {
      return matrix_map(to, data, a.heads * 64, a.length, ld, a.sequences, a.length * ld, 64, rows);
    };
    if (!map(&task.q, a.q, a.ldq, 64) || !map(&task.k, a.k, a.ldk, kKeys) ||
        !map(&task.v, a.v, a.ldv, value_rows(kKeys))) {
      return false;
    }
    if (pair) {
      launch_attention<true, kKeys>(queue, blocks, task);
    } else {
      launch_attention<false, kKeys>(queue, blocks, task);
    }
    return true;
  };
  // As few as suffice: of 88 keys, nano's windows have 37.
  if (task.share <= 48) return run(std::integral_constant<int, 48>());
  if (task.share <= 72) return run(std::integral_constant<int, 72>());
  return run(std::integral_constant<int, kMostKeys>());
}

}  // namespace rfseg::cuda::hopper
