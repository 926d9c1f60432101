#include "engine/cuda/small_kernels.h"

#include <algorithm>
#include <cmath>

#include "core/cuda/launch.h"
#include "engine/cuda/elements.h"
#include "rfseg/error.h"

// One body a step. A warp owns a row where a row is normalised; elsewhere a thread owns 8 channels.
// Blocks are small, because at batch 1 there are few rows and every multiprocessor should have
// some.

namespace rfseg::cuda {
namespace {

int blocks_for(int64_t items, int per_block) {
  return static_cast<int>((items + per_block - 1) / per_block);
}

/// Calls f with a value of the Element type of `math`.
template <class F>
void with_element(Math math, F&& f) {
  if (math == Math::kFp16) {
    f(__half{});
  } else {
    f(float{});
  }
}

RFSEG_DEVICE int64_t global_thread(int threads) {
  return int64_t{block_x()} * threads + thread_index();
}

// ---- embed: thread = 8 columns of a patch, or 8 channels of a token's start.

constexpr int kEmbedThreads = 256;

template <class T>
RFSEG_DEVICE void embed_body(const EmbedArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int cells = a.layout.cells(), tokens = a.layout.tokens();
  const int patch_groups = a.ld / 8, token_groups = a.width / 8;
  const int64_t patch_items = int64_t{a.batch} * cells * patch_groups;
  const int64_t items = patch_items + int64_t{a.batch} * tokens * token_groups;
  const int64_t item = global_thread(kEmbedThreads);
  if (item >= items) return;
  float v[8];
  if (item >= patch_items) {
    const int64_t at = (item - patch_items) * 8;
    read8(a.start + at % (int64_t{tokens} * a.width), v);
    write8(a.x + at, v);
    return;
  }
  const int group = static_cast<int>(item % patch_groups);
  const int64_t row = item / patch_groups;
  const int cell = static_cast<int>(row % cells);
  const int picture = static_cast<int>(row / cells);
  // Rows are in token order: window, then cell inside of it.
  const int in_window = a.layout.window_rows * a.layout.window_cols;
  const int window = cell / in_window, inside = cell % in_window;
  const int grid_y =
      window / a.layout.windows * a.layout.window_rows + inside / a.layout.window_cols;
  const int grid_x =
      window % a.layout.windows * a.layout.window_cols + inside % a.layout.window_cols;
  const int width = a.layout.grid_cols() * a.patch;
  const int height = a.layout.windows * a.layout.window_rows * a.patch;
  const float* corner =
      a.pictures + (int64_t{picture} * 3 * height + grid_y * a.patch) * width + grid_x * a.patch;
  RFSEG_UNROLL
  for (int j = 0; j < 8; ++j) {
    const int k = group * 8 + j;
    const int channel = k / (a.patch * a.patch), pixel = k % (a.patch * a.patch);
    v[j] = channel < 3
               ? corner[(int64_t{channel} * height + pixel / a.patch) * width + pixel % a.patch]
               : 0.0f;
  }
  write8(static_cast<T*>(a.patches) + row * a.ld + group * 8, v);
}

// ---- norm_rows: a warp a row.

constexpr int kNormThreads = 128;
constexpr int kNormRows = kNormThreads / kWarp;

template <int kVectors>
RFSEG_DEVICE void affine_norm(float (&v)[kVectors][8], int channels, float eps, const float* gamma,
                              const float* beta) {
  const WarpNorm<kVectors> norm(v, channels, eps);
  RFSEG_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int channel = 8 * (thread_index() % kWarp + kWarp * i);
    if (channel >= channels) continue;
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) v[i][j] = (v[i][j] - norm.mean) * norm.inverse;
    if (gamma == nullptr) continue;
    float g[8], b[8];
    read8(gamma + channel, g);
    read8(beta + channel, b);
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) v[i][j] = v[i][j] * g[j] + b[j];
  }
}

template <class T, int kVectors>
RFSEG_DEVICE void store_row(const float (&v)[kVectors][8], int channels, T* out) {
  RFSEG_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int channel = 8 * (thread_index() % kWarp + kWarp * i);
    if (channel < channels) write8(out + channel, v[i]);
  }
}

