#include "engine/cuda/hopper/attention.h"

#include <algorithm>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/device.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/hopper/softmax.h"
#include "engine/cuda/portable/portable.h"

// Flash attention with heads of 64, in the manner of FlashAttention-3 (Shah et al. 2024): softmax
// on the fly over steps of kKeys keys, so that scores never leave the registers.
//
// A unit of work is 64 queries of one head, and one warpgroup takes it, with keys and values from a
// ring in shared memory that a warp of its own keeps filled by TMA. Up to kGroups units of the same
// head run side by side in a block and share the keys and values. While the tensor cores work on
// the values of one step and the keys of the next, the warpgroup exponentiates; the other
// warpgroups fill what gaps remain: a step's instructions wait for one another for 900 cycles of
// which the tensor cores and the exponentials need 256 each, so that four warpgroups are wanted.
// These have 112 registers a thread, which leaves none for queries: they stay in shared memory as
// wgmma's A operand, where the outputs then take their place, and each warpgroup has two places. Of
// fewer warpgroups each keeps its queries in registers. Blocks take equal runs of units: with 11
// units a head (677 rows) any division by tiles of 128 or 192 rows would leave a sixth of the work
// uneven. kSplitKeys, for few units: the kGroups warpgroups take every kGroups-th step of the same
// unit, and their sums are merged at the end.

namespace rfseg::cuda::hopper {
namespace {

struct AttentionTask {
  CUtensorMap q, k, v, out;  // [sequences, length, heads * 64], boxes of 64 x 64 (k, v: kKeys x 64)
  int length, heads;
  int row_tiles;  // of 64 queries
  int units;      // sequences * heads * row_tiles
  int slots;      // of the ring
  float scale;    // of scores, log2(e) included
  bool from_end;  // the last unit first
};

constexpr int kMostSlots = 24;
constexpr int kBoxBytes = 64 * 128;
constexpr int kLead = 1024;  // transaction barriers

// Named barriers: all of a split, or each warpgroup.
[[maybe_unused]] constexpr int kOwn = 1 /* to 4 */;

/// Whether queries stay in shared memory, in one of two boxes of their warpgroup.
RFSEG_HOST_DEVICE constexpr bool queries_stay(int groups) { return groups == 4; }
/// Boxes of 64 x 64 halves: for queries, and for outputs on their way out.
RFSEG_HOST_DEVICE constexpr int query_boxes(int groups, bool split_keys) {
  return split_keys ? 1 : queries_stay(groups) ? 2 * groups : groups;
}
RFSEG_HOST_DEVICE constexpr int out_boxes(int groups) { return queries_stay(groups) ? 0 : groups; }

// Of the last warpgroup one thread works; the others only give up their registers.
constexpr int threads(int groups) { return (groups + 1) * 128; }

/// A place in the ring: a slot, and the parity of the phase that fills it.
struct Cursor {
  int slot, parity;
};

/// Successive units of one head that run side by side: as even as can be.
struct Batch {
  int first, count;
};
[[maybe_unused]] RFSEG_HOST_DEVICE Batch next_batch(int unit, int end, int row_tiles, int groups) {
  const int head_end = (unit / row_tiles + 1) * row_tiles;
  const int left = (end < head_end ? end : head_end) - unit;
  const int rounds = (left + groups - 1) / groups;
  return {unit, (left + rounds - 1) / rounds};
}

template <int kGroups, int kKeys, bool kSplitKeys>
RFSEG_DEVICE void attend(const AttentionTask& task, void* shared) {
#if RFSEG_HOPPER
  constexpr int kSlotBytes = kKeys * 128;
  constexpr bool kStay = queries_stay(kGroups);
  constexpr int kQueryBoxes = query_boxes(kGroups, kSplitKeys);
  const uint32_t start = shared_address(shared);
  const uint32_t base = (start + 1023) / 1024 * 1024;
  const uint32_t full = base, empty = base + 8 * kMostSlots;
  const uint32_t query_full = base + 512, query_empty = base + 576;
  const uint32_t queries = base + kLead, staging = queries + kQueryBoxes * kBoxBytes;
  const uint32_t ring = staging + out_boxes(kGroups) * kBoxBytes;
  const int thread = thread_index(), warp = uniform(thread / 32);
  const int steps = (task.length + kKeys - 1) / kKeys;

  if (thread == 0) {
    for (int s = 0; s < task.slots; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, kSplitKeys ? 4 : 4 * kGroups);
    }
    for (int g = 0; g < kQueryBoxes; ++g) {
      barrier_init(query_full + 8 * g, 1);
      barrier_init(query_empty + 8 * g, kSplitKeys ? 4 * kGroups : kStay ? 1 : 4);
    }
    barrier_init_fence();
  }
  block_sync();
  release_next_kernel();

