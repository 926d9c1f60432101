#pragma once

// The first kernel: one block a picture selects, orders and places the detections, two more
// prepare its axes for the mask kernel.

#include "core/cuda/simt.h"
#include "postprocess/cuda/alone.h"
#include "postprocess/cuda/axis_tables.h"
#include "postprocess/cuda/inputs.h"
#include "postprocess/cuda/records.h"
#include "postprocess/sigmoid.h"

namespace rfseg::cuda {

struct SelectShared {
  uint64_t keys[kCandidates];
  uint64_t ordered[kSelectThreads];
  DetectionRecord survivors[kSelectThreads];
  int32_t first[kSharedQueries];
  int32_t slots[kSharedQueries];
  uint32_t rank[kSelectThreads];
  uint32_t histogram[256];
  ScanScratch scan;
  uint32_t found;
  uint32_t digit, above;
};

/// One picture's logits.
struct Logits {
  const void* data;
  Number type;
  int64_t base;
  uint32_t pairs;

  RFSEG_DEVICE float at(uint32_t i) const { return read_number(data, type, base + i); }
};

/// Calls f(logit, flat index) for all logits >= cut; NaN is none. All threads of the block.
template <class F>
RFSEG_DEVICE void for_each_candidate(const Logits& logits, float cut, F&& f) {
  constexpr uint32_t kBatch = 10;  // loads in flight a thread
  for (uint32_t from = static_cast<uint32_t>(thread_index()); from < logits.pairs;
       from += kSelectThreads * kBatch) {
    float values[kBatch];
    RFSEG_UNROLL
    for (uint32_t k = 0; k < kBatch; ++k) {
      const uint32_t i = from + k * kSelectThreads;
      values[k] = i < logits.pairs ? logits.at(i) : float_of_bits(0x7fc00000u);
    }
    RFSEG_UNROLL
    for (uint32_t k = 0; k < kBatch; ++k) {
      if (values[k] >= cut) f(values[k], from + k * kSelectThreads);
    }
  }
}

/// The `wanted`-th largest key of all candidates; there are at least that many. Radix selection, a
/// read of the logits for every 8 bits.
RFSEG_DEVICE uint64_t find_kth_key(const Logits& logits, float cut, uint32_t wanted,
                                   SelectShared& s) {
  uint64_t prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = thread_index(); i < 256; i += kSelectThreads) s.histogram[i] = 0;
    block_sync();
    for_each_candidate(logits, cut, [&](float logit, uint32_t flat) {
      const uint64_t key = pair_key(logit, flat);
      if (shift == 56 || (key >> (shift + 8)) == (prefix >> (shift + 8))) {
        atomic_add(&s.histogram[(key >> shift) & 255], 1u);
      }
    });
    block_sync();
    if (thread_index() == 0) {
      uint32_t above = 0;
      int digit = 255;
      for (; digit > 0 && above + s.histogram[digit] < wanted; --digit) above += s.histogram[digit];
      s.digit = static_cast<uint32_t>(digit);
      s.above = above;
    }
    block_sync();
    prefix |= uint64_t{s.digit} << shift;
    wanted -= s.above;
    block_sync();
  }
  return prefix;
}

