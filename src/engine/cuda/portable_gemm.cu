#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "engine/cuda/portable_tiles.h"
#include "rfseg/error.h"

// Which tile a product takes, and its launch.

namespace rfseg::cuda::portable {
namespace {

TileList tiles(Math math, RowSource source) {
  switch (math) {
    case Math::kFp16:
      return fp16_tiles(source);
    case Math::kTf32:
      return tf32_tiles(source);
    case Math::kFp32:
      break;
  }
  return fp32_tiles(source);
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

bool aligned(const void* p, int64_t ld, int64_t step, int bytes) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * bytes % 16 == 0 && step * bytes % 16 == 0;
}

int shared_bytes(const TileEntry& tile, const GemmArguments& g) {
  return tile.normed_bytes != nullptr ? tile.normed_bytes(g.k) : tile.shared_bytes;
}

bool fits(const TileEntry& tile, const GemmArguments& g) {
  if (tile.normed_bytes != nullptr && g.k > tile.max_k) return false;
  if (g.split != 0 && g.split % tile.cols != 0) return false;
  return shared_bytes(tile, g) <= kMaxSharedBytes;
}

/// Clocks, roughly: the loops of the blocks that a multiprocessor runs, bound by the tensor cores
/// or by what it can fetch, and what every block pays once.
double cost(const TileEntry& tile, Math math, const GemmArguments& g) {
  const double blocks =
      static_cast<double>(ceil_div(g.m, tile.rows)) * ceil_div(g.n, tile.cols) * g.batch;
  const double rounds = std::max(1.0, std::ceil(blocks / multiprocessors()));
  const double slabs = ceil_div(g.k * element_bytes(math), 128);
  const double area = tile.rows * tile.cols;
  // Multiply-adds a clock of a multiprocessor that small tiles reach; a slab is 64 halves.
  const double rate = math == Math::kFp16 ? 1100 : math == Math::kTf32 ? 450 : 160;
  const double products = area * (math == Math::kFp16 ? 64 : 32) / rate;
  const double fetched = (tile.rows + tile.cols) * 128.0 / 60;
  const double waits = 30;
  return rounds * (slabs * (std::max(products, fetched) + waits) + area / 16 + 200) + 1000;
}

int best(const TileList& list, Math math, const GemmArguments& g) {
  int chosen = -1;
  double least = 0;
  for (int i = 0; i < list.count; ++i) {
    if (!fits(list.entries[i], g)) continue;
    const double c = cost(list.entries[i], math, g);
    if (chosen < 0 || c < least) {
      chosen = i;
      least = c;
    }
  }
  return chosen;
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

ProductArguments norm_arguments(const GemmNormArguments& a) {
  ProductArguments arguments;
  arguments.product = a.product;
  GemmArguments& g = arguments.product;
  g.scale = nullptr;
  g.row_bias = nullptr;
  g.activation = Activation::kNone;
  g.batch = 1;
  g.split = 0;
  g.out_group = 0;
  g.out_step = 0;
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
  g.out = a.scratch;
  g.out_float = true;
  g.ldo = g.n;
  return arguments;
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
int gemm_tile(Math math, const GemmArguments& g) { return best(tiles(math, g.source), math, g); }

bool gemm_by_tile(const Queue& queue, Math math, const GemmArguments& g, int tile) {
  const TileEntry& entry = tiles(math, g.source).entries[tile];
  if (!fits(entry, g)) return false;
  ProductArguments arguments = product_arguments(math, g);
  enqueue(queue, entry, arguments);
  return true;
}

void gemm(const Queue& queue, Math math, const GemmArguments& g) {
  const int tile = gemm_tile(math, g);
  if (tile < 0) {
    throw Error(ErrorCode::kInternal, "no tile of the GPU's matrix product takes this shape");
  }
  gemm_by_tile(queue, math, g, tile);
}

bool gemm_prefers_normed(Math, int, int, int) {
  // Every block would normalise its rows anew, 100 KB of floats at 100 GB/s: measured, that takes
  // longer than a kernel for it.
  return false;
}

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& a) {
  ProductArguments arguments = norm_arguments(a);
  portable::gemm(queue, math, arguments.product);
  const int bytes = element_bytes(math), n = a.product.n;
  arguments.vector = aligned(a.scratch, n, 0, 4) && aligned(a.gamma, n, 0, 4) &&
                     aligned(a.beta, n, 0, 4) && aligned(a.out_float, a.ldo_float, 0, 4) &&
                     aligned(a.out, a.ldo, 0, bytes) && aligned(a.plus, n, 0, 4) &&
                     aligned(a.out_plus, n, 0, bytes);
  enqueue_norms(queue, math, arguments);
}

void enqueue_norms(const Queue& queue, Math math, const ProductArguments& arguments) {
  const Grid grid{ceil_div(arguments.product.m, kNormThreads / kWarp), 1};
  if (math == Math::kFp16) {
    launch<norm_body<Math::kFp16>, kNormThreads>(queue, grid, 0, arguments);
  } else {
    launch<norm_body<Math::kFp32>, kNormThreads>(queue, grid, 0, arguments);
  }
}

}  // namespace rfseg::cuda::portable
