#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <initializer_list>

#include "core/cuda/device.h"
#include "engine/cuda/portable/norms.h"
#include "engine/cuda/portable/tiles.h"
#include "rfseg/error.h"

// Which tile a product takes, and its launch.

namespace rfseg::cuda::portable {
namespace {

TileList tiles(Math math, RowSource source) {
  return math == Math::kFp16 ? fp16_tiles(source) : float_tiles(math, source);
}

TileList cluster_tiles(Math math, RowSource source) {
  return math == Math::kFp16 ? fp16_cluster_tiles(source) : TileList{};
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

bool aligned(const void* p, int64_t ld, int64_t step, int bytes) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * bytes % 16 == 0 && step * bytes % 16 == 0;
}

int shared_bytes(const TileEntry& tile, const GemmArguments& g) {
  return tile.normed_bytes != nullptr ? tile.normed_bytes(g.k) : tile.shared_bytes;
}

bool fits(const TileEntry& tile, const GemmArguments& g) {
  if (g.split != 0 && g.split % tile.cols != 0) return false;
  return tile.normed_bytes == nullptr ||
         (g.k <= tile.max_k && shared_bytes(tile, g) <= kMaxSharedBytes);
}

constexpr int kMostParts = 8;

/// k of each of `parts` parts, in whole slabs of 128 bytes.
int part_of(Math math, int k, int parts) {
  const int slab = 128 / element_bytes(math);
  return ceil_div(ceil_div(k, parts), slab) * slab;
}

/// Nanoseconds, roughly.
double cost(const TileEntry& tile, Math math, const GemmArguments& g) {
  const double blocks =
      static_cast<double>(ceil_div(g.m, tile.rows)) * ceil_div(g.n, tile.cols) * g.batch;
  const double share = blocks / multiprocessors();
  constexpr double kMany = 8;  // rounds that flow into one another
  const double rounds = share < kMany ? std::ceil(share) : share;
  const double slabs = ceil_div(g.k * element_bytes(math), 128);
  const TileCost& c = tile.cost;
  return static_cast<double>(c.once) + rounds * static_cast<double>(c.block) +
         slabs * (static_cast<double>(c.slab) + (rounds - 1) * static_cast<double>(c.further));
}

/// Null: none fits.
const TileEntry* best(std::initializer_list<TileList> lists, Math math, const GemmArguments& g) {
  const TileEntry* chosen = nullptr;
  double least = 0;
  for (const TileList& list : lists) {
    for (int i = 0; i < list.count; ++i) {
      const TileEntry& entry = list.entries[i];
      if (!fits(entry, g)) continue;
      const double c = cost(entry, math, g);
      if (chosen == nullptr || c < least) {
        chosen = &entry;
        least = c;
      }
    }
  }
  return chosen;
}

[[noreturn]] void no_tile() {
  throw Error(ErrorCode::kInternal, "no tile of the GPU's matrix product takes this shape");
}

void enqueue(const Queue& queue, const TileEntry& tile, ProductArguments& arguments) {
  const GemmArguments& g = arguments.product;
  arguments.row_tiles = ceil_div(g.m, tile.rows);
  tile.enqueue(queue, arguments, {ceil_div(g.n, tile.cols), arguments.row_tiles * g.batch},
               shared_bytes(tile, g));
}

ProductArguments product_arguments(Math math, const GemmArguments& g) {
  ProductArguments arguments;
  arguments.product = g;
  const int out = g.out_float ? 4 : element_bytes(math);
  const int residual = g.residual_float ? 4 : element_bytes(math);
  arguments.vector = aligned(g.out, g.ldo, g.out_step, out) &&
                     (g.residual == nullptr || aligned(g.residual, g.ldr, g.out_step, residual));
  return arguments;
}

/// The product of gemm_norm(): bare sums of `parts` parts of k, one [m, n] behind the other.
ProductArguments partial_sums(const GemmNormArguments& a, int parts) {
  ProductArguments arguments;
  arguments.product = a.product;
  GemmArguments& g = arguments.product;
  g.bias = nullptr;
  g.scale = nullptr;
  g.row_bias = nullptr;
  g.residual = nullptr;
  g.activation = Activation::kNone;
  g.split = 0;
  g.out_group = 0;
  g.out = a.scratch;
  g.out_float = true;
  g.ldo = g.n;
  g.batch = parts;
  g.a_step = 0;
  g.b_step = 0;
  g.out_step = int64_t{g.m} * g.n;
  arguments.vector = aligned(a.scratch, g.n, g.out_step, 4);
  return arguments;
}

/// The second kernel.
ProductArguments norms_of(Math math, const GemmNormArguments& a, int parts) {
  ProductArguments arguments = partial_sums(a, parts);
  GemmArguments& g = arguments.product;
  g.bias = a.product.bias;
  g.scale = a.product.scale;
  g.residual = a.product.residual;
  arguments.parts = parts;
  arguments.gamma = a.gamma;
  arguments.beta = a.beta;
  arguments.norm_eps = a.eps;
  arguments.norm_activation = a.activation;
  arguments.norm_float = a.out_float;
  arguments.ld_norm_float = a.ldo_float;
  arguments.norm_out = a.out;
  arguments.ld_norm_out = a.ldo;
  arguments.plus = a.plus;
  arguments.norm_plus = a.out_plus;
  arguments.norm_sum = a.sum;
  arguments.ld_norm_sum = a.ld_sum;
  const int bytes = element_bytes(math);
  const auto whole = [&](const void* p, int64_t ld, int size) {
    return p == nullptr || aligned(p, ld, 0, size);
  };
  arguments.vector =
      arguments.vector && whole(g.bias, 0, 4) && whole(g.scale, 0, 4) &&
      whole(g.residual, g.ldr, g.residual_float ? 4 : bytes) && whole(a.gamma, 0, 4) &&
      whole(a.beta, 0, 4) && whole(a.out_float, a.ldo_float, 4) && whole(a.out, a.ldo, bytes) &&
      whole(a.plus, g.n, 4) && whole(a.out_plus, g.n, bytes) && whole(a.sum, a.ld_sum, 4);
  return arguments;
}

/// Whether a cluster of blocks of this tile takes whole rows.
bool takes_norm(const TileEntry& tile, const ProductArguments& arguments) {
  const GemmArguments& g = arguments.product;
  return arguments.vector && g.n % tile.cols == 0 && g.n / tile.cols <= kMostShares;
}

/// Asked once: the GPUs of a machine are of one kind.
bool has_clusters() {
  static const bool has = has_hopper_code();
  return has;
}

}  // namespace

int multiprocessors() {
  constexpr int kDevices = 64, kUnknown = 132;
  static std::array<std::atomic<int>, kDevices> known{};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) {
    cudaGetLastError();
    return kUnknown;
  }
  int count = known[static_cast<std::size_t>(device)];
  if (count == 0) {
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
      cudaGetLastError();
      count = kUnknown;
    }
    known[static_cast<std::size_t>(device)] = count;
  }
  return count;
}