  // This block's run of units.
  const int first = static_cast<int>(static_cast<int64_t>(task.units) * block_x() / grid_x());
  const int end = static_cast<int>(static_cast<int64_t>(task.units) * (block_x() + 1) / grid_x());
  constexpr int kSide = kSplitKeys ? 1 : kGroups;
  // The step that may be short comes first, outside of the loop.
  const auto step_at = [&](int i) { return kSplitKeys ? i : i == 0 ? steps - 1 : i - 1; };
  const auto unit_at = [&](int i) { return task.from_end ? task.units - 1 - i : i; };

  if (warp >= 4 * kGroups) {
    give_registers<kGroups == 2 ? 40 : kGroups == 3 ? 32 : 24>();
    if (thread != kGroups * 128) return;
    map_prefetch(&task.q);
    map_prefetch(&task.k);
    map_prefetch(&task.v);
    await_previous_kernel();
    int slot = 0, parity = 1;
    uint32_t second = 0, queries_parity = (1u << kQueryBoxes) - 1;  // a bit a warpgroup, a box
    for (int unit = first; unit < end;) {
      const Batch batch = next_batch(unit, end, task.row_tiles, kSide);
      const int head = unit_at(unit) / task.row_tiles;
      const int column = head % task.heads * 64, sequence = head / task.heads;
      RFSEG_UNROLL
      for (int g = 0; g < kSide; ++g) {
        if (g >= batch.count) continue;
        int box = g;
        if constexpr (kStay) {
          box = 2 * g + static_cast<int>(second >> g & 1);
          second ^= 1u << g;
        }
        barrier_wait(query_empty + 8 * box, static_cast<int>(queries_parity >> box & 1));
        queries_parity ^= 1u << box;
        barrier_expect(query_full + 8 * box, kBoxBytes);
        load_tile(queries + box * kBoxBytes, &task.q, query_full + 8 * box, column,
                  unit_at(unit + g) % task.row_tiles * 64, sequence);
      }
      for (int step = 0; step < steps; ++step) {
        for (int value = 0; value < 2; ++value) {
          barrier_wait(empty + 8 * slot, parity);
          barrier_expect(full + 8 * slot, kSlotBytes);
          load_tile(ring + slot * kSlotBytes, value ? &task.v : &task.k, full + 8 * slot, column,
                    step_at(step) * kKeys, sequence);
          if (++slot == task.slots) slot = 0, parity ^= 1;
        }
      }
      unit += batch.count;
    }
    return;
  }

  take_registers<kGroups == 2 ? 232 : kGroups == 3 ? 160 : 112>();
  if (thread == 0) map_prefetch(&task.out);
  await_previous_kernel();
  const int group = warp / 4, lane = thread % 32, in_group = thread % 128;
  const int row_in_tile = warp % 4 * 16 + lane % 16;
  int taken = 0;         // units of this warpgroup so far
  Cursor used = {0, 0};  // the first slot of this batch
  const auto ahead = [&](Cursor c, int count) {
    c.slot += count;
    while (c.slot >= task.slots) c.slot -= task.slots, c.parity ^= 1;
    return c;
  };
  const auto await = [&](Cursor c) { barrier_wait(full + 8 * c.slot, c.parity); };
  const auto release = [&](Cursor c) {
    if (lane == 0) barrier_arrive(empty + 8 * c.slot);
  };

