#include "engine/cuda/hopper/gemm.h"

#include <algorithm>
#include <climits>

#include "core/cuda/device.h"
#include "engine/cuda/hopper/gemm_task.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/portable/portable.h"

namespace rfseg::cuda::hopper {
namespace {

template <class T>
bool aligned(T* p, int bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
}

int blocks_of(int64_t count, int size) { return static_cast<int>((count + size - 1) / size); }

/// What a product and a product with a norm have in common, decided.
struct Plan {
  GemmArguments g;
  Exit exit = Exit::kAny;
  Activation activation = Activation::kNone;
  const GemmNormArguments* norm = nullptr;
};

Exit exit_of(const GemmArguments& g) {
  if (g.rest || g.residual_rest) return Exit::kResidual;
  const bool plain_rows = g.out_group == 0 && !g.row_bias && g.residual_period == 0;
  // The copy engine cuts what lies beyond the columns by 16 bytes.
  if (plain_rows && !g.out_float && !g.scale && g.n % 8 == 0 && g.ldo % 8 == 0 &&
      aligned(g.out, 16) && g.out_step % 8 == 0) {
    if (!g.residual) return Exit::kHalf;
    if (!g.residual_float && g.ldr % 8 == 0 && aligned(g.residual, 16)) return Exit::kHalfPlus;
  }
  if (plain_rows && g.out_float && g.residual && g.residual_float &&
      g.activation == Activation::kNone && g.n % 4 == 0 && g.ldo % 4 == 0 && g.ldr % 4 == 0 &&
      aligned(g.out, 16) && aligned(g.residual, 16)) {
    return Exit::kResidual;
  }
  return Exit::kAny;
}

/// Whether the operands can be read.
bool takes_operands(const GemmArguments& g) {
  if (g.source == RowSource::kNormed || g.index) return false;
  if (!aligned(g.a, 16) || !aligned(g.b, 16) || g.lda % 8 || g.ldb % 8) return false;
  if (g.source == RowSource::kConv3x3) {
    const int64_t cells = static_cast<int64_t>(g.map_rows) * g.map_cols;
    const int64_t out_cells = static_cast<int64_t>(g.out_rows) * g.out_cols;
    if (g.channels % 64 || g.k != 9 * g.channels) return false;
    if (g.stride < 1 || g.stride > 8 || g.out_rows != (g.map_rows - 1) / g.stride + 1 ||
        g.out_cols != (g.map_cols - 1) / g.stride + 1 || g.m % out_cells) {
      return false;
    }
    // Drivers up to 13.1 make wrong maps of smaller tensors.
    if (cells * (g.m / out_cells) * g.lda * 2 < 131072) return false;
  }
  return true;
}

bool plan(const GemmArguments& g, Plan* plan) {
  if (!takes_operands(g)) return false;
  if (g.batch > 1 && (g.a_step == 0 || g.b_step == 0 || g.residual)) return false;
  if (g.source == RowSource::kConv3x3 && (g.batch != 1 || g.split)) return false;
  if (g.split && !aligned(g.a2, 16)) return false;
  if (g.shares && (g.batch > 1 || !aligned(g.halves, 16) || !aligned(g.shares, 8))) return false;
  if (g.rest || g.residual_rest) {
    const bool residual =
        g.residual_rest
            ? aligned(g.residual_halves, 16) && aligned(g.residual_rest, 16) && !g.residual
            : g.residual && g.residual_float && g.ldr % 4 == 0 && aligned(g.residual, 16);
    const bool out =
        g.rest ? aligned(g.rest, 16) && !g.out : g.out && g.ldo % 4 == 0 && aligned(g.out, 16);
    if (!g.shares || !residual || !out || !g.out_float || g.out_group || g.row_bias ||
        g.residual_period || g.activation != Activation::kNone) {
      return false;
    }
  }
  if (g.norm_of && (g.batch > 1 || g.split || g.k % 128 || g.k > 128 * kMostNormShares ||
                    !aligned(g.norm_of, 8))) {
    return false;
  }
  *plan = {g, exit_of(g), g.activation, nullptr};
  return true;
}

bool plan(const GemmNormArguments& n, Plan* plan) {
  GemmArguments g = n.product;
  if (!takes_operands(g)) return false;
  if (g.residual && (!g.residual_float || g.ldr % 2 || !aligned(g.residual, 8))) return false;
  if (n.out && (n.ldo % 8 || !aligned(n.out, 16))) return false;
  if (n.out_float && (n.ldo_float % 2 || !aligned(n.out_float, 8))) return false;
  if (n.out_plus && (!aligned(n.out_plus, 4) || !aligned(n.plus, 8))) return false;
  g.a2 = nullptr;
  g.split = 0;
  g.shares = nullptr;
  g.norm_of = nullptr;
  g.scale = g.row_bias = nullptr;
  g.batch = 1;
  g.out = n.out;
  g.ldo = n.ldo;
  g.out_group = 0;
  *plan = {g, Exit::kNorm, n.activation, &n};
  return true;
}

/// Stages of the ring, 0 = the variant does not take this.
int stages_of(const Plan& p, const GemmVariant& v) {
  const GemmArguments& g = p.g;
  const int k_blocks = blocks_of(g.k, 64);
  if (g.split && g.split % v.columns) return 0;
  if (g.shares && (p.exit != Exit::kResidual || v.columns != 128 || g.n % 128)) return 0;
  if (g.norm_of && p.exit != Exit::kHalf) return 0;
  if (p.exit == Exit::kNorm && g.n != v.columns) return 0;
  if (v.stationary) {
    if (g.source != RowSource::kRows || g.batch != 1 || k_blocks > kMostWeightBlocks ||
        !has_stationary(v.groups, v.columns, p.exit, p.activation)) {
      return 0;
    }
  } else if (v.in_turn) {
    if (g.source != RowSource::kRows || !has_in_turn(p.exit, p.activation)) return 0;
  } else if (!has_streaming(v, g.source == RowSource::kConv3x3, p.exit, p.activation)) {
    return 0;
  }
  // With one warpgroup two blocks share a multiprocessor, each with 1 KB reserved by the system.
  const bool pair = !v.stationary && v.groups == 1 && v.columns <= 128;
  const int room = pair ? 113 * 1024 : kSharedBytes;
  const int fixed = shared_bytes(v, p.exit, k_blocks, 0);
  const int stages = (room - fixed) / (shared_bytes(v, p.exit, k_blocks, 1) - fixed);
  // Up to three stages of weights that stay are under way or not released yet.
  return stages < (v.stationary ? 5 : 3) ? 0 : std::min(stages, kMostStages);
}

/// Cycles of a multiprocessor for the whole product: what bounds the inner loop (the tensor cores
/// at 2,048 products a cycle, shared memory at 128 bytes, the time to hand over a step), the ways
/// out that nothing hides, and how the tiles fall on the multiprocessors. The constants were read
/// off an H200.
double cycles(const Plan& p, const GemmVariant& v, int multiprocessors) {
  constexpr double kLaunch = 3000, kStep = 180;
  const GemmArguments& g = p.g;
  const int k_blocks = blocks_of(g.k, 64), n_tiles = blocks_of(g.n, v.columns);
  const int rows = v.stationary ? 64 : 64 * v.groups;
  const double bytes = p.exit == Exit::kHalf ? 2 : p.exit == Exit::kResidual ? 8 : 4;
  const double per_column = p.exit == Exit::kAny || p.exit == Exit::kNorm ? 30 : 8;
  // The bytes at a multiprocessor's share of the memory's rate, of which part hides.
  const double exit = 1200 +
                      v.columns * (per_column + (p.activation == Activation::kNone ? 0 : 8)) +
                      0.6 * rows * v.columns * bytes / 16;
  // Of 64 k.
  const double multiply = rows * v.columns / 32.0;
  const double copied = v.stationary ? rows : rows + v.columns;
  const int groups_of_rows = rows / 64;
  const double shared = rows + v.columns * groups_of_rows + copied;
  if (v.stationary) {
    if (n_tiles > multiprocessors) return 1e30;
    const int tiles = blocks_of(blocks_of(g.m, rows), multiprocessors / n_tiles);
    const double tile = std::max(std::max(multiply, shared) / 0.85, kStep) * k_blocks;
    // Warpgroups in turn hide all but the last way out, unless that takes longer than their turns.
    return kLaunch + v.columns * g.k / 25.0 + tiles * std::max(tile, (tile + exit) / v.groups) +
           exit;
  }
  // Three stages do not cover the trip to memory.
  const double late = stages_of(p, v) < 4 ? 1.2 : 1.0;
  const double tile = std::max(std::max(multiply, shared) / 0.85, kStep) * k_blocks * late;
  const int64_t tiles =
      static_cast<int64_t>(n_tiles) * blocks_of(g.m, rows * v.cluster) * v.cluster * g.batch;
  const int places = v.cluster == 4 ? multiprocessors * 10 / 11 : multiprocessors;
  const int waves = blocks_of(tiles, places);
  if (v.in_turn) {
    // The other warpgroup's way out asks for shared memory too.
    const double step = std::max(multiply, shared) / 0.75 * k_blocks;
    return kLaunch + waves * std::max(step, (step + exit) / 2) + exit;
  }
  // Two blocks of one warpgroup hide each other's ends.
  if (v.groups == 1 && v.columns <= 128) {
    return kLaunch + waves * tile + (waves + 1) / 2.0 * exit;
  }
  // Clusters have not been seen to pay where blocks alone do as well.
  return kLaunch + waves * (tile + exit) + (v.cluster > 1 ? 1000 : 0);
}

GemmVariant choose(Plan& p, int multiprocessors) {
  const auto taken = [&] {
    const auto all = gemm_variants();
    return std::any_of(all.begin(), all.end(),
                       [&](const GemmVariant& v) { return stages_of(p, v) > 0; });
  };
  if (p.exit != Exit::kNorm && !taken()) p.exit = Exit::kAny;
  GemmVariant best = {false, 1, 64};
  double least = 1e30;
  for (const GemmVariant& v : gemm_variants()) {
    if (stages_of(p, v) == 0) continue;

    const double cost = cycles(p, v, multiprocessors);
    if (cost < least) {
      least = cost;
      best = v;
    }
  }
  return best;
}

bool run(const Queue& queue, const Plan& p, const GemmVariant& v) {
  const GemmArguments& g = p.g;
  const int stages = stages_of(p, v);
  if (stages == 0) return false;
  if ((g.shares && p.exit != Exit::kResidual) || (g.norm_of && p.exit != Exit::kHalf)) return false;
  const bool convolution = g.source == RowSource::kConv3x3;
  const int rows = v.stationary ? 64 : 64 * v.groups;

  GemmTask task = {};
  EpilogueArguments& e = task.exit;
  e.bias = g.bias;
  e.row_bias = g.row_bias;
  e.scale = g.scale;
  e.residual = g.residual;
  e.out = g.out;
  e.ldr = g.ldr;
  e.ldo = g.ldo;
  e.out_step = g.batch > 1 ? g.out_step : 0;
  e.row_bias_step = g.batch > 1 ? g.row_bias_step : 0;
  e.m = g.m;
  e.n = g.n;
  e.out_group = g.out_group;
  e.out_skip = g.out_skip;
  e.out_first = g.out_first;
  e.residual_period = g.residual_period;
  e.halves = g.halves;
  e.shares = g.shares;
  e.norm_of = g.norm_of;
  e.row_sums = g.row_sums;
  e.norm_eps = g.eps;
  e.norm_shares = g.k / 128;
  e.residual_float = g.residual_float;
  e.residual_pair = g.residual_rest != nullptr;
  e.out_pair = g.rest != nullptr;
  e.pairs = g.n % 2 == 0 && g.ldo % 2 == 0 && e.out_step % 2 == 0 &&
            aligned(g.out, g.out_float ? 8 : 4) &&
            (!g.residual || (g.ldr % 2 == 0 && aligned(g.residual, g.residual_float ? 8 : 4)));
  e.out_float = g.out_float;
  if (p.norm) {
    e.gamma = p.norm->gamma;
    e.beta = p.norm->beta;
    e.plus = p.norm->plus;
    e.norm_out = p.norm->out_float;
    e.out_plus = p.norm->out_plus;
    e.ldo_norm = p.norm->ldo_float;
    e.eps = p.norm->eps;
    e.norm_half = p.norm->out != nullptr;
  }
  task.k_blocks = blocks_of(g.k, 64);
  task.stages = stages;
  task.m_tiles = blocks_of(g.m, rows * v.cluster);
  task.n_tiles = blocks_of(g.n, v.columns);
  task.tiles = task.m_tiles * task.n_tiles * g.batch;
  task.split = g.split ? g.split : INT_MAX;
  task.weights_fixed = g.b_fixed;
  task.from_end = g.from_end;

  bool mapped = true;
  if (convolution) {
    task.channel_blocks = g.channels / 64;
    task.out_cols = g.out_cols;
    task.out_cells = g.out_rows * g.out_cols;
    task.stride = g.stride;
    mapped = taps_map(&task.a, g.a, g.channels, g.lda, g.map_cols, g.map_rows, g.m / task.out_cells,
                      g.stride, rows);
  } else {
    mapped = matrix_map(&task.a, g.a, g.k, g.m, g.lda, g.batch, g.a_step, 64, rows);
    if (g.split) {
      mapped = mapped && matrix_map(&task.a2, g.a2, g.k, g.m, g.lda, g.batch, g.a_step, 64, rows);
    }
  }
  mapped = mapped &&
           matrix_map(&task.b, g.b, g.k, g.n, g.ldb, g.batch, g.b_step, 64, v.columns / v.cluster);
  const int box = v.columns % 64 == 0 ? 64 : 32;
  if (p.exit == Exit::kHalf || p.exit == Exit::kHalfPlus || e.norm_half) {
    mapped = mapped && matrix_map(&task.out, g.out, g.n, g.m, g.ldo, g.batch, g.out_step, box, 64);
  }
  if (p.exit == Exit::kResidual) {
    const auto pair = [&](CUtensorMap* halves, CUtensorMap* rest, const void* from,
                          const void* rest_from) {
      return matrix_map(halves, from, g.n, g.m, g.n, 1, 0, 64, 64) &&
             matrix_map(rest, rest_from, g.n, g.m, g.n, 1, 0, 64, 64);
    };
    mapped = mapped &&
             (g.rest ? pair(&task.out, &task.out_rest, g.halves, g.rest)
                     : matrix_map(&task.out, g.out, g.n, g.m, g.ldo, 1, 0, 32, 64, true)) &&
             (g.residual_rest
                  ? pair(&task.residual, &task.residual_rest, g.residual_halves, g.residual_rest)
                  : matrix_map(&task.residual, g.residual, g.n, g.m, g.ldr, 1, 0, 32, 64, true));
  }
  if (p.exit == Exit::kHalfPlus) {
    mapped = mapped && matrix_map(&task.residual, g.residual, g.n, g.m, g.ldr, 1, 0, box, 64);
  }
  if (!mapped) return false;

  const int multiprocessors = portable::multiprocessors();
  if (v.stationary) {
    if (task.n_tiles > multiprocessors) return false;
    const int members = std::min(multiprocessors / task.n_tiles, task.m_tiles);
    launch_stationary(queue, members * task.n_tiles, v.groups, v.columns, p.exit, p.activation,
                      task);
  } else if (v.in_turn) {
    launch_in_turn(queue, std::min(multiprocessors, task.tiles), p.exit, p.activation, task);
  } else {
    // Of clusters of four not all fit: the processor's parts have 16 or 18 multiprocessors.
    const int together = v.cluster == 4 ? multiprocessors * 10 / 11 / 4 * 4
                                        : multiprocessors / v.cluster * v.cluster;
    const int resident = together * (v.groups == 1 && v.columns <= 128 ? 2 : 1);
    launch_streaming(queue, std::min(resident, task.tiles * v.cluster), v, convolution, p.exit,
                     p.activation, task);
  }
  return true;
}

}  // namespace

std::string name(const GemmVariant& v) {
  const auto columns = std::to_string(v.columns);
  if (v.stationary) return "stationary 64x" + columns + " by " + std::to_string(v.groups);
  return (v.in_turn ? "in turn " : "streaming ") + std::to_string(64 * v.groups) + "x" + columns +
         (v.cluster > 1 ? " clusters of " + std::to_string(v.cluster) : "");
}

std::vector<GemmVariant> gemm_variants() {
  return {{true, 3, 128},     {true, 2, 128},     {true, 2, 192},          {true, 2, 256},
          {false, 1, 32},     {false, 1, 64},     {false, 1, 96},          {false, 1, 128},
          {false, 1, 256},    {false, 2, 128},    {false, 2, 192},         {false, 2, 256},
          {false, 3, 128},    {false, 2, 128, 2}, {false, 2, 128, 4},      {false, 2, 192, 2},
          {false, 2, 192, 4}, {false, 3, 128, 2}, {false, 3, 128, 4},      {false, 1, 256, 2},
          {false, 1, 256, 4}, {false, 2, 256, 2}, {false, 2, 128, 1, true}};
}

GemmVariant choose(const GemmArguments& arguments, int multiprocessors) {
  Plan p;
  return plan(arguments, &p) ? choose(p, multiprocessors) : GemmVariant();
}
GemmVariant choose(const GemmNormArguments& arguments, int multiprocessors) {
  Plan p;
  return plan(arguments, &p) ? choose(p, multiprocessors) : GemmVariant();
}

bool gemm(const Queue& queue, const GemmArguments& arguments) {
  Plan p;
  return plan(arguments, &p) && run(queue, p, choose(p, portable::multiprocessors()));
}
bool gemm(const Queue& queue, const GemmArguments& arguments, const GemmVariant& variant) {
  Plan p;
  return plan(arguments, &p) && run(queue, p, variant);
}
bool gemm_norm(const Queue& queue, const GemmNormArguments& arguments) {
  Plan p;
  if (!plan(arguments, &p)) return false;
  // A tile is as wide as the rows, so that few rows leave most of the multiprocessors idle.
  const int multiprocessors = portable::multiprocessors();
  if (arguments.product.m < 64 * multiprocessors / 3) return false;
  return run(queue, p, choose(p, multiprocessors));
}
bool gemm_norm(const Queue& queue, const GemmNormArguments& arguments, const GemmVariant& variant) {
  Plan p;
  return plan(arguments, &p) && run(queue, p, variant);
}

}  // namespace rfseg::cuda::hopper
