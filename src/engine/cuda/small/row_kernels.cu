#include "engine/cuda/small/small_kernels.h"

#include "engine/cuda/small/small_kernels_device.h"
#include "rfseg/error.h"

// Steps that know only rows: patches, LayerNorm, masks of rows, conversions. A warp owns a row that
// is normalised; elsewhere a thread owns 8 channels. Blocks are small, because at batch 1 there are
// few rows and every multiprocessor should have some.

namespace rfseg::cuda {
namespace {

// ---- embed: thread = 8 columns of a patch, or 8 channels of a CLS token.

constexpr int kEmbedThreads = 256;

template <class T>
RFSEG_DEVICE void embed_body(const EmbedArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int windows = a.layout.windows * a.layout.windows;
  const int before = a.x == nullptr ? 1 : 0;  // rows of a window that are no patches
  const int rows = a.layout.cells() + before * windows;
  const int patch_groups = a.ld / 8, token_groups = a.width / 8;
  const int patch_items = a.batch * rows * patch_groups;
  int item = block_x() * kEmbedThreads + thread_index();
  float v[8];
  if (item >= patch_items) {
    item -= patch_items;
    if (a.x == nullptr || item >= a.batch * windows * token_groups) return;
    const int token = item / token_groups % windows * a.layout.window_tokens();
    const int picture = item / token_groups / windows, channel = item % token_groups * 8;
    read8(a.start + int64_t{token} * a.width + channel, v);
    write8(a.x + (int64_t{picture} * a.layout.tokens() + token) * a.width + channel, v);
    return;
  }
  const int group = item % patch_groups, row = item / patch_groups;
  const int in_picture = row % rows, picture = row / rows;
  // Rows are in token order: window, then cell inside of it.
  const int in_window = a.layout.window_rows * a.layout.window_cols + before;
  const int window = in_picture / in_window, inside = in_picture % in_window - before;
  const int grid_y =
      window / a.layout.windows * a.layout.window_rows + inside / a.layout.window_cols;
  const int grid_x =
      window % a.layout.windows * a.layout.window_cols + inside % a.layout.window_cols;
  const int width = a.layout.grid_cols() * a.patch;
  const int height = a.layout.windows * a.layout.window_rows * a.patch;
  const float* corner =
      a.pictures + (int64_t{picture} * 3 * height + grid_y * a.patch) * width + grid_x * a.patch;
  const auto pixel = [&](int k) {
    const int line = k / a.patch;  // over all channels
    return corner + (line / a.patch * height + line % a.patch) * width + k % a.patch;
  };
  const int columns = inside < 0 ? 0 : 3 * a.patch * a.patch;
  if (a.patch % 4 == 0) {  // four columns lie in one line, aligned
    RFSEG_UNROLL
    for (int j = 0; j < 8; j += 4) {
      const int k = group * 8 + j;
      float4 four = {0, 0, 0, 0};
      if (k < columns) four = *reinterpret_cast<const float4*>(pixel(k));
      v[j] = four.x, v[j + 1] = four.y, v[j + 2] = four.z, v[j + 3] = four.w;
    }
  } else {
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int k = group * 8 + j;
      v[j] = k < columns ? *pixel(k) : 0.0f;
    }
  }
  write8(static_cast<T*>(a.patches) + int64_t{row} * a.ld + group * 8, v);
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

// ---- mask_rows, to_floats

constexpr int kItemThreads = 128;

template <class T>
RFSEG_DEVICE void mask_rows_body(const MaskRowsArguments& a, void*) {
  await_previous_kernel();
  release_next_kernel();
  const int groups = a.width / 8;
  const int64_t item = global_thread(kItemThreads);
  if (item >= int64_t{a.batch} * a.n * groups) return;
  Eight<T> e = load8(static_cast<const T*>(a.x) + item * 8);
  if (a.valid[item / groups % a.n] == 0) e = Eight<T>{};
  store8(static_cast<T*>(a.out) + item * 8, e);
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
  const int64_t i = global_thread(kItemThreads);
  if (i < a.count) a.out[i] = to_float(static_cast<const T*>(a.x)[i]);
}

}  // namespace

void embed(const Queue& queue, Math math, const EmbedArguments& a) {
  const int64_t windows = int64_t{a.batch} * a.layout.windows * a.layout.windows;
  const int64_t items = int64_t{a.batch} * a.layout.cells() * (a.ld / 8) +
                        windows * (a.x == nullptr ? a.ld : a.width) / 8;
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
    launch<mask_rows_body<T>, kItemThreads>(queue, {blocks_for(items, kItemThreads)}, 0, a);
  });
}

void to_floats(const Queue& queue, Math math, const void* x, float* out, int64_t count) {
  with_element(math, [&]<class T>(T) {
    launch<to_floats_body<T>, kItemThreads>(queue, {blocks_for(count, kItemThreads)}, 0,
                                            ToFloatsArguments{x, out, count});
  });
}

}  // namespace rfseg::cuda
