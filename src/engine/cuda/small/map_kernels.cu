#include "engine/cuda/small/small_kernels.h"

#include <algorithm>

#include "engine/cuda/small/small_kernels_device.h"
#include "rfseg/error.h"

// Maps of cells: resizing, depthwise convolution, the places of a transposed convolution.

namespace rfseg::cuda {
namespace {

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

/// LayerNorm of kRun rows at once.
template <int kVectors>
RFSEG_DEVICE void norms(float (&v)[kRun][kVectors][8], int channels, float eps) {
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
    RFSEG_UNROLL
    for (int c = 0; c < kRun; ++c) {
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) v[c][i][j] = (v[c][i][j] - mean[c]) * inverse[c];
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
    norms(sums, a.channels, a.eps);
    RFSEG_UNROLL
    for (int c = 0; c < kRun; ++c) {
      if (first + c < a.cols) {
        store_row(sums[c], a.channels, out + (int64_t{y} * a.cols + first + c) * a.channels);
      }
    }
  }
}

// ---- spread_2x2

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

}  // namespace

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

}  // namespace rfseg::cuda