  for (int unit = first; unit < end;) {
    const Batch batch = next_batch(unit, end, task.row_tiles, kSide);
    const int mine = unit_at(kSplitKeys ? unit : unit + group);
    const bool busy = kSplitKeys || group < batch.count;
    if (!busy) {  // keeps step with the ring
      for (int i = 0; i < 2 * steps; ++i) {
        await(ahead(used, i));
        release(ahead(used, i));
      }
    } else {
      const int box = kSplitKeys ? 0 : kStay ? 2 * group + taken % 2 : group;
      const uint32_t own = kStay ? queries + box * kBoxBytes : staging + group * kBoxBytes;
      const uint32_t query_low = static_cast<uint32_t>(tile_descriptor(own));
      uint32_t q[kStay ? 1 : 16];
      barrier_wait(query_full + 8 * box, (kStay ? taken / 2 : taken) % 2);
      ++taken;
      if constexpr (!kStay) {
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int piece = (2 * i + lane / 16) ^ (row_in_tile % 8);
          load_matrices(queries + box * kBoxBytes + row_in_tile * 128 + piece * 16, q[4 * i],
                        q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]);
        }
        fence_async();
        warp_sync();
        if (lane == 0) barrier_arrive(query_empty + 8 * box);
      }

      Rows rows;
      float o[32];
      float s[kKeys / 2];
      uint32_t p[kKeys / 4];
      RFSEG_UNROLL
      for (int i = 0; i < 32; ++i) o[i] = 0.0f;

      constexpr int kStride = kSplitKeys ? kGroups : 1;
      const int begin = kSplitKeys ? group : 0;
      const auto multiply_keys = [&](Cursor c) {
        const uint64_t k = tile_descriptor(ring + c.slot * kSlotBytes);
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          if constexpr (kStay) {
            // In halves, because 64-bit sums of what is not uniform would take twice as many moves.
            const uint64_t high = k >> 32 << 32;
            Wgmma<kKeys>::run(s, high | (query_low + 2 * i), k + 2 * i, i > 0);
          } else {
            WgmmaRegisters<kKeys, false>::run(s, q + 4 * i, k + 2 * i, i > 0);
          }
        }
        wgmma_commit();
      };
      const auto multiply_values = [&](Cursor c) {
        const uint64_t v = tile_descriptor(ring + c.slot * kSlotBytes);
        RFSEG_UNROLL
        for (int i = 0; i < kKeys / 16; ++i) {
          WgmmaRegisters<64, true>::run(o, p + 4 * i, v + 128 * i, 1);
        }
        wgmma_commit();
      };

