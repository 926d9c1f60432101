#include "engine/cuda/portable/attention.h"

#include <algorithm>
#include <cmath>

#include "rfseg/error.h"

// Which tile attention takes, and its launch. A name says queries x keys, the warps over queries,
// the groups over keys and the stages.

namespace rfseg::cuda::portable {
namespace {

/// ns on an H200: once, and for each key in each round of blocks; fitted to measured times where
/// there are any (fp16), to put the tiles in order.
struct Cost {
  float once, key;
};

struct Entry {
  const char* name;
  Cost cost;
  int rows;
  void (*enqueue)(const Queue&, const AttentionArguments&, Grid);
};

template <class Tile>
void enqueue_tile(const Queue& queue, const AttentionArguments& arguments, Grid grid) {
  launch<attention_body<Tile>, Tile::kThreads, Tile::kMinBlocks>(queue, grid, Tile::kSharedBytes,
                                                                 arguments);
}
template <class Tile>
constexpr Entry entry(const char* name, const Cost& cost) {
  return {name, cost, Tile::kRows, &enqueue_tile<Tile>};
}

constexpr Math kHalf = Math::kFp16;
constexpr Entry kFp16Wide[] = {
    entry<AttentionTile<kHalf, 64, 1, 4, 1, 64, 3, 3>>("64x64 4x1 3", {7000, 8.8f}),
    entry<AttentionTile<kHalf, 64, 2, 1, 8, 32, 1>>("32x32 1x8 1", {2000, 6.3f}),
};
constexpr Entry kFp16Narrow[] = {
    entry<AttentionTile<kHalf, 32, 2, 1, 4, 32, 1>>("32x32 1x4 1", {2000, 3.6f}),
    entry<AttentionTile<kHalf, 32, 1, 1, 4, 32, 1>>("16x32 1x4 1", {1700, 3.3f}),
};
template <Math kMath>
constexpr Entry kFloatWide[] = {
    entry<AttentionTile<kMath, 64, 1, 4, 1, 16, 4>>("64x16 4x1 4", {4000, 30}),
    entry<AttentionTile<kMath, 64, 1, 1, 4, 16, 2>>("16x16 1x4 2", {2000, 12}),
};
template <Math kMath>
constexpr Entry kFloatNarrow[] = {
    entry<AttentionTile<kMath, 32, 1, 1, 4, 32, 2>>("16x32 1x4 2", {2000, 8}),
};

struct List {
  const Entry* entries;
  int count;
};
template <std::size_t n>
List list_of(const Entry (&entries)[n]) {
  return {entries, static_cast<int>(n)};
}
List tiles(Math math, int head_dim) {
  if (head_dim != 64 && head_dim != 32) {
    throw Error(ErrorCode::kInternal, "attention on the GPU takes heads of 64 or 32 elements");
  }
  const bool wide = head_dim == 64;
  switch (math) {
    case Math::kFp16:
      return wide ? list_of(kFp16Wide) : list_of(kFp16Narrow);
    case Math::kTf32:
      return wide ? list_of(kFloatWide<Math::kTf32>) : list_of(kFloatNarrow<Math::kTf32>);
    case Math::kFp32:
      break;
  }
  return wide ? list_of(kFloatWide<Math::kFp32>) : list_of(kFloatNarrow<Math::kFp32>);
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Nanoseconds, roughly.
double cost(const Entry& tile, const AttentionArguments& g) {
  const double blocks = static_cast<double>(ceil_div(g.length, tile.rows)) * g.heads * g.sequences;
  return static_cast<double>(tile.cost.once) +
         std::ceil(blocks / multiprocessors()) * g.length * static_cast<double>(tile.cost.key);
}

}  // namespace

int attention_tiles(Math math, int head_dim) { return tiles(math, head_dim).count; }
const char* attention_tile_name(Math math, int head_dim, int tile) {
  return tiles(math, head_dim).entries[tile].name;
}

int attention_tile(Math math, const AttentionArguments& g) {
  const List list = tiles(math, g.head_dim);
  int chosen = 0;
  for (int i = 1; i < list.count; ++i) {
    if (cost(list.entries[i], g) < cost(list.entries[chosen], g)) chosen = i;
  }
  return chosen;
}

void attention_by_tile(const Queue& queue, Math math, const AttentionArguments& g, int tile) {
  const Entry& chosen = tiles(math, g.head_dim).entries[tile];
  chosen.enqueue(queue, g, {ceil_div(g.length, chosen.rows), g.heads * g.sequences});
}

void attention(const Queue& queue, Math math, const AttentionArguments& g) {
  attention_by_tile(queue, math, g, attention_tile(math, g));
}

}  // namespace rfseg::cuda::portable
