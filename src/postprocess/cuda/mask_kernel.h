#pragma once

// The second kernel: a cluster of blocks turns the cells of one query into the compressed COCO
// bytes of its mask. Each block takes an equal share of the pixel columns, a thread a column. The
// mask is handled as the positions at which it changes ("toggles"), in column-major order.

#include "core/cuda/simt.h"
#include "postprocess/cuda/alone.h"
#include "postprocess/cuda/hand_over.h"
#include "postprocess/cuda/records.h"
#include "postprocess/cuda/toggle_list.h"

namespace rfseg::cuda {

/// Bytes of one count, in groups of 5 bits with a sign.
RFSEG_DEVICE int group_count(int32_t v) {
  const uint32_t magnitude = static_cast<uint32_t>(v < 0 ? ~v : v);
  return (33 - leading_zeros(magnitude) + 4) / 5;
}

/// The counts of this block as differences, by local index.
struct Counts {
  ToggleList list;
  uint32_t global;   ///< index of the block's first count
  uint32_t tail[3];  ///< toggles before it, latest first

  RFSEG_DEVICE uint32_t toggle(int64_t i) const {
    if (i >= 0) return list.read(static_cast<uint32_t>(i));
    return i == -1 ? tail[0] : i == -2 ? tail[1] : tail[2];
  }
  /// Run lengths are written as the difference to the one two before, from the fourth on.
  RFSEG_DEVICE int32_t value(uint32_t i) const {
    const uint32_t index = global + i;
    const int64_t at = i;
    const uint32_t run = toggle(at) - (index > 0 ? toggle(at - 1) : 0u);
    if (index <= 2) return static_cast<int32_t>(run);
    return static_cast<int32_t>(run - (toggle(at - 2) - toggle(at - 3)));
  }
};

/// Writes `total` bytes of s.text, which hold those from the 16-byte boundary before `at` on.
RFSEG_DEVICE void copy_text(const uint8_t* text, uint8_t* bytes, uint64_t at, uint32_t total) {
  const uint32_t begin = static_cast<uint32_t>(at & 15), end = begin + total;
  uint8_t* out = bytes + (at - begin);
  for (uint32_t j = 16 * static_cast<uint32_t>(thread_index()); j < end; j += 16 * kMaskThreads) {
    if (j >= begin && j + 16 <= end) {
      struct alignas(16) Words {
        uint32_t w[4];
      };
      *reinterpret_cast<Words*>(out + j) = *reinterpret_cast<const Words*>(text + j);
    } else {
      for (uint32_t k = j > begin ? j : begin; k < end && k < j + 16; ++k) out[k] = text[k];
    }
  }
}

/// Writes all of a mask's counts by one block: toggles of the team's blocks, whose numbers are in
/// the lanes' `theirs`, `all` together, are copied, and `arrive` called once they are.
template <class Arrive>
RFSEG_DEVICE void write_gathered(const KernelArguments& a, MaskShared& s, int team_first,
                                 int team_size, uint32_t theirs, uint32_t all, uint64_t at,
                                 MaskRecord* record, BlockScan<kMaskThreads>& scan,
                                 Arrive&& arrive) {
  // The toggles from kLead on, zeros before them, so that all counts are made in one way.
  constexpr uint32_t kLead = 3;
  uint32_t* const list = reinterpret_cast<uint32_t*>(&s.column[0][0]);
  uint8_t* const text = reinterpret_cast<uint8_t*>(s.tile.cells);
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  uint32_t ends[kMaxBlocksPerMask];  // of each block's toggles among all
  RFSEG_UNROLL
  for (int r = 0; r < kMaxBlocksPerMask; ++r) {
    ends[r] = (r > 0 ? ends[r - 1] : 0u) + (r < team_size ? warp_read(theirs, r) : 0u);
  }
  RFSEG_UNROLL_BY(4)
  for (uint32_t i = thread; i < all; i += kMaskThreads) {
    int owner = 0;
    uint32_t begin = 0;
    RFSEG_UNROLL
    for (int r = 0; r + 1 < kMaxBlocksPerMask; ++r) {
      owner += i >= ends[r] ? 1 : 0;
      begin = i >= ends[r] ? ends[r] : begin;
    }
    list[kLead + i] = *cluster_peer(&s.list[i - begin], team_first + owner);
  }
  if (thread < kLead) list[thread] = 0;
  block_sync();
  arrive();
  const auto count_at = [&](uint32_t i) {
    const uint32_t* t = list + i;  // t[kLead] is toggle i
    const uint32_t before = i > 2 ? t[1] - t[0] : 0u;
    return static_cast<int32_t>(t[3] - t[2] - before);
  };
  const uint32_t each = (all + kMaskThreads - 1) / kMaskThreads;
  const uint32_t first = thread * each;
  const uint32_t last = first + each < all ? first + each : all;
  uint32_t bytes = 0;
  for (uint32_t i = first; i < last; ++i) {
    bytes += static_cast<uint32_t>(group_count(count_at(i)));
  }
  uint32_t total;
  uint32_t to = static_cast<uint32_t>(at & 15) + scan(bytes, &total);
  for (uint32_t i = first; i < last; ++i) {
    int32_t value = count_at(i);
    const int groups = group_count(value);
    for (int g = 0; g < groups; ++g) {
      text[to++] = static_cast<uint8_t>(48 + (value & 31) + (g + 1 < groups ? 32 : 0));
      value >>= 5;
    }
  }
  block_sync();
  copy_text(text, a.bytes, at, total);
  if (thread == 0) *record = {static_cast<uint32_t>(at), total};
}

/// The blocks of a cluster that share a mask.
struct Team {
  int first, rank, size;  ///< first: its rank 0 within the cluster