      if (begin < steps) {
        float factor[2];
        Cursor key = ahead(used, 2 * begin), value = ahead(key, 1);
        const auto mask_absent = [&](int step) {
          const int left = task.length - step_at(step) * kKeys;
          if (left < kKeys) mask<kKeys>(s, left, lane);
        };
        await(key);
        wgmma_fence();
        multiply_keys(key);
        if constexpr (kStay) {
          if (in_group == 0 && taken > 1) {  // the last unit's outputs have left the other box
            store_wait_read<0>();
            barrier_arrive(query_empty + 8 * (box ^ 1));
          }
        }
        wgmma_wait<0>();
        fence_registers(s);
        release(key);
        mask_absent(begin);
        weigh(s, rows, task.scale, factor);
        pack_weights<kKeys>(s, p);
        await(value);
        for (int step = begin; step + kStride < steps; step += kStride) {
          const int next = step + kStride;
          key = ahead(key, 2 * kStride);
          await(key);
          wgmma_fence();
          multiply_keys(key);
          multiply_values(value);
          wgmma_wait<1>();
          fence_registers(s);
          release(key);
          if constexpr (kSplitKeys) mask_absent(next);
          const bool raised = weigh(s, rows, task.scale, factor);
          fence_registers(s);
          const Cursor done = value;
          value = ahead(value, 2 * kStride);
          // The assembler would wait for the products first and exponentiate after, if this loop
          // did not stand between.
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
        multiply_values(value);
        wgmma_wait<0>();
        fence_registers(o);
        release(value);
      }

      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        rows.sum[h] += __shfl_xor_sync(kAllLanes, rows.sum[h], 1);
        rows.sum[h] += __shfl_xor_sync(kAllLanes, rows.sum[h], 2);
      }
      if constexpr (kSplitKeys) {
        // Each warpgroup's share of a row is scaled to the row's maximum over all of them. They
        // pass their outputs through the ring, which is idle: this was the block's only unit.
        float* parts = static_cast<float*>(shared) + (ring - start) / 4;
        float* maxima = parts + kGroups * 64 * 65;  // [kGroups][64], then the same of sums
        const int row = warp % 4 * 16 + lane / 4;
        named_sync(kOwn, kGroups * 128);  // nobody multiplies any more
        if (lane % 4 == 0) {
          RFSEG_UNROLL
          for (int h = 0; h < 2; ++h) {
            maxima[group * 64 + row + 8 * h] = rows.maximum[h];
            maxima[(kGroups + group) * 64 + row + 8 * h] = rows.sum[h];
          }
        }
        RFSEG_UNROLL
        for (int i = 0; i < 32; ++i) {
          parts[(group * 64 + row + i / 2 % 2 * 8) * 65 + i / 4 * 8 + lane % 4 * 2 + i % 2] = o[i];
        }
        named_sync(kOwn, kGroups * 128);
        for (int i = thread; i < 64 * 32; i += kGroups * 128) {
          const int r = i / 32, c = i % 32 * 2;
          float maximum = kMinusInfinity;
          for (int g = 0; g < kGroups; ++g) maximum = fmaxf(maximum, maxima[g * 64 + r]);
          float sum = 0, x = 0, y = 0;
          for (int g = 0; g < kGroups; ++g) {
            const float share = exp2_approximate(maxima[g * 64 + r] - maximum);
            sum = fused(share, maxima[(kGroups + g) * 64 + r], sum);
            x = fused(share, parts[(g * 64 + r) * 65 + c], x);
            y = fused(share, parts[(g * 64 + r) * 65 + c + 1], y);
          }
          const uint32_t at = staging + r * 128 + ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2;
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pack_halves(x / sum, y / sum))
                       : "memory");
        }
        fence_async();
        named_sync(kOwn, kGroups * 128);
      } else {
        const float inverse[2] = {1.0f / rows.sum[0], 1.0f / rows.sum[1]};
        if constexpr (!kStay) {
          if (in_group == 0) store_wait_read<0>();  // the last unit's rows have left
        }
        named_sync(kOwn + group, 128);  // and nobody multiplies by these queries any more
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          uint32_t halves[4];
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int at = 8 * i + 2 * j;
            halves[j] = pack_halves(o[at] * inverse[j % 2], o[at + 1] * inverse[j % 2]);
          }
          const int piece = (2 * i + lane / 16) ^ (row_in_tile % 8);
          store_matrices(own + row_in_tile * 128 + piece * 16, halves[0], halves[1], halves[2],
                         halves[3]);
        }
        fence_async();
        named_sync(kOwn + group, 128);
      }
      if (kSplitKeys ? thread == 0 : in_group == 0) {
        const int head = mine / task.row_tiles;
        store_tile(&task.out, own, head % task.heads * 64, mine % task.row_tiles * 64,
                   head / task.heads);
      }
    }
    used = ahead(used, 2 * steps);
    unit += batch.count;
  }
  if (in_group == 0) store_wait_all();
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