/// Sorts keys[0 .. n) in descending order; room for the next power of two.
RFSEG_DEVICE void bitonic_sort(uint64_t* keys, uint32_t n) {
  uint32_t size = 1;
  while (size < n) size *= 2;
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  for (uint32_t i = n + thread; i < size; i += kSelectThreads) keys[i] = 0;
  block_sync();
  for (uint32_t length = 2; length <= size; length *= 2) {
    for (uint32_t stride = length / 2; stride > 0; stride /= 2) {
      for (uint32_t k = thread; k < size / 2; k += kSelectThreads) {
        const uint32_t i = 2 * k - (k & (stride - 1)), j = i + stride;
        const uint64_t a = keys[i], b = keys[j];
        const bool descending = (i & length) == 0;
        if ((a < b) == descending) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      block_sync();
    }
  }
}

/// Sorts up to kSelectThreads keys by counting for each the larger ones; all keys differ.
RFSEG_DEVICE void rank_sort(const uint64_t* keys, uint32_t n, SelectShared& s) {
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  if (n <= 64) {  // one warp or two, no shared counters
    if (thread < n) {
      const uint64_t mine = keys[thread];
      uint32_t larger = 0;
      for (uint32_t j = 0; j < n; ++j) larger += keys[j] > mine ? 1u : 0u;
      s.ordered[larger] = mine;
    }
    block_sync();
    return;
  }
  uint32_t padded = 1;
  while (padded < n) padded *= 2;
  const uint32_t i = thread & (padded - 1), part = thread / padded, parts = kSelectThreads / padded;
  s.rank[thread] = 0;
  block_sync();
  if (i < n) {
    const uint64_t mine = keys[i];
    uint32_t larger = 0;
    for (uint32_t j = part; j < n; j += parts) larger += keys[j] > mine ? 1u : 0u;
    if (larger > 0) atomic_add(&s.rank[i], larger);
  }
  block_sync();
  if (thread < n) s.ordered[s.rank[thread]] = keys[thread];
  block_sync();
}

/// The first num_select pairs in their order; returns how many, and where they are.
RFSEG_DEVICE uint32_t order_pairs(const KernelArguments& a, const CallParams& call, int picture,
                                  SelectShared& s, const uint64_t** ordered) {
  *ordered = s.ordered;
  Logits logits;
  logits.data = a.logits;
  logits.type = a.logits_type;
  logits.pairs = static_cast<uint32_t>(a.queries) * static_cast<uint32_t>(a.classes);
  logits.base = int64_t{picture} * logits.pairs;
  if (thread_index() == 0) s.found = 0;
  block_sync();
  // Without a logit that could pass, the cut is NaN.
  for_each_candidate(logits, call.cut, [&](float logit, uint32_t flat) {
    const uint32_t at = atomic_add(&s.found, 1u);
    if (at < kCandidates) s.keys[at] = pair_key(logit, flat);
  });
  block_sync();
  uint32_t n = s.found;
  const uint32_t limit = static_cast<uint32_t>(call.num_select);
  const uint32_t kept = n < limit ? n : limit;
  if (kept == 0) return 0;
  if (n <= kSelectThreads) {
    rank_sort(s.keys, n, s);
    return kept;
  }
  uint64_t* keys = s.keys;
  if (n > kCandidates) {
    const uint64_t least = find_kth_key(logits, call.cut, kept, s);
    if (kept > kCandidates) keys = a.keys + picture * a.key_pitch;
    if (thread_index() == 0) s.found = 0;
    block_sync();
    for_each_candidate(logits, call.cut, [&](float logit, uint32_t flat) {
      const uint64_t key = pair_key(logit, flat);
      if (key >= least) keys[atomic_add(&s.found, 1u)] = key;
    });
    block_sync();
    n = kept;
    if (n <= kSelectThreads) {
      rank_sort(keys, n, s);
      return kept;
    }
  }
  bitonic_sort(keys, n);
  *ordered = keys;
  return kept;
}

RFSEG_DEVICE void select_detections(const KernelArguments& a, SelectShared& s, int picture) {
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  const CallParams call = *a.call;
  const bool small = a.queries <= kSharedQueries;
  int32_t* first = small ? s.first : a.first + int64_t{picture} * a.queries;
  int32_t* slots = small ? s.slots : a.slots + int64_t{picture} * a.queries;
  for (int q = thread_index(); q < a.queries; q += kSelectThreads) first[q] = INT32_MAX;

  const uint64_t* ordered;
  const uint32_t pairs = order_pairs(a, call, picture, s, &ordered);  // a barrier is in there
  BlockScan<kSelectThreads> scan(s.scan);
  const PictureParams& params = a.pictures[picture];
  const uint32_t limit = static_cast<uint32_t>(call.max_detections);
  DetectionRecord* survivors = a.detection_pitch <= kSelectThreads
                                   ? s.survivors
                                   : a.survivors + int64_t{picture} * a.detection_pitch;

  // Class map, thresholds, max_detections.
  uint32_t count = 0;
  for (uint32_t from = 0; from < pairs && count < limit; from += kSelectThreads) {
    DetectionRecord record;
    bool passes = false;
    if (from + thread < pairs) {
      const uint64_t key = ordered[from + thread];
      const uint32_t flat = 0xffffffffu - static_cast<uint32_t>(key);
      const uint32_t query = flat / static_cast<uint32_t>(a.classes);
      const ColumnRule rule = a.rules[flat - query * static_cast<uint32_t>(a.classes)];
      record.query = static_cast<int32_t>(query);
      record.class_id = rule.class_id;
      const int64_t at = (int64_t{picture} * a.queries + record.query) * 4;
      float box[4];
      for (int k = 0; k < 4; ++k) box[k] = read_number(a.boxes, a.boxes_type, at + k);
      place_box(box, params.box_x, params.box_y, call.inference != 0, record.box);
      record.score = float_of_bits(static_cast<uint32_t>(key >> 32));
      passes = rule.class_id >= 0 && record.score > rule.threshold;
    }
    uint32_t total;
    const uint32_t position = count + scan(passes ? 1u : 0u, &total);
    if (passes && position < limit) {
      survivors[position] = record;
      atomic_min(&first[record.query], static_cast<int32_t>(position));
    }
    count += total;
  }
  count = count < limit ? count : limit;
  block_sync();

  // One mask for each query, in the order of first appearance.
  uint32_t masks = 0;
  if (call.with_masks != 0) {
    for (uint32_t from = 0; from < count; from += kSelectThreads) {
      const uint32_t i = from + thread;
      const int32_t query = i < count ? survivors[i].query : 0;
      const bool leads = i < count && first[query] == static_cast<int32_t>(i);
      uint32_t total;
      const uint32_t slot = masks + scan(leads ? 1u : 0u, &total);
      if (leads) {
        slots[query] = static_cast<int32_t>(slot);
        a.mask_query[int64_t{picture} * a.mask_pitch + slot] = query;
      }
      masks += total;
    }
  }
  block_sync();

  // With masks the mask kernel hands the detections to the host, so that this kernel's end does not
  // wait for the host's memory.
  const bool to_host = call.with_masks == 0;
  if (thread == 0) {
    const PictureRecord counts{static_cast<int32_t>(count), static_cast<int32_t>(masks)};
    (to_host ? a.picture_records : a.counts)[picture] = counts;
  }
  DetectionRecord* records =
      (to_host ? a.detections : a.survivors) + int64_t{picture} * a.detection_pitch;
  for (uint32_t i = thread; i < count; i += kSelectThreads) {
    DetectionRecord record = survivors[i];
    record.mask = call.with_masks != 0 ? slots[record.query] : -1;
    records[i] = record;
  }
}

/// Grid (3, B) of kSelectThreads.
RFSEG_DEVICE void select_kernel(const KernelArguments& a, SelectShared& s) {
  release_next_kernel();
  const int picture = block_y();
  if (block_x() == 0) {
    if (picture == 0 && thread_index() == 0) *a.usage = Usage{};
    select_detections(a, s, picture);
  } else if (a.call->with_masks != 0) {
    fill_axis(a, picture, block_x() == 2);
  }
}

}  // namespace rfseg::cuda