  /// All blocks of the cluster come here together, unless each works alone.
  RFSEG_DEVICE void sync() const {
    if (size == 1) {
      block_sync();
    } else {
      cluster_sync();
    }
  }
};

/// Where the next `need` bytes are; kNoRoom if `failed`, or without room. One thread a mask, of
/// `masks` in all. `alone`: there was no selection kernel that cleared the count.
RFSEG_DEVICE uint64_t reserve_bytes(const KernelArguments& a, uint64_t need, bool failed,
                                    bool alone, int masks) {
  const uint64_t old = atomic_add(&a.usage->reserved, alone ? kReservation + need : need);
  const uint64_t base = alone ? old % kReservation : old;
  if (!alone) {
    atomic_add(&a.usage->bytes, need);
  } else if (old / kReservation == static_cast<uint64_t>(masks) - 1) {  // the call's last
    a.usage->bytes = base + need;
    a.usage->reserved = 0;
  }
  return failed || base + need > a.byte_capacity ? kNoRoom : base;
}

/// One mask; `active` false only takes part in the barriers.
template <bool alone, bool plain>
RFSEG_DEVICE void encode_mask(const KernelArguments& a, MaskShared& s, const Team& team,
                              bool active, int picture_index, int slot, int query, int masks) {
  const int thread = thread_index(), lane = thread % kWarp;
  BlockScan<kMaskThreads> scan(s.scan);
  Counts counts;
  counts.list = {s.list, a.spill + uint64_t{a.spill_pitch} * static_cast<uint32_t>(block_x()),
                 a.spill_pitch};
  uint32_t count = 0, pixels = 0;
  if (active) {
    const PictureParams& picture = s.picture;
    pixels = static_cast<uint32_t>(picture.height) * static_cast<uint32_t>(picture.width);
    MaskSource source = mask_source(a, picture, picture_index, query);
    if (alone) {
      source.start = nullptr;  // they are in the tile
    }
    if (plain) {
      source.y_two_taps = true;
      source.pad_left = source.pad_top = 0;
      source.x.sampling = source.y.sampling = Sampling::kPlain;
    }
    count = list_toggles<alone>(source, picture.height, picture.width, s, counts.list, team.rank,
                                team.size, scan);
    if (team.rank == team.size - 1) {  // the end of the picture closes the last run
      if (thread == 0) counts.list.write(count, pixels);
      ++count;
    }
    const bool fits = count <= kListToggles + a.spill_pitch;
    block_sync();
    if (thread == 0) {
      s.exchange.count = count;
      s.exchange.failed = fits ? 0u : 1u;
      for (uint32_t k = 0; k < 3; ++k) {
        s.exchange.tail[k] = fits && k < count ? counts.list.read(count - 1 - k) : 0u;
      }
      if (!fits) atomic_max(&a.usage->toggles, count - kListToggles);
    }
  }
  team.sync();

  int32_t value = 0;  // of the count that this thread has among the first kMaskThreads
  uint32_t offset = 0, bytes = 0;
  if (active) {
    // Where this block's counts stand among all, and the toggles before them. A lane a block.
    Exchange theirs{};
    if (lane < team.size) {
      const Exchange* other = cluster_peer(&s.exchange, team.first + lane);
      theirs.count = other->count;
      theirs.failed = other->failed;
      theirs.tail[0] = other->tail[0];
      theirs.tail[1] = other->tail[1];
      theirs.tail[2] = other->tail[2];
    }
    const bool failed = warp_ballot(theirs.failed != 0) != 0;
    uint32_t all = 0, known = 0;
    counts.global = 0;
    for (int r = 0; r < team.size; ++r) {
      const uint32_t other = warp_read(theirs.count, r);
      all += other;
      if (r < team.rank) counts.global += other;
    }
    counts.tail[0] = counts.tail[1] = counts.tail[2] = 0;
    for (int r = team.rank - 1; r >= 0 && known < 3; --r) {
      const uint32_t other = warp_read(theirs.count, r);
      const uint32_t tail[3] = {warp_read(theirs.tail[0], r), warp_read(theirs.tail[1], r),
                                warp_read(theirs.tail[2], r)};
      RFSEG_UNROLL
      for (uint32_t k = 0; k < 3; ++k) {
        if (k >= other || known >= 3) continue;
        if (known == 0) counts.tail[0] = tail[k];
        if (known == 1) counts.tail[1] = tail[k];
        if (known == 2) counts.tail[2] = tail[k];
        ++known;
      }
    }
    uint64_t base = 0;
    if (thread == 0 && team.rank == 0) {
      // Room for the longest counts that a picture of this size can have; what is not needed stays
      // unused.
      const uint64_t longest = static_cast<uint64_t>(group_count(static_cast<int32_t>(pixels)));
      const uint64_t need = (all * longest + 15) / 16 * 16;
      base = reserve_bytes(a, need, failed, alone, masks);
    }
    // Of few toggles, one block writes all; the barriers are those of the whole cluster.
    if (team.size == cluster_size() && all <= kGatheredToggles && !failed &&
        warp_ballot(theirs.count > kListToggles) == 0) {
      if (team.rank > 0) {
        if (team.size > 1) cluster_arrive();
      } else {
        if (thread == 0) s.exchange.base = base;
        block_sync();
        base = s.exchange.base;
        if (base == kNoRoom) {
          if (thread == 0) a.header->overflow = kBuffersTooSmall;
          if (team.size > 1) cluster_arrive();
        } else {
          write_gathered(a, s, team.first, team.size, theirs.count, all, base,
                         a.mask_records + int64_t{picture_index} * a.mask_pitch + slot, scan, [&] {
                           if (team.size > 1) cluster_arrive();
                         });
        }
      }
      if (team.size > 1) {
        cluster_wait();
      } else {
        block_sync();
      }
      return;
    }
    for (uint32_t from = 0; from < count && !failed; from += kMaskThreads) {
      const uint32_t i = from + static_cast<uint32_t>(thread);
      const int32_t v = i < count ? counts.value(i) : 0;
      uint32_t total;
      const uint32_t at = scan(i < count ? static_cast<uint32_t>(group_count(v)) : 0u, &total);
      if (from == 0) {
        value = v;
        offset = at;
      }
      bytes += total;
    }
    if (thread == 0) {
      s.exchange.bytes = bytes;
      if (team.rank == 0) s.exchange.base = base;
    }
  }
  team.sync();

  uint64_t at = kNoRoom;
  uint32_t length = 0;
  if (active) {
    at = cluster_peer(&s.exchange, team.first)->base;
    uint32_t theirs = 0, below = 0;
    if (lane < team.size) theirs = cluster_peer(&s.exchange, team.first + lane)->bytes;
    for (int r = 0; r < team.size; ++r) {
      const uint32_t other = warp_read(theirs, r);
      length += other;
      if (r < team.rank) below += other;
    }
    if (team.rank == 0 && thread == 0) {
      if (at == kNoRoom) {
        a.header->overflow = kBuffersTooSmall;
      } else {
        a.mask_records[int64_t{picture_index} * a.mask_pitch + slot] = {static_cast<uint32_t>(at),
                                                                        length};
      }
    }
    if (at != kNoRoom) at += below;
  }
  if (team.size > 1) cluster_arrive();  // nobody reads this block's shared memory after this
  if (at != kNoRoom) {
    for (uint32_t from = 0; from < count; from += kMaskThreads) {
      const uint32_t i = from + static_cast<uint32_t>(thread);
      uint32_t total = bytes;
      if (count > kMaskThreads) {
        value = i < count ? counts.value(i) : 0;
        offset = scan(i < count ? static_cast<uint32_t>(group_count(value)) : 0u, &total);
      }
      const int groups = i < count ? group_count(value) : 0;
      uint8_t* text = s.text + (at & 15) + offset;
      for (int g = 0; g < groups; ++g) {
        text[g] = static_cast<uint8_t>(48 + (value & 31) + (g + 1 < groups ? 32 : 0));
        value >>= 5;
      }
      block_sync();
      copy_text(s.text, a.bytes, at, total);
      at += total;
      block_sync();
    }
  }
  if (team.size > 1) {
    cluster_wait();
  } else {
    block_sync();
  }
}

/// Masks of the batch in order: which picture has number `item`.
struct MaskNumbers {
  int total = 0;
  int picture = -1, slot = 0;

