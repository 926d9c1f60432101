#pragma once

// Selection without a kernel of its own, for one picture with few candidates. Every cluster of the
// mask kernel selects for itself, its blocks reading equal parts of the logits and telling each
// other what they found; for masks of pixels every block does, reading all of them. The same answer
// as select_kernel.h. What is too much for the room here is told by the header, and the call runs
// again with that kernel.

#include "postprocess/cuda/hand_over.h"
#include "postprocess/cuda/inputs.h"
#include "postprocess/cuda/records.h"
#include "postprocess/sigmoid.h"

namespace rfseg::cuda {

constexpr int kAloneThreads = 256;
constexpr int kAloneRoom = kWarp;   ///< candidates that one block may find
constexpr int kAloneClasses = 256;  ///< rules kept in shared memory
static_assert(kAloneThreads == kMaskThreads && kAloneThreads <= kDenseThreads);
static_assert(kMaxBlocksPerMask * kAloneRoom == kAloneThreads);

struct AloneShared {
  uint64_t found[kMaxBlocksPerMask][kAloneRoom];  ///< by each block of the cluster
  uint32_t counts[kMaxBlocksPerMask];
  uint64_t candidates[kAloneThreads];  ///< keys of all of them, in any order
  int32_t
      candidate_query[kAloneThreads];  ///< their queries, negative where the rules leave them out
  uint64_t keys[kAloneThreads];        ///< of the detections in their order
  int32_t queries[kAloneThreads];      ///< likewise
  int32_t leads[kAloneThreads];        ///< whether one is the first of its query
  int32_t slots[kAloneThreads];        ///< the masks of those, else -1
  int32_t mask_query[kAloneThreads];
  ColumnRule rules[kAloneClasses];
  uint32_t found_here, detections, masks;  ///< masks: where nothing else has room for it
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

/// Four logits from `from` on; NaN beyond the last.
struct LogitQuads {
  const void* data;
  Number type;
  uint32_t pairs;
  bool whole;

