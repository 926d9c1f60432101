#include "engine/cuda/small/small_kernels.h"

#include <cmath>

#include "engine/cuda/small/boxes.h"
#include "engine/cuda/small/small_kernels_device.h"

// Two-stage selection and the decoder between its products.

namespace rfseg::cuda {
namespace {

// ---- class_max: a warp a row.

constexpr int kRowThreads = 128;

RFSEG_DEVICE bool is_nan(float v) { return v != v; }

RFSEG_DEVICE void class_max_body(const ClassMaxArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int row = block_x() * (kRowThreads / kWarp) + thread_index() / kWarp;
  if (row >= a.rows) return;
  const int lane = thread_index() % kWarp;
  const float* logits = a.logits + int64_t{row} * a.classes;
  float best = -INFINITY;
  for (int c = lane; c < a.classes; c += kWarp) {
    const float v = logits[c];
    if (is_nan(v) || v > best) best = v;
    if (is_nan(best)) break;
  }
  RFSEG_UNROLL
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const float other = warp_read(best, lane ^ d);
    if (is_nan(other) || other > best) best = other;
  }
  if (lane == 0) a.scores[row] = best;
}

// ---- select_cells: a cell's rank is the number of cells that come before it. n^2 comparisons need
// no sort, no barrier between rounds, and always give the same order. Each warp of a block counts
// for the same 32 cells over its share of the keys, four at a time.

constexpr int kSelectWarps = 16;
constexpr int kSelectThreads = kSelectWarps * kWarp;
constexpr int kSelectChunk = 4096;  // keys, a multiple of 4 * kSelectWarps
constexpr int kSelectLoads = 4;

struct alignas(16) FourKeys {
  uint32_t key[4];
};

/// Ascending unsigned order of the float order; NaN above everything, -0 equal to 0.
RFSEG_DEVICE uint32_t order_key(float score) {
  if (is_nan(score)) return 0xffffffffu;
  const uint32_t bits = float_bits(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

RFSEG_DEVICE void select_body(const SelectArguments& a, void* shared) {
  FourKeys* keys = static_cast<FourKeys*>(shared);
  int* counts = reinterpret_cast<int*>(keys + kSelectChunk / 4);  // [warps][32]
  await_previous_kernel();
  release_next_kernel();
  const int picture = block_y();
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  const int cell = block_x() * kWarp + lane;
  int32_t* chosen = a.chosen + int64_t{picture} * a.queries;
  int32_t* rows = a.rows + int64_t{picture} * a.queries;
  // Ranks that no cell takes, and all of them where the order is forced.
  for (int rank = block_x() * kSelectThreads + thread_index(); rank < a.queries;
       rank += grid_x() * kSelectThreads) {
    if (rank >= a.n) {
      chosen[rank] = -1;
      rows[rank] = picture * a.n;
    } else if (a.forced != nullptr) {
      chosen[rank] = a.forced[int64_t{picture} * a.queries + rank];
      rows[rank] = picture * a.n + chosen[rank];
    }
  }
  if (a.forced != nullptr) return;
  const float* scores = a.scores + int64_t{picture} * a.n;
  const uint32_t own = cell < a.n ? order_key(scores[cell]) : 0;
  int rank = 0;
  for (int first = 0; first < a.n; first += kSelectChunk) {
    block_sync();
    const int count = a.n - first < kSelectChunk ? a.n - first : kSelectChunk;
    const int fours = (count + 3) / 4;
    for (int from = thread_index(); from < 4 * fours; from += kSelectLoads * kSelectThreads) {
      float some[kSelectLoads];  // all on their way at once
      RFSEG_UNROLL
      for (int j = 0; j < kSelectLoads; ++j) {
        const int i = from + j * kSelectThreads;
        if (i < count) some[j] = scores[first + i];
      }
      RFSEG_UNROLL
      for (int j = 0; j < kSelectLoads; ++j) {
        const int i = from + j * kSelectThreads;
        // Key 0 is that of no score: it never comes before a cell.
        if (i < 4 * fours) keys[i / 4].key[i % 4] = i < count ? order_key(some[j]) : 0;
      }
    }
    block_sync();
    const int share = (fours + kSelectWarps - 1) / kSelectWarps;
    const int end = (warp + 1) * share < fours ? (warp + 1) * share : fours;
    for (int f = warp * share; f < end; ++f) {
      const FourKeys four = keys[f];
      RFSEG_UNROLL
      for (int j = 0; j < 4; ++j) {
        const bool before = four.key[j] > own || (four.key[j] == own && first + 4 * f + j < cell);
        rank += before ? 1 : 0;
      }
    }
  }
  counts[warp * kWarp + lane] = rank;
  block_sync();
  if (warp > 0) return;
  for (int w = 1; w < kSelectWarps; ++w) rank += counts[w * kWarp + lane];
  if (cell < a.n && rank < a.queries) {
    chosen[rank] = cell;
    rows[rank] = picture * a.n + cell;
  }
}

// ---- make_references, refine_boxes: a block a query, a thread a box.

constexpr int kReferenceThreads = 128;

template <class T>
RFSEG_DEVICE void reference_body(const ReferenceArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int row = block_x();
  const int cell = a.chosen[row];
  const Box box =
      reference_of(box_at(a.learned + int64_t{row % a.queries} * 4), a.delta + int64_t{row} * 4,
                   cell < 0, box_at(a.proposals + int64_t{cell < 0 ? 0 : cell} * 4));
  if (thread_index() < 4) a.references[int64_t{row} * 4 + thread_index()] = box.v[thread_index()];
  const int pairs = a.dim / 4;
  T* out = static_cast<T*>(a.sine) + int64_t{row} * 2 * a.dim;
  for (int i = thread_index(); i < 4 * pairs; i += kReferenceThreads) {
    const int block = i / pairs, k = i % pairs;
    const float angle = angle_of(embedded(box, block), period_of(k, a.dim));
    out[block * 2 * pairs + 2 * k] = from_float<T>(sinf(angle));
    out[block * 2 * pairs + 2 * k + 1] = from_float<T>(cosf(angle));
  }
}

RFSEG_DEVICE void refine_body(const RefineArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int64_t i = global_thread(kReferenceThreads);
  if (i >= a.count) return;
  const Box box = refine(a.delta + i * 4, box_at(a.references + i * 4));
  RFSEG_UNROLL
  for (int c = 0; c < 4; ++c) a.boxes[i * 4 + c] = box.v[c];
}

// ---- start_queries

template <class T>
RFSEG_DEVICE void start_body(const StartQueriesArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int64_t at = global_thread(kRowThreads) * 8;
  const int64_t picture = int64_t{a.queries} * a.dim;
  if (at >= a.batch * picture) return;
  float x[8], position[8];
  read8(a.learned + at % picture, x);
  read8(a.position + at, position);
  write8(a.x + at, x);
  write8(static_cast<T*>(a.x_element) + at, x);
  RFSEG_UNROLL
  for (int j = 0; j < 8; ++j) x[j] += position[j];
  write8(static_cast<T*>(a.x_position) + at, x);
}

// ---- sample_values: four neighbouring lanes have 8 of the 16 channels of a head, each one corner
// of every sample; so all that a lane reads is on its way at once.

constexpr int kSampleThreads = 128;
constexpr int kHeadChannels = 16, kCorners = 4;

template <class T>
RFSEG_DEVICE void sample_body(const SampleArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int64_t thread = global_thread(kSampleThreads), count = int64_t{a.batch} * a.queries;
  const int corner = static_cast<int>(thread % kCorners);
  const int64_t item = thread / kCorners;
  const int part = static_cast<int>(item % 2), head = static_cast<int>(item / 2 % a.heads);
  const bool active = item / (2 * a.heads) < count;
  const int64_t row = active ? item / (2 * a.heads) : 0;
  const int samples = a.levels * a.points;
  const float* sampling = a.sampling + row * 3 * a.heads * samples;
  const float* offsets = sampling + head * samples * 2;
  const float* weights = sampling + (2 * a.heads + head) * samples;
  float largest = -INFINITY;
  for (int s = 0; s < samples; ++s) largest = fmaxf(largest, weights[s]);
  float total = 0;
  for (int s = 0; s < samples; ++s) total += expf(weights[s] - largest);
  const Box box = box_at(a.references + row * 4);
  const float reach = 0.5f / static_cast<float>(a.points);

  float sum[8] = {};
  const T* values = static_cast<const T*>(a.values) + row / a.queries * a.n * a.ldv +
                    head * kHeadChannels + part * 8;
  int sample = 0;
  for (int level = 0; level < a.levels; ++level) {
    const int rows = a.level_rows[level], cols = a.level_cols[level];
    RFSEG_UNROLL_BY(2)
    for (int point = 0; point < a.points; ++point, ++sample) {
      const float weight = expf(weights[sample] - largest) / total;
      const float px =
          (box.v[0] + offsets[2 * sample] * box.v[2] * reach) * static_cast<float>(cols) - 0.5f;
      const float py =
          (box.v[1] + offsets[2 * sample + 1] * box.v[3] * reach) * static_cast<float>(rows) - 0.5f;
      const float x = floorf(px) + static_cast<float>(corner % 2);
      const float y = floorf(py) + static_cast<float>(corner / 2);
      // Compared as floats: positions are unbounded and may not fit an integer.
      const bool inside =
          x >= 0 && x < static_cast<float>(cols) && y >= 0 && y < static_cast<float>(rows);
      const float share = inside ? (1 - fabsf(px - x)) * (1 - fabsf(py - y)) * weight : 0.0f;
      const int64_t at = inside ? static_cast<int64_t>(y) * cols + static_cast<int64_t>(x) : 0;
      float v[8];
      read8(values + at * a.ldv, v);
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) sum[j] += v[j] * share;
    }
    values += int64_t{rows} * cols * a.ldv;
  }
  const int lane = thread_index() % kWarp;
  RFSEG_UNROLL
  for (int d = 1; d < kCorners; d *= 2) {
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) sum[j] += warp_read(sum[j], lane ^ d);
  }
  if (!active || corner != 0) return;
  write8(static_cast<T*>(a.out) + (row * a.heads + head) * kHeadChannels + part * 8, sum);
}

}  // namespace