  /// All lanes of a warp.
  RFSEG_DEVICE void find(const KernelArguments& a, int item) {
    const int lane = thread_index() % kWarp;
    total = 0;
    picture = -1;
    for (int from = 0; from < a.batch; from += kWarp) {
      const int mine = from + lane < a.batch ? a.counts[from + lane].masks : 0;
      int sum = mine;
      for (int d = 1; d < kWarp && d < a.batch; d *= 2) {
        const int other = warp_read_below(sum, d);
        if (lane >= d) sum += other;
      }
      const int last = a.batch - 1 - from < kWarp ? a.batch - 1 - from : kWarp - 1;
      const uint32_t beyond = warp_ballot(item < total + sum && lane <= last);
      if (beyond != 0 && picture < 0) {
        const int owner = lowest_bit(beyond);
        picture = from + owner;
        slot = item - total - warp_read(sum - mine, owner);
      }
      total += warp_read(sum, last);
    }
  }
};

/// How the blocks of a cluster share `total` masks. The more masks, the fewer blocks share one; a
/// team has up to `rounds` of them, one after the other.
RFSEG_DEVICE Team make_team(int total, int clusters, int rounds, int* teams, int* mine) {
  const int cluster = cluster_size();
  Team team;
  team.size = cluster;
  while (team.size > 1 && total > rounds * clusters * (cluster / team.size)) team.size /= 2;
  *teams = cluster / team.size;
  *mine = cluster_rank() / team.size;
  team.first = *mine * team.size;
  team.rank = cluster_rank() - team.first;
  return team;
}

/// Grid of whole clusters of kMaskThreads; any number of them does all masks of the batch. `plain`:
/// so are all pictures' axes.
template <bool plain>
RFSEG_DEVICE void mask_kernel(const KernelArguments& a, MaskShared& s) {
  const int cluster = cluster_size(), clusters = grid_x() / cluster;
  const int home = block_x() / cluster;
  // Parameters were there before the selection kernel began.
  int loaded = 0;
  load_picture(a, loaded, s.picture);
  await_previous_kernel();
  // With one picture, this is the block's first mask unless there are very many.
  const int guess = home < a.mask_pitch ? a.mask_query[home] : 0;
  MaskNumbers numbers;
  numbers.find(a, home);
  const int total = numbers.total;
  hand_over_detections(a, MaskBytes::kRle, kMaskThreads);
  // The masks of a batch differ in size, and the largest takes as long as the call if one block has
  // it; those of a crowd are small.
  constexpr int kRoundsOfBatch = 2;
  int teams, mine;
  const Team team = make_team(total, clusters, a.batch > 1 ? kRoundsOfBatch : 1, &teams, &mine);
  block_sync();
  for (int item = home * teams; item < total; item += clusters * teams) {
    const bool active = mine < teams && item + mine < total;
    int query = guess;
    if (active && (item + mine != home || a.batch > 1)) {
      numbers.find(a, item + mine);
      query = a.mask_query[int64_t{numbers.picture} * a.mask_pitch + numbers.slot];
      if (numbers.picture != loaded) {
        loaded = numbers.picture;
        load_picture(a, loaded, s.picture);
        block_sync();
      }
    }
    encode_mask<false, plain>(a, s, team, active, numbers.picture, numbers.slot, query, total);
  }
}

/// The same for one picture whose axes are plain, with the selection.
RFSEG_DEVICE void mask_kernel_alone(const KernelArguments& a, MaskShared& s) {
  const int cluster = cluster_size(), clusters = grid_x() / cluster;
  const int home = block_x() / cluster;
  if (cluster > 1) cluster_arrive();
  load_picture(a, 0, s.picture);
  release_next_kernel();
  await_previous_kernel();
  const AloneCall call = select_alone(
      a, s.alone, [] {}, [&] { fill_starts(s.picture.y, s.tile.start); });
  if (!call.fits) {
    if (block_x() == 0 && thread_index() == 0) a.header->overflow = kTooManyCandidates;
    return;
  }
  if (block_x() == grid_x() - 1) hand_over_alone(a, s.alone, call, s.picture);
  const int total = call.counts.masks;
  int teams, mine;
  const Team team = make_team(total, clusters, 1, &teams, &mine);
  for (int item = home * teams; item < total; item += clusters * teams) {
    const bool active = mine < teams && item + mine < total;
    const int query = active ? s.alone.mask_query[item + mine] : 0;
    encode_mask<true, true>(a, s, team, active, 0, item + mine, query, total);
  }
}

}  // namespace rfseg::cuda