int gemm_tiles(Math math, RowSource source) { return tiles(math, source).count; }
const char* gemm_tile_name(Math math, RowSource source, int tile) {
  return tiles(math, source).entries[tile].name;
}
int gemm_tile(Math math, const GemmArguments& g) {
  const TileList list = tiles(math, g.source);
  const TileEntry* chosen = best({list}, math, g);
  return chosen == nullptr ? -1 : static_cast<int>(chosen - list.entries);
}

bool gemm_by_entry(const Queue& queue, Math math, const GemmArguments& g, const TileEntry& entry) {
  if (!fits(entry, g)) return false;
  ProductArguments arguments = product_arguments(math, g);
  enqueue(queue, entry, arguments);
  return true;
}

bool gemm_by_tile(const Queue& queue, Math math, const GemmArguments& g, int tile) {
  return gemm_by_entry(queue, math, g, tiles(math, g.source).entries[tile]);
}

void gemm(const Queue& queue, Math math, const GemmArguments& g, const TileList& more) {
  const TileEntry* tile = best({tiles(math, g.source), more}, math, g);
  if (tile == nullptr) no_tile();
  gemm_by_entry(queue, math, g, *tile);
}
void gemm(const Queue& queue, Math math, const GemmArguments& g) { gemm(queue, math, g, {}); }

bool gemm_prefers_normed(Math, int, int, int) {
  // Every block would normalise its rows anew, 100 KB of floats at 100 GB/s: measured, that takes
  // longer than a kernel for it.
  return false;
}