  RFSEG_DEVICE LogitQuads(const KernelArguments& a, uint32_t count)
      : data(a.logits),
        type(a.logits_type),
        pairs(count),
        whole(type == Number::kFloat32 && (reinterpret_cast<uintptr_t>(data) & 15) == 0) {}
  RFSEG_DEVICE float at(uint32_t i) const { return read_number(data, type, i); }
  RFSEG_DEVICE void load(uint32_t from, float (&values)[4]) const {
    struct alignas(16) Quad {
      float v[4];
    };
    if (whole && from + 4 <= pairs) {
      const Quad quad = *reinterpret_cast<const Quad*>(static_cast<const float*>(data) + from);
      RFSEG_UNROLL
      for (uint32_t k = 0; k < 4; ++k) values[k] = quad.v[k];
    } else {
      RFSEG_UNROLL
      for (uint32_t k = 0; k < 4; ++k) {
        values[k] =
            from + k < pairs ? read_number(data, type, from + k) : float_of_bits(0x7fc00000u);
      }
    }
  }
};

/// A bit for each logit that may pass; where none could, the cut is NaN.
RFSEG_DEVICE uint32_t reaching(const float (&values)[4], float cut) {
  uint32_t bits = 0;
  RFSEG_UNROLL
  for (uint32_t k = 0; k < 4; ++k) bits |= values[k] >= cut ? 1u << k : 0u;
  return bits;
}

/// What has to be in place, a barrier later, before candidates are noted. All of `threads` threads.
template <int threads>
RFSEG_DEVICE void begin_selection(const KernelArguments& a, AloneShared& s) {
  const int thread = thread_index();
  for (int c = thread; c < a.classes && c < kAloneClasses; c += threads) s.rules[c] = a.rules[c];
  if (thread < kAloneThreads) s.leads[thread] = 0;
  if (thread == 0) s.found_here = s.detections = 0;
}

RFSEG_DEVICE void note_candidate(const KernelArguments& a, AloneShared& s, uint32_t at,
                                 uint64_t key) {
  const uint32_t flat = 0xffffffffu - static_cast<uint32_t>(key);
  const uint32_t classes = static_cast<uint32_t>(a.classes);
  const int32_t query = static_cast<int32_t>(flat / classes);
  const uint32_t column = flat - static_cast<uint32_t>(query) * classes;
  const ColumnRule rule = column < kAloneClasses ? s.rules[column] : a.rules[column];
  const float score = float_of_bits(static_cast<uint32_t>(key >> 32));
  s.candidates[at] = key;
  s.candidate_query[at] = rule.class_id >= 0 && score > rule.threshold ? query : ~query;
}

/// The detections among n candidates, and their masks' queries: a warp a candidate counts those
/// before it. All of `threads` threads; begins after a barrier and ends with one.
template <int threads>
RFSEG_DEVICE PictureRecord order_candidates(AloneShared& s, uint32_t n, const CallParams& call,
                                            int32_t* mask_query, uint32_t* masks) {
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  const uint32_t lane = thread % kWarp, warp = thread / kWarp;
  RFSEG_UNROLL_BY(1)
  for (uint32_t i = warp; i < n; i += threads / kWarp) {
    const uint64_t key = s.candidates[i];
    const int32_t query = s.candidate_query[i];
    int rank = 0, position = 0;
    uint32_t same = 0;
    RFSEG_UNROLL_BY(1)
    for (uint32_t base = 0; base < n; base += kWarp) {
      const uint32_t j = base + lane;
      const bool above = j < n && s.candidates[j] > key;
      const int32_t other = j < n ? s.candidate_query[j] : -1;
      rank += count_bits(warp_ballot(above));
      position += count_bits(warp_ballot(above && other >= 0));
      same |= warp_ballot(above && other == query);
    }
    if (lane == 0 && query >= 0 && rank < call.num_select && position < call.max_detections) {
      s.keys[position] = key;
      s.queries[position] = query;
      s.leads[position] = same == 0 ? 1 : 0;
      atomic_add(&s.detections, 1u);
    }
  }
  if (thread == 0) *masks = 0;
  block_sync();
  // One mask for each query, in the order of first appearance.
  const uint32_t total = s.detections, chunks = (total + kWarp - 1) / kWarp;
  if (warp < chunks) {
    int slot = 0;
    RFSEG_UNROLL_BY(1)
    for (uint32_t c = 0; c < warp; ++c) {
      slot += count_bits(warp_ballot(s.leads[c * kWarp + lane] != 0));
    }
    const bool leads = s.leads[thread] != 0;
    const uint32_t leaders = warp_ballot(leads);
    if (lane == 0 && warp == chunks - 1) {
      *masks = static_cast<uint32_t>(slot + count_bits(leaders));
    }
    slot += count_bits(leaders & ((1u << lane) - 1u));
    if (leads) mask_query[slot] = s.queries[thread];
    s.slots[thread] = leads ? slot : -1;
  }
  block_sync();
  PictureRecord counts;
  counts.detections = static_cast<int32_t>(total);
  counts.masks = static_cast<int32_t>(*masks);
  return counts;
}

/// By one block of `threads` threads that reads all logits. Begins with nothing in `s`, ends with a
/// barrier: the lists in `s` and `mask_query` are there.
template <int threads, class Early>
RFSEG_DEVICE AloneCall select_in_block(const KernelArguments& a, AloneShared& s,
                                       int32_t* mask_query, uint32_t* masks, Early&& early) {
  constexpr uint32_t kVector = 4, kBatch = 3;
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  const uint32_t pairs = static_cast<uint32_t>(a.queries) * static_cast<uint32_t>(a.classes);
  constexpr uint32_t kStep = threads * kVector;
  const LogitQuads logits(a, pairs);
  float values[kBatch][kVector];
  RFSEG_UNROLL
  for (uint32_t b = 0; b < kBatch; ++b) logits.load(thread * kVector + b * kStep, values[b]);
  AloneCall call;
  call.params = *a.call;
  begin_selection<threads>(a, s);
  early();
  block_sync();
  for (uint32_t from = thread * kVector; from < pairs;) {
    uint32_t found = 0;
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) {
      found |= reaching(values[b], call.params.cut) << (b * kVector);
    }
    RFSEG_UNROLL_BY(1)
    for (; found != 0; found &= found - 1) {
      const uint32_t k = static_cast<uint32_t>(lowest_bit(found));
      const uint32_t flat = from + k / kVector * kStep + k % kVector;
      const uint32_t at = atomic_add(&s.found_here, 1u);
      if (at < kAloneThreads) note_candidate(a, s, at, pair_key(logits.at(flat), flat));
    }
    from += kBatch * kStep;
    if (from >= pairs) break;
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) logits.load(from + b * kStep, values[b]);
  }
  block_sync();
  const uint32_t n = s.found_here;
  call.fits = n <= kAloneThreads;
  if (call.fits) call.counts = order_candidates<threads>(s, n, call.params, mask_query, masks);
  return call;
}