template <class T, int kVectors>
RFSEG_DEVICE void norm_body(const NormArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int row = block_x() * kNormRows + thread_index() / kWarp;
  if (row >= a.m) return;
  const int lane = thread_index() % kWarp;
  int64_t from = row;
  if (a.cells.windows > 0) {
    const int cells = a.cells.cells();
    from = int64_t{row / cells} * a.cells.tokens() + a.cells.token_of(row % cells);
  }
  float v[kVectors][8];
  RFSEG_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int channel = 8 * (lane + kWarp * i);
    if (channel < a.n) read8(a.x + from * a.ldx + channel, v[i]);
  }
  affine_norm(v, a.n, a.eps, a.gamma, a.beta);
  const int64_t to =
      row + (a.out_group > 0 ? int64_t{row / a.out_group} * a.out_skip : 0) + a.out_first;
  store_row(v, a.n, static_cast<T*>(a.out) + to * a.ldo);
  if (a.then_out == nullptr) return;
  affine_norm(v, a.n, a.then_eps, a.then_gamma, a.then_beta);
  store_row(v, a.n, static_cast<T*>(a.then_out) + int64_t{row} * a.n);
}

// ---- mask_rows, class_max

constexpr int kRowThreads = 128;

template <class T>
RFSEG_DEVICE void mask_rows_body(const MaskRowsArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int groups = a.width / 8;
  const int64_t item = global_thread(kRowThreads);
  if (item >= int64_t{a.batch} * a.n * groups) return;
  Eight<T> e = load8(static_cast<const T*>(a.x) + item * 8);
  if (a.valid[item / groups % a.n] == 0) e = Eight<T>{};
  store8(static_cast<T*>(a.out) + item * 8, e);
}

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