void class_max(const Queue& queue, const ClassMaxArguments& a) {
  launch<class_max_body, kRowThreads>(queue, {blocks_for(a.rows, kRowThreads / kWarp)}, 0, a);
}

void select_cells(const Queue& queue, const SelectArguments& a) {
  launch<select_body, kSelectThreads>(
      queue, {blocks_for(a.n, kWarp), a.batch},
      sizeof(uint32_t) * kSelectChunk + sizeof(int) * kSelectThreads, a);
}

void make_references(const Queue& queue, Math math, const ReferenceArguments& a) {
  with_element(math, [&]<class T>(T) {
    launch<reference_body<T>, kReferenceThreads>(queue, {a.batch * a.queries}, 0, a);
  });
}

void refine_boxes(const Queue& queue, const RefineArguments& a) {
  launch<refine_body, kReferenceThreads>(queue, {blocks_for(a.count, kReferenceThreads)}, 0, a);
}

void start_queries(const Queue& queue, Math math, const StartQueriesArguments& a) {
  const int64_t items = int64_t{a.batch} * a.queries * a.dim / 8;
  with_element(math, [&]<class T>(T) {
    launch<start_body<T>, kRowThreads>(queue, {blocks_for(items, kRowThreads)}, 0, a);
  });
}

void sample_values(const Queue& queue, Math math, const SampleArguments& a) {
  const int64_t items = int64_t{a.batch} * a.queries * a.heads * 2 * kCorners;
  with_element(math, [&]<class T>(T) {
    launch<sample_body<T>, kSampleThreads>(queue, {blocks_for(items, kSampleThreads)}, 0, a);
  });
}

}  // namespace rfseg::cuda