/// Before this, all blocks of the cluster have announced themselves (cluster_arrive). All threads
/// call `early` while the logits come, and `late`, after a barrier, while the cluster waits. Ends
/// with a barrier: the lists in `s` are there.
template <class Early, class Late>
RFSEG_DEVICE AloneCall select_alone(const KernelArguments& a, AloneShared& s, Early&& early,
                                    Late&& late) {
  constexpr uint32_t kVector = 4, kBatch = 2;
  const int thread = thread_index(), lane = thread % kWarp, warp = thread / kWarp;
  const int rank = cluster_rank(), size = cluster_size();
  const uint32_t pairs = static_cast<uint32_t>(a.queries) * static_cast<uint32_t>(a.classes);
  // Neighbouring logits to different blocks: likely queries stand side by side.
  const uint32_t step = static_cast<uint32_t>(kAloneThreads * size) * kVector;
  const uint32_t begin = static_cast<uint32_t>(thread * size + rank) * kVector;
  const LogitQuads logits(a, pairs);
  float values[kBatch][kVector];
  RFSEG_UNROLL
  for (uint32_t b = 0; b < kBatch; ++b) logits.load(begin + b * step, values[b]);
  AloneCall call;
  call.params = *a.call;
  begin_selection<kAloneThreads>(a, s);
  early();
  block_sync();
  if (size > 1) cluster_wait();  // the others have begun, so their shared memory is theirs
  for (uint32_t from = begin; from < pairs;) {
    uint32_t found = 0;
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) {
      found |= reaching(values[b], call.params.cut) << (b * kVector);
    }
    RFSEG_UNROLL_BY(1)
    for (; found != 0; found &= found - 1) {
      const uint32_t k = static_cast<uint32_t>(lowest_bit(found));
      const uint32_t flat = from + k / kVector * step + k % kVector;
      const uint32_t at = atomic_add(&s.found_here, 1u);
      if (at >= kAloneRoom) continue;
      const uint64_t key = pair_key(logits.at(flat), flat);
      for (int r = 0; r < size; ++r) *cluster_peer(&s.found[rank][at], r) = key;
    }
    from += kBatch * step;
    if (from >= pairs) break;
    RFSEG_UNROLL
    for (uint32_t b = 0; b < kBatch; ++b) logits.load(from + b * step, values[b]);
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
  if (static_cast<uint32_t>(lane) < mine) note_candidate(a, s, below + lane, s.found[warp][lane]);
  block_sync();
  call.counts = order_candidates<kAloneThreads>(s, n, call.params, s.mask_query, &s.masks);
  return call;
}

/// The detections of such a selection, by kAloneThreads threads or more of one block.
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