constexpr int kSelectWarps = 8;
constexpr int kSelectThreads = kSelectWarps * kWarp;
constexpr int kSelectChunk = 4096;  // keys, a multiple of 4 * kSelectWarps

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
    for (int i = thread_index(); i < 4 * fours; i += kSelectThreads) {
      // Key 0 is that of no score: it never comes before a cell.
      keys[i / 4].key[i % 4] = i < count ? order_key(scores[first + i]) : 0;
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

struct Box {
  float v[4];
};

RFSEG_DEVICE Box refine(const float* delta, const Box& base) {
  return {{delta[0] * base.v[2] + base.v[0], delta[1] * base.v[3] + base.v[1],
           expf(delta[2]) * base.v[2], expf(delta[3]) * base.v[3]}};
}
RFSEG_DEVICE Box box_at(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }

template <class T>
RFSEG_DEVICE void reference_body(const ReferenceArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int row = block_x();
  const int cell = a.chosen[row];
  Box box = box_at(a.learned + int64_t{row % a.queries} * 4);
  if (cell >= 0) {
    const Box first = refine(a.delta + int64_t{row} * 4, box_at(a.proposals + int64_t{cell} * 4));
    box = refine(box.v, first);
  }
  if (thread_index() < 4) a.references[int64_t{row} * 4 + thread_index()] = box.v[thread_index()];
  // Blocks of dim / 2 channels for cy, cx, w, h; each pair is a sine and a cosine.
  const int pairs = a.dim / 4;
  T* out = static_cast<T*>(a.sine) + int64_t{row} * 2 * a.dim;
  for (int i = thread_index(); i < 4 * pairs; i += kReferenceThreads) {
    const int block = i / pairs, k = i % pairs;
    const float u = box.v[block < 2 ? 1 - block : block];
    const float period = powf(10000.0f, static_cast<float>(2 * k) / static_cast<float>(a.dim / 2));
    const float angle = u * 2 * 3.14159265358979f / period;
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

// ---- sample_values: a thread has 8 of the 16 channels of a head.

constexpr int kSampleThreads = 128;
constexpr int kHeadChannels = 16;

template <class T>
RFSEG_DEVICE void sample_body(const SampleArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int64_t item = global_thread(kSampleThreads);
  if (item >= int64_t{a.batch} * a.queries * a.heads * 2) return;
  const int part = static_cast<int>(item % 2), head = static_cast<int>(item / 2 % a.heads);
  const int64_t row = item / (2 * a.heads);
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
    for (int point = 0; point < a.points; ++point, ++sample) {
      const float weight = expf(weights[sample] - largest) / total;
      const float px =
          (box.v[0] + offsets[2 * sample] * box.v[2] * reach) * static_cast<float>(cols) - 0.5f;
      const float py =
          (box.v[1] + offsets[2 * sample + 1] * box.v[3] * reach) * static_cast<float>(rows) - 0.5f;
      const float x0 = floorf(px), y0 = floorf(py);
      RFSEG_UNROLL
      for (int corner = 0; corner < 4; ++corner) {
        const float x = x0 + static_cast<float>(corner % 2),
                    y = y0 + static_cast<float>(corner / 2);
        // Compared as floats: positions are unbounded and may not fit an integer.
        if (!(x >= 0 && x < static_cast<float>(cols) && y >= 0 && y < static_cast<float>(rows))) {
          continue;
        }
        const float share = (1 - fabsf(px - x)) * (1 - fabsf(py - y)) * weight;
        float v[8];
        read8(values + (static_cast<int64_t>(y) * cols + static_cast<int64_t>(x)) * a.ldv, v);
        RFSEG_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] += v[j] * share;
      }
    }
    values += int64_t{rows} * cols * a.ldv;
  }
  write8(static_cast<T*>(a.out) + (row * a.heads + head) * kHeadChannels + part * 8, sum);
}

// ---- resize_map: a thread has 8 channels of a column of output cells.

constexpr int kMapThreads = 256;

struct Taps {
  int low, high;
  float share;  ///< of `high`
};
RFSEG_DEVICE Taps taps_of(int out, int out_size, int size) {
  const float scale = static_cast<float>(size) / static_cast<float>(out_size);
  float at = (static_cast<float>(out) + 0.5f) * scale - 0.5f;
  at = at < 0 ? 0 : at;
  Taps taps;
  taps.low = static_cast<int>(at);
  if (taps.low > size - 1) taps.low = size - 1;
  taps.high = taps.low + 1 < size ? taps.low + 1 : size - 1;
  taps.share = at - static_cast<float>(taps.low);
  return taps;
}

struct ResizeTask {
  ResizeArguments a;
  int strip;  ///< output rows of a thread
};

/// The horizontal blend of one row of the map at an output column.
template <class T>
RFSEG_DEVICE void blend_columns(const ResizeArguments& a, const T* map, int row, const Taps& taps,
                                float (&out)[8]) {
  float low[8], high[8];
  read8(map + (int64_t{row} * a.cols + taps.low) * a.channels, low);
  read8(map + (int64_t{row} * a.cols + taps.high) * a.channels, high);
  RFSEG_UNROLL
  for (int j = 0; j < 8; ++j) out[j] = low[j] * (1 - taps.share) + high[j] * taps.share;
}

template <class T>
RFSEG_DEVICE void resize_body(const ResizeTask& task, void*) {
  const ResizeArguments& a = task.a;
  await_previous_kernel();
  release_next_kernel();
  const int groups = a.channels / 8, strips = (a.out_rows + task.strip - 1) / task.strip;
  int64_t item = global_thread(kMapThreads);
  if (item >= int64_t{a.batch} * strips * a.out_cols * groups) return;
  const int group = static_cast<int>(item % groups);
  item /= groups;
  const int x = static_cast<int>(item % a.out_cols);
  item /= a.out_cols;
  const int begin = static_cast<int>(item % strips) * task.strip;
  const int64_t picture = item / strips;
  const int end = begin + task.strip < a.out_rows ? begin + task.strip : a.out_rows;
  const Taps tx = taps_of(x, a.out_cols, a.cols);
  const T* map = static_cast<const T*>(a.map) + picture * a.picture_rows * a.channels + group * 8;
  T* out =
      static_cast<T*>(a.out) + (picture * a.out_rows * a.out_cols + x) * a.channels + group * 8;
  // The rows blended last: consecutive output rows mostly read the same two.
  float low[8] = {}, high[8] = {};
  int low_row = -1, high_row = -1;
  for (int y = begin; y < end; ++y) {
    const Taps ty = taps_of(y, a.out_rows, a.rows);
    if (ty.low == high_row) {
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) low[j] = high[j];
    } else if (ty.low != low_row) {
      blend_columns(a, map, ty.low, tx, low);
    }
    low_row = ty.low;
    if (ty.high != high_row) blend_columns(a, map, ty.high, tx, high);
    high_row = ty.high;
    float v[8];
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) v[j] = low[j] * (1 - ty.share) + high[j] * ty.share;
    write8(out + int64_t{y} * a.out_cols * a.channels, v);
  }
}

