// What a hand-over between two steps of a network costs: kernels with programmatic dependent launch
// beside one persistent kernel whose blocks wait for each other's flags. A step is an encoder's for
// 11 tiles of 64 rows x 384 halves without its arithmetic: each of 12 blocks of a tile reads the
// tile (48 KB, by the 12 blocks of the step before), adds it up and writes 64 x 32 halves.
//   bench_handover_cuda
// A figure is the slope between 20 and 80 steps, medians of 300 replays of a captured graph; every
// way must give the same bytes.

#include <cstdio>
#include <exception>
#include <vector>

#include "core/cuda/device.h"
#include "core/cuda/launch.h"
#include "core/cuda/tensor_core.h"
#include "cuda_replay_time.h"

namespace rfseg::cuda {
namespace {

constexpr int kThreads = 256, kTiles = 11, kBlocksOfTile = 12, kTileRows = 64, kRowBytes = 768;
constexpr int kTileBytes = kTileRows * kRowBytes, kBytes = kTiles * kTileBytes;
/// More than half of a multiprocessor's: a block each.
constexpr std::size_t kSharedBytes = 120 * 1024;
constexpr int kMostSteps = 80, kReplays = 300;
constexpr int kFlagWords = 32;  ///< a flag has a line of its own

enum class Wait { kRow, kAll, kAllOfFive };

struct Step {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
};
struct Steps {
  std::byte* maps[2] = {};
  uint32_t* flags = nullptr;  ///< [steps][kTiles][kFlagWords]
  int count = 0;
  Wait wait = Wait::kRow;
};

RFSEG_DEVICE void take_step(const Step& step, int tile, int column, void* shared) {
  constexpr int kChunks = kTileBytes / 16 / kThreads;
  const int thread = thread_index();
  const SharedAddress rows = shared_address(shared);
  RFSEG_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    const int chunk = thread + i * kThreads;
    copy_async_16(rows + static_cast<uint32_t>(chunk * 16),
                  step.from + tile * kTileBytes + chunk * 16);
  }
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  uint32_t sum = 0;
  RFSEG_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    const int chunk = (thread * 7 + i * kThreads) % (kChunks * kThreads);
    const Quad quad = load_quad(static_cast<const std::byte*>(shared) + chunk * 16);
    sum += quad.word[0] ^ quad.word[1] ^ quad.word[2] ^ quad.word[3];
  }
  const int row = tile * kTileRows + thread / 4;
  store_quad(step.to + row * kRowBytes + column * 64 + thread % 4 * 16,
             {{sum, sum + 1, sum + 2, sum + 3}});
}

RFSEG_DEVICE void step_body(const Step& step, void* shared) {
  release_next_kernel();
  await_previous_kernel();
  take_step(step, block_x() / kBlocksOfTile, block_x() % kBlocksOfTile, shared);
}

RFSEG_DEVICE void persistent_body(const Steps& steps, void* shared) {
#ifdef __CUDA_ARCH__
  const int tile = block_x() / kBlocksOfTile, thread = thread_index();
  for (int step = 0; step < steps.count; ++step) {
    if (step > 0) {
      const bool all =
          steps.wait == Wait::kAll || (steps.wait == Wait::kAllOfFive && step % 5 == 0);
      if (thread < kWarp) {  // a lane watches a tile
        const int watched = !all ? tile : thread < kTiles ? thread : 0;
        const uint32_t* flag = steps.flags + ((step - 1) * kTiles + watched) * kFlagWords;
        uint32_t seen = 0;
        do {
          asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        } while (!__all_sync(~0u, seen == kBlocksOfTile));
      }
      block_sync();
    }
    take_step({steps.maps[step % 2], steps.maps[(step + 1) % 2]}, tile, block_x() % kBlocksOfTile,
              shared);
    block_sync();
    if (thread == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(
                       steps.flags + (step * kTiles + tile) * kFlagWords)
                   : "memory");
    }
  }
#else
  static_cast<void>(steps);
  static_cast<void>(shared);
#endif
}

/// Median microseconds of `graph` once; the first map's bytes after one pass in `result`.
double time_us(cudaStream_t stream, const Graph& graph, std::byte* const (&maps)[2],
               std::vector<uint8_t>* result) {
  std::vector<uint8_t> start(kBytes);
  for (std::size_t i = 0; i < start.size(); ++i) start[i] = static_cast<uint8_t>(i * 7 + i / 91);
  upload(maps[0], start.data(), start.size(), "filling");
  graph.launch(stream);
  check(cudaStreamSynchronize(stream), "running");
  result->resize(kBytes);
  check(cudaMemcpy(result->data(), maps[0], kBytes, cudaMemcpyDeviceToHost), "reading");
  return median_replay_us(stream, graph, kReplays);
}

int run() {
  const Grid grid{kTiles * kBlocksOfTile, 1};
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "finding the GPU");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking");
  if (multiprocessors < grid.x || !has_hopper_code()) {
    std::fprintf(stderr, "needs a GPU of compute capability 9.0 with %d multiprocessors\n", grid.x);
    return 1;
  }
  const Stream stream;
  Steps steps;
  constexpr std::size_t kFlagBytes = std::size_t{kMostSteps} * kTiles * kFlagWords * 4;
  Buffer maps[2] = {Buffer(Buffer::Kind::kDevice), Buffer(Buffer::Kind::kDevice)};
  Buffer flags(Buffer::Kind::kDevice);
  flags.reserve(kFlagBytes);
  steps.flags = flags.as<uint32_t>();
  for (int i = 0; i < 2; ++i) {
    maps[i].reserve(kBytes);
    steps.maps[i] = maps[i].data();
  }
  const Queue queue{stream, true};

  struct Way {
    const char* name;
    bool persistent;
    Wait wait;
  };
  std::vector<uint8_t> expected[2];
  for (const Way& way : {Way{"kernels", false, {}}, Way{"flags of the tile", true, Wait::kRow},
                         Way{"flags of all tiles", true, Wait::kAll},
                         Way{"of all tiles at every fifth step", true, Wait::kAllOfFive}}) {
    double us[2];
    for (int i = 0; i < 2; ++i) {
      const int count = i == 0 ? kMostSteps / 4 : kMostSteps;
      Graph graph;
      graph.capture(stream, [&] {
        if (way.persistent) {
          check(cudaMemsetAsync(steps.flags, 0, kFlagBytes, stream), "clearing flags");
          steps.count = count;
          steps.wait = way.wait;
          launch<persistent_body, kThreads>({stream}, grid, kSharedBytes, steps);
        } else {
          for (int step = 0; step < count; ++step) {
            launch<step_body, kThreads>(queue, grid, kSharedBytes,
                                        Step{steps.maps[step % 2], steps.maps[(step + 1) % 2]});
          }
        }
      });
      std::vector<uint8_t> result;
      us[i] = time_us(stream, graph, steps.maps, &result);
      if (expected[i].empty()) expected[i] = result;
      if (result != expected[i]) {
        std::fprintf(stderr, "%s: other bytes than by kernels\n", way.name);
        return 1;
      }
    }
    std::printf("%-34s %.3f us a step\n", way.name,
                (us[1] - us[0]) / (kMostSteps - kMostSteps / 4));
  }
  return 0;
}

}  // namespace
}  // namespace rfseg::cuda

int main() {
  try {
    return rfseg::cuda::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
