#pragma once

// Selection without a kernel of its own, for one picture with few candidates: every cluster of the
// mask kernel selects for itself, its blocks reading equal parts of the logits and telling each
// other what they found. The same answer as select_kernel.h. What is too much for the room here is
// told by the header, and the call runs again with that kernel.

#include "postprocess/cuda/hand_over.h"
#include "postprocess/cuda/inputs.h"
#include "postprocess/cuda/records.h"
#include "postprocess/sigmoid.h"

namespace rfseg::cuda {

constexpr int kAloneThreads = 256;
constexpr int kAloneRoom = kWarp;   ///< candidates that one block may find
constexpr int kAloneClasses = 256;  ///< rules kept in shared memory
static_assert(kAloneThreads == kMaskThreads && kAloneThreads == kDenseThreads);
static_assert(kMaxBlocksPerMask * kAloneRoom == kAloneThreads);

struct AloneShared {
  uint64_t found[kMaxBlocksPerMask][kAloneRoom];  ///< by each block of the cluster
  uint32_t counts[kMaxBlocksPerMask];
  uint64_t keys[kAloneThreads];  ///< all of them, then the detections'
  uint64_t ordered[kAloneThreads];
  int32_t queries[kAloneThreads];  ///< of the detections in their order
  int32_t slots[kAloneThreads];    ///< of the detections that are the first of their query
  int32_t mask_query[kAloneThreads];
  ColumnRule rules[kAloneClasses];
  ScanScratch scan;
  uint32_t found_here;
  int32_t detections, masks;
};

/// Descending score, then ascending flat index, as one integer in descending order. Never 0.
RFSEG_DEVICE uint64_t pair_key(float logit, uint32_t flat) {
  return uint64_t{float_bits(sigmoid(logit))} << 32 | (0xffffffffu - flat);
}

struct AloneCall {
  CallParams params;
  PictureRecord counts;
  bool fits = true;  ///< else nothing was selected
};

/// Before this, all blocks of the cluster have announced themselves (cluster_arrive). All threads
/// call `early` while the logits come, and `late`, after a barrier, while the cluster waits. Ends
/// with a barrier: the lists in `s` are there.
template <class Early, class Late>
RFSEG_DEVICE AloneCall select_alone(const KernelArguments& a, AloneShared& s, Early&& early,
                                    Late&& late) {
  constexpr uint32_t kVector = 4, kBatch = 2;
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  const int rank = cluster_rank(), size = cluster_size();
  const uint32_t classes = static_cast<uint32_t>(a.classes);
  const uint32_t pairs = static_cast<uint32_t>(a.queries) * classes;
  // Neighbouring logits to different blocks: likely queries stand side by side.
  const uint32_t step = static_cast<uint32_t>(kAloneThreads * size) * kVector;
  const uint32_t begin = static_cast<uint32_t>(thread * size + rank) * kVector;
  const auto load = [&](uint32_t from, float(&values)[kVector]) {
    struct alignas(16) Quad {
      float v[kVector];
    };
    const bool whole = from + kVector <= pairs && a.logits_type == Number::kFloat32 &&
                       (reinterpret_cast<uintptr_t>(a.logits) & 15) == 0;
    if (whole) {
      const Quad quad = *reinterpret_cast<const Quad*>(static_cast<const float*>(a.logits) + from);
      RFSEG_UNROLL
      for (uint32_t k = 0; k < kVector; ++k) values[k] = quad.v[k];
    } else {
      RFSEG_UNROLL
      for (uint32_t k = 0; k < kVector; ++k) {
        values[k] = from + k < pairs ? read_number(a.logits, a.logits_type, from + k)
                                     : float_of_bits(0x7fc00000u);
      }
    }
  };
  float values[kBatch][kVector];
  RFSEG_UNROLL
  for (uint32_t b = 0; b < kBatch; ++b) load(begin + b * step, values[b]);
  AloneCall call;
  call.params = *a.call;
  for (int c = thread; c < a.classes && c < kAloneClasses; c += kAloneThreads) {
    s.rules[c] = a.rules[c];
  }
  if (thread == 0) s.found_here = 0;
  early();
  block_sync();
  if (size > 1) cluster_wait();  // the others have begun, so their shared memory is theirs
  for (uint32_t from = begin; from < pairs;) {
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) {
      RFSEG_UNROLL
      for (uint32_t k = 0; k < kVector; ++k) {
        if (!(values[b][k] >= call.params.cut)) continue;  // without a logit that could pass: NaN
        const uint32_t at = atomic_add(&s.found_here, 1u);
        if (at >= kAloneRoom) continue;
        const uint64_t key = pair_key(values[b][k], from + b * step + k);
        for (int r = 0; r < size; ++r) *cluster_peer(&s.found[rank][at], r) = key;
      }
    }
    from += kBatch * step;
    if (from >= pairs) break;
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) load(from + b * step, values[b]);
  }
  block_sync();
  if (thread < size) *cluster_peer(&s.counts[rank], thread) = s.found_here;
  if (size > 1) cluster_arrive();
  late();
  if (size > 1) {
    cluster_wait();
  } else {
    block_sync();
  }

  // From here every block does the same.
  uint32_t n = 0, below = 0, mine = 0;
  for (int r = 0; r < size; ++r) {
    const uint32_t count = s.counts[r];
    call.fits = call.fits && count <= kAloneRoom;
    if (r == warp) {
      below = n;
      mine = count;
    }
    n += count;
  }
  if (!call.fits) return call;
  if (static_cast<uint32_t>(lane) < mine) s.keys[below + lane] = s.found[warp][lane];
  block_sync();
  const uint32_t i = static_cast<uint32_t>(thread);
  if (i < n) {
    const uint64_t key = s.keys[i];
    uint32_t larger = 0;
    RFSEG_UNROLL_BY(8)
    for (uint32_t j = 0; j < n; ++j) larger += s.keys[j] > key ? 1u : 0u;
    s.ordered[larger] = key;
  }
  block_sync();
  const uint32_t wanted = static_cast<uint32_t>(call.params.num_select);
  const uint32_t limit = static_cast<uint32_t>(call.params.max_detections);
  bool passes = false;
  uint64_t key = 0;
  uint32_t query = 0;
  if (i < n && i < wanted) {
    key = s.ordered[i];
    const uint32_t flat = 0xffffffffu - static_cast<uint32_t>(key);
    query = flat / classes;
    const uint32_t column = flat - query * classes;
    const ColumnRule rule = column < kAloneClasses ? s.rules[column] : a.rules[column];
    passes = rule.class_id >= 0 && float_of_bits(static_cast<uint32_t>(key >> 32)) > rule.threshold;
  }
  BlockScan<kAloneThreads> scan(s.scan);
  uint32_t total;
  const uint32_t position = scan(passes ? 1u : 0u, &total);
  if (passes && position < limit) {
    s.keys[position] = key;
    s.queries[position] = static_cast<int32_t>(query);
  }
  total = total < limit ? total : limit;
  block_sync();
  // One mask for each query, in the order of first appearance.
  bool leads = i < total;
  if (leads) {
    const int32_t its_query = s.queries[i];
    RFSEG_UNROLL_BY(8)
    for (uint32_t j = 0; j < i; ++j) leads = leads && s.queries[j] != its_query;
  }
  uint32_t masks;
  const uint32_t slot = scan(leads ? 1u : 0u, &masks);
  if (i < total) s.slots[i] = leads ? static_cast<int32_t>(slot) : -1;
  if (leads) s.mask_query[slot] = s.queries[i];
  call.counts.detections = static_cast<int32_t>(total);
  call.counts.masks = static_cast<int32_t>(masks);
  block_sync();
  return call;
}

/// The detections of select_alone, by all threads of one block.
RFSEG_DEVICE void hand_over_alone(const KernelArguments& a, const AloneShared& s,
                                  const AloneCall& call, const PictureParams& picture) {
  const int i = thread_index();
  if (i < call.counts.detections) {
    const uint64_t key = s.keys[i];
    const uint32_t flat = 0xffffffffu - static_cast<uint32_t>(key);
    DetectionRecord record;
    record.query = s.queries[i];
    const int column = static_cast<int>(flat) - record.query * a.classes;
    record.class_id = column < kAloneClasses ? s.rules[column].class_id : a.rules[column].class_id;
    record.score = float_of_bits(static_cast<uint32_t>(key >> 32));
    float box[4];
    for (int k = 0; k < 4; ++k) {
      box[k] = read_number(a.boxes, a.boxes_type, int64_t{record.query} * 4 + k);
    }
    place_box(box, picture.box_x, picture.box_y, call.params.inference != 0, record.box);
    int first = i;
    while (s.slots[first] < 0 || s.queries[first] != record.query) --first;
    record.mask = s.slots[first];
    a.detections[i] = record;
  }
  if (i == 0) a.picture_records[0] = call.counts;
}

}  // namespace rfseg::cuda