// ---- depthwise_norm: a warp has all channels of kRun neighbouring columns and slides down some
// rows; lane l has the 8 channels from 8 * (l + 32 * i). Three rows of cells are held, so that each
// is fetched once a warp, and the next one is on its way while a row is summed. The sums of the
// kRun norms run side by side. Widths beyond 256 channels take their columns one vector after
// another and do not slide: the registers do not hold more.

constexpr int kDepthwiseThreads = 128;
constexpr int kRun = 4;

/// affine_norm of kRun rows at once.
template <int kVectors>
RFSEG_DEVICE void affine_norms(float (&v)[kRun][kVectors][8], int channels, float eps,
                               const float* gamma, const float* beta) {
  const int lane = thread_index() % kWarp;
  const float share = 1.0f / static_cast<float>(channels);
  float mean[kRun], inverse[kRun];
  const auto reduce = [&](float(&sums)[kRun]) {
    RFSEG_UNROLL
    for (int d = kWarp / 2; d > 0; d /= 2) {
      RFSEG_UNROLL
      for (int c = 0; c < kRun; ++c) sums[c] += warp_read(sums[c], lane ^ d);
    }
  };
  RFSEG_UNROLL
  for (int c = 0; c < kRun; ++c) {
    mean[c] = 0;
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if (8 * (lane + kWarp * i) >= channels) continue;
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) mean[c] += v[c][i][j];
    }
  }
  reduce(mean);
  RFSEG_UNROLL
  for (int c = 0; c < kRun; ++c) {
    mean[c] *= share;
    inverse[c] = 0;
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if (8 * (lane + kWarp * i) >= channels) continue;
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) inverse[c] += (v[c][i][j] - mean[c]) * (v[c][i][j] - mean[c]);
    }
  }
  reduce(inverse);
  RFSEG_UNROLL
  for (int c = 0; c < kRun; ++c) inverse[c] = 1.0f / sqrtf(inverse[c] * share + eps);
  RFSEG_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int channel = 8 * (lane + kWarp * i);
    if (channel >= channels) continue;
    float g[8], b[8];
    read8(gamma + channel, g);
    read8(beta + channel, b);
    RFSEG_UNROLL
    for (int c = 0; c < kRun; ++c) {
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) v[c][i][j] = (v[c][i][j] - mean[c]) * inverse[c] * g[j] + b[j];
    }
  }
}

struct DepthwiseTask {
  DepthwiseArguments a;
  int strip;  ///< rows of a warp
};

/// The cells of row `y` that columns [first, first + kRun) need, zeros outside of the map.
template <class T>
RFSEG_DEVICE void load_cells(const DepthwiseArguments& a, const T* picture, int y, int first,
                             int channel, Eight<T> (&cells)[kRun + 2]) {
  RFSEG_UNROLL
  for (int c = 0; c < kRun + 2; ++c) {
    const int x = first + c - 1;
    cells[c] = y >= 0 && y < a.rows && x >= 0 && x < a.cols
                   ? load8(picture + (int64_t{y} * a.cols + x) * a.channels + channel)
                   : Eight<T>{};
  }
}

/// Adds one row of cells, weighed by row `dy` of the window.
template <class T>
RFSEG_DEVICE void add_cells(const DepthwiseArguments& a, const Eight<T> (&cells)[kRun + 2], int dy,
                            int channel, float (&sums)[kRun][8]) {
  float weight[3][8];
  RFSEG_UNROLL
  for (int t = 0; t < 3; ++t) {
    read8(a.weight + int64_t{dy * 3 + t} * a.channels + channel, weight[t]);
  }
  RFSEG_UNROLL
  for (int c = 0; c < kRun + 2; ++c) {
    float v[8];
    unpack(cells[c], v);
    RFSEG_UNROLL
    for (int t = 0; t < 3; ++t) {  // it is tap t of column c - t
      if (c - t < 0 || c - t >= kRun) continue;
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) sums[c - t][j] += v[j] * weight[t][j];
    }
  }
}