struct Kernel {
  AttentionVariant variant;
  void (*run)(const Queue&, int blocks, std::size_t bytes, const AttentionTask&);
};

template <int kGroups, int kKeys, bool kSplitKeys>
constexpr Kernel kernel() {
  return {{kGroups, kKeys, kSplitKeys},
          [](const Queue& queue, int blocks, std::size_t bytes, const AttentionTask& task) {
            launch<&attend<kGroups, kKeys, kSplitKeys>, threads(kGroups)>(queue, {blocks, 1}, bytes,
                                                                          task);
          }};
}

constexpr Kernel kKernels[] = {kernel<4, 64, false>(), kernel<3, 64, false>(),
                               kernel<2, 176, false>(), kernel<3, 64, true>()};

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

std::string name(const AttentionVariant& v) {
  return std::to_string(v.groups) + " groups, " + std::to_string(v.keys) + " keys" +
         (v.split_keys ? ", split" : "");
}

std::vector<AttentionVariant> attention_variants() {
  std::vector<AttentionVariant> all;
  for (const Kernel& kernel : kKernels) all.push_back(kernel.variant);
  return all;
}

AttentionVariant choose(const AttentionArguments& a, int multiprocessors) {
  const int units = a.sequences * a.heads * ((a.length + 63) / 64);
  // Where each block has few rounds, four units side by side fill them worse than three.
  if (units >= 8 * multiprocessors) return {4, 64, false};
  if (units > multiprocessors) return {3, 64, false};
  // A step of 176 keys takes about as long as two of 64.
  if (a.length > 4 * 64) return {2, 176, false};
  return {3, 64, true};
}

bool attention(const Queue& queue, const AttentionArguments& a, const AttentionVariant& variant) {
  if (a.head_dim != 64 || a.length < 1 || a.sequences < 1) return false;
  if (!aligned(a.q) || !aligned(a.k) || !aligned(a.v) || !aligned(a.out) || a.ldq % 8 ||
      a.ldk % 8 || a.ldv % 8 || a.ldo % 8) {
    return false;
  }
  for (const Kernel& kernel : kKernels) {
    if (kernel.variant != variant) continue;
    AttentionTask task = {};
    const int columns = a.heads * 64;
    const auto map = [&](CUtensorMap* to, const void* data, int64_t ld, int rows) {
      return matrix_map(to, data, columns, a.length, ld, a.sequences, a.length * ld, 64, rows);
    };
    if (!map(&task.q, a.q, a.ldq, 64) || !map(&task.k, a.k, a.ldk, variant.keys) ||
        !map(&task.v, a.v, a.ldv, variant.keys) || !map(&task.out, a.out, a.ldo, 64)) {
      return false;
    }
    task.length = a.length;
    task.heads = a.heads;
    task.row_tiles = (a.length + 63) / 64;
    task.units = a.sequences * a.heads * task.row_tiles;
    task.scale = a.scale * 1.4426950408889634f;
    task.from_end = a.from_end;
    const int fixed =
        1024 + kLead +
        (query_boxes(variant.groups, variant.split_keys) + out_boxes(variant.groups)) * kBoxBytes;
    const int slot = variant.keys * 128;
    task.slots = std::min(kMostSlots, (227 * 1024 - fixed) / slot);
    const int blocks =
        variant.split_keys ? task.units : std::min(task.units, portable::multiprocessors());
    kernel.run(queue, blocks, static_cast<std::size_t>(fixed + task.slots * slot), task);
    return true;
  }
  return false;
}

bool attention(const Queue& queue, const AttentionArguments& arguments) {
  if (arguments.head_dim != 64) return false;
  return attention(queue, arguments, choose(arguments, portable::multiprocessors()));
}

}  // namespace rfseg::cuda::hopper