int gemm_norm_tiles(Math math, RowSource source) { return cluster_tiles(math, source).count; }

bool gemm_norm_by_cluster(const Queue& queue, Math math, const GemmNormArguments& a, int tile) {
  const TileEntry& entry = cluster_tiles(math, a.product.source).entries[tile];
  ProductArguments arguments = norms_of(math, a, 1);
  if (!takes_norm(entry, arguments)) return false;
  enqueue(queue, entry, arguments);
  return true;
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& a) {
  gemm_norm(queue, math, a, {});
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& a, const TileList& more) {
  const TileList list = tiles(math, a.product.source);
  const int64_t size = int64_t{a.product.m} * a.product.n;
  if (a.scratch_size != 0 && a.scratch_size < size) {
    throw Error(ErrorCode::kInternal, "no room for a product's sums before its norm");
  }
  const int room = static_cast<int>(std::clamp<int64_t>(a.scratch_size / size, 1, kMostParts));
  const TileEntry* tile = nullptr;
  int parts = 1;
  double least = 0;
  for (int p = 1; p <= room; ++p) {
    // Whole slabs, so that no part has zeros but the last; each at least two.
    const int k = part_of(math, a.product.k, p);
    if (p > 1 && (k * element_bytes(math) < 256 || ceil_div(a.product.k, k) != p)) continue;
    ProductArguments sums = partial_sums(a, p);
    sums.product.k = k;
    const TileEntry* found = best({list, more}, math, sums.product);
    if (found == nullptr) continue;
    // The norms read each part: 5 TB/s, and a trip more.
    const double c =
        cost(*found, math, sums.product) + static_cast<double>(size) * 4 * p / 5000 + 60.0 * p;
    if (tile == nullptr || c < least) {
      tile = found;
      parts = p;
      least = c;
    }
  }
  // In one kernel, where there are clusters: the norm's own launch and trip to memory fall away.
  if (!queue.portable && has_clusters()) {
    constexpr double kExchange = 900, kNormKernel = 2500;
    const TileList clusters = cluster_tiles(math, a.product.source);
    const ProductArguments whole = norms_of(math, a, 1);
    int chosen = -1;
    for (int i = 0; i < clusters.count; ++i) {
      if (!takes_norm(clusters.entries[i], whole)) continue;
      const double c = cost(clusters.entries[i], math, whole.product) + kExchange;
      if (tile != nullptr && chosen < 0 && c >= least + kNormKernel) continue;
      if (chosen >= 0 && c >= least) continue;
      chosen = i;
      least = c;
    }
    if (chosen >= 0) {
      gemm_norm_by_cluster(queue, math, a, chosen);
      return;
    }
  }
  if (tile == nullptr) no_tile();
  ProductArguments sums = partial_sums(a, parts);
  if (parts > 1) sums.k_part = part_of(math, a.product.k, parts);
  enqueue(queue, *tile, sums);
  enqueue_norms(queue, math, norms_of(math, a, parts));
}

void norm_of_sums(const Queue& queue, Math math, const GemmNormArguments& arguments) {
  enqueue_norms(queue, math, norms_of(math, arguments, 1));
}

void enqueue_norms(const Queue& queue, Math math, const ProductArguments& arguments) {
  const GemmArguments& g = arguments.product;
  const Grid grid{ceil_div(g.m, kNormThreads / kWarp), 1};
  const auto enqueue_parts = [&]<Math kMath, bool kVector>() {
    if (g.n <= 256) {
      launch<norm_body<kMath, 2, kVector>, kNormThreads>(queue, grid, 0, arguments);
    } else if (g.n <= 512) {
      launch<norm_body<kMath, 4, kVector>, kNormThreads>(queue, grid, 0, arguments);
    } else {
      launch<norm_body<kMath, 8, kVector>, kNormThreads>(queue, grid, 0, arguments);
    }
  };
  const auto enqueue_math = [&]<Math kMath>() {
    if (arguments.vector) {
      enqueue_parts.template operator()<kMath, true>();
    } else {
      enqueue_parts.template operator()<kMath, false>();
    }
  };
  if (math == Math::kFp16) {
    enqueue_math.template operator()<Math::kFp16>();
  } else {
    enqueue_math.template operator()<Math::kFp32>();
  }
}

}  // namespace rfseg::cuda::portable