template <class T, int kVectors>
RFSEG_DEVICE void depthwise_body(const DepthwiseTask& task, void*) {
  const DepthwiseArguments& a = task.a;
  const int lane = thread_index() % kWarp;
  const int runs = (a.cols + kRun - 1) / kRun, strips = (a.rows + task.strip - 1) / task.strip;
  const int64_t warp = int64_t{block_x()} * (kDepthwiseThreads / kWarp) + thread_index() / kWarp;
  await_previous_kernel();
  release_next_kernel();
  if (warp >= int64_t{a.batch} * strips * runs) return;
  const int first = static_cast<int>(warp % runs) * kRun;
  const int begin = static_cast<int>(warp / runs % strips) * task.strip;
  const int end = begin + task.strip < a.rows ? begin + task.strip : a.rows;
  const int64_t picture = warp / runs / strips * a.rows * a.cols * a.channels;
  const T* map = static_cast<const T*>(a.map) + picture;
  T* out = static_cast<T*>(a.out) + picture;

  Eight<T> above[kRun + 2], here[kRun + 2], below[kRun + 2];
  const bool slides = kVectors == 1 && 8 * lane < a.channels;
  if (slides) {
    load_cells(a, map, begin - 1, first, 8 * lane, above);
    load_cells(a, map, begin, first, 8 * lane, here);
  }
  for (int y = begin; y < end; ++y) {
    float sums[kRun][kVectors][8];
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const int channel = 8 * (lane + kWarp * i);
      if (channel >= a.channels) continue;
      load_cells(a, map, y + 1, first, channel, below);
      if (!slides) {
        load_cells(a, map, y - 1, first, channel, above);
        load_cells(a, map, y, first, channel, here);
      }
      float part[kRun][8], bias[8];
      read8(a.bias + channel, bias);
      RFSEG_UNROLL
      for (int c = 0; c < kRun; ++c) {
        RFSEG_UNROLL
        for (int j = 0; j < 8; ++j) part[c][j] = bias[j];
      }
      add_cells(a, above, 0, channel, part);
      add_cells(a, here, 1, channel, part);
      add_cells(a, below, 2, channel, part);
      RFSEG_UNROLL
      for (int c = 0; c < kRun; ++c) {
        RFSEG_UNROLL
        for (int j = 0; j < 8; ++j) sums[c][i][j] = part[c][j];
        above[c] = here[c];
        here[c] = below[c];
      }
      RFSEG_UNROLL
      for (int c = kRun; c < kRun + 2; ++c) {
        above[c] = here[c];
        here[c] = below[c];
      }
    }
    affine_norms(sums, a.channels, a.eps, a.gamma, a.beta);
    RFSEG_UNROLL
    for (int c = 0; c < kRun; ++c) {
      if (first + c < a.cols) {
        store_row(sums[c], a.channels, out + (int64_t{y} * a.cols + first + c) * a.channels);
      }
    }
  }
}

// ---- spread_2x2, to_floats

template <class T>
RFSEG_DEVICE void spread_body(const SpreadArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int groups = a.channels / 8;
  const int64_t item = global_thread(kMapThreads);
  if (item >= int64_t{a.batch} * a.rows * a.cols * 4 * groups) return;
  const int group = static_cast<int>(item % groups);
  const int64_t cell = item / groups;  // of the output
  const int x = static_cast<int>(cell % (2 * a.cols));
  const int64_t line = cell / (2 * a.cols);
  const int64_t from = line / 2 * a.cols + x / 2;
  const int quarter = static_cast<int>(line % 2) * 2 + x % 2;
  const T* in = static_cast<const T*>(a.x) + (from * 4 + quarter) * a.channels + group * 8;
  store8(static_cast<T*>(a.out) + cell * a.ldo + group * 8, load8(in));
}

struct ToFloatsArguments {
  const void* x;
  float* out;
  int64_t count;
};

template <class T>
RFSEG_DEVICE void to_floats_body(const ToFloatsArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int64_t i = global_thread(kMapThreads);
  if (i < a.count) a.out[i] = to_float(static_cast<const T*>(a.x)[i]);
}

}  // namespace

void embed(const Queue& queue, Math math, const EmbedArguments& a) {
  const int64_t items = int64_t{a.batch} * a.layout.cells() * (a.ld / 8) +
                        int64_t{a.batch} * a.layout.tokens() * (a.width / 8);
  with_element(math, [&]<class T>(T) {
    launch<embed_body<T>, kEmbedThreads>(queue, {blocks_for(items, kEmbedThreads)}, 0, a);
  });
}

void norm_rows(const Queue& queue, Math math, const NormArguments& a) {
  const Grid grid{blocks_for(a.m, kNormRows)};
  with_element(math, [&]<class T>(T) {
    switch ((a.n + 8 * kWarp - 1) / (8 * kWarp)) {
      case 1:
        return launch<norm_body<T, 1>, kNormThreads>(queue, grid, 0, a);
      case 2:
        return launch<norm_body<T, 2>, kNormThreads>(queue, grid, 0, a);
      case 3:
        return launch<norm_body<T, 3>, kNormThreads>(queue, grid, 0, a);
      case 4:
        return launch<norm_body<T, 4>, kNormThreads>(queue, grid, 0, a);
      default:
        throw Error(ErrorCode::kModel, "the cuda backend normalises at most 1024 channels");
    }
  });
}

void mask_rows(const Queue& queue, Math math, const MaskRowsArguments& a) {
  const int64_t items = int64_t{a.batch} * a.n * (a.width / 8);
  with_element(math, [&]<class T>(T) {
    launch<mask_rows_body<T>, kRowThreads>(queue, {blocks_for(items, kRowThreads)}, 0, a);
  });
}

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
  const int64_t items = int64_t{a.batch} * a.queries * a.heads * 2;
  with_element(math, [&]<class T>(T) {
    launch<sample_body<T>, kSampleThreads>(queue, {blocks_for(items, kSampleThreads)}, 0, a);
  });
}

void resize_map(const Queue& queue, Math math, const ResizeArguments& a) {
  const int64_t columns = int64_t{a.batch} * a.out_cols * (a.channels / 8);
  constexpr int64_t kFullGpu = 132 * 2048;
  const int strip =
      static_cast<int>(std::clamp<int64_t>(columns * a.out_rows / (2 * kFullGpu), 2, 26));
  const int64_t items = columns * ((a.out_rows + strip - 1) / strip);
  with_element(math, [&]<class T>(T) {
    launch<resize_body<T>, kMapThreads>(queue, {blocks_for(items, kMapThreads)}, 0,
                                        ResizeTask{a, strip});
  });
}

void depthwise_norm(const Queue& queue, Math math, const DepthwiseArguments& a) {
  if (a.channels > 512) {
    throw Error(ErrorCode::kModel, "the cuda backend takes at most 512 channels of mask features");
  }
  // Short strips while there are few warps, longer ones once the GPU is full of them.
  constexpr int kFullGpu = 132 * 8;
  const int64_t runs = int64_t{a.batch} * ((a.cols + kRun - 1) / kRun);
  const int strip =
      static_cast<int>(std::clamp<int64_t>(runs * a.rows / (int64_t{4} * kFullGpu), 1, 16));
  const DepthwiseTask task{a, strip};
  const Grid grid{blocks_for(runs * ((a.rows + strip - 1) / strip), kDepthwiseThreads / kWarp)};
  with_element(math, [&]<class T>(T) {
    if (a.channels <= 256) {
      launch<depthwise_body<T, 1>, kDepthwiseThreads>(queue, grid, 0, task);
    } else {
      launch<depthwise_body<T, 2>, kDepthwiseThreads>(queue, grid, 0, task);
    }
  });
}

void spread_2x2(const Queue& queue, Math math, const SpreadArguments& a) {
  const int64_t items = int64_t{a.batch} * a.rows * a.cols * 4 * (a.channels / 8);
  with_element(math, [&]<class T>(T) {
    launch<spread_body<T>, kMapThreads>(queue, {blocks_for(items, kMapThreads)}, 0, a);
  });
}

void to_floats(const Queue& queue, Math math, const void* x, float* out, int64_t count) {
  with_element(math, [&]<class T>(T) {
    launch<to_floats_body<T>, kMapThreads>(queue, {blocks_for(count, kMapThreads)}, 0,
                                           ToFloatsArguments{x, out, count});
  });
}

}  // namespace rfseg::cuda
