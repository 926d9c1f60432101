#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/cpu/cpu_engine.h"
#include "engine/cpu/gemm.h"
#include "engine/cpu/memory.h"
#include "engine/cpu/thread_team.h"
#include "engine/golden.h"
#include "rfseg/error.h"

namespace rfseg::testing {
namespace {

using cpu::ThreadTeam;
using cpu::Workspace;

TEST(ThreadTeam, EveryTaskRunsOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    EXPECT_EQ(team.size(), threads);
    for (int tasks : {0, 1, 2, 3, 100}) {
      for (int repeat = 0; repeat < 200; ++repeat) {
        std::vector<int> runs(tasks, 0);
        std::atomic<bool> known_worker{true};
        team.run(tasks, [&](int task, int worker) {
          ++runs[task];
          if (worker < 0 || worker >= threads) known_worker = false;
        });
        EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), tasks);
        EXPECT_TRUE(known_worker);
      }
    }
  }
}

TEST(ThreadTeam, TheLowestTasksExceptionLeavesAndTheTeamGoesOn) {
  ThreadTeam team(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      team.run(20, [](int task, int) {
        if (task % 7 == 3) throw std::runtime_error(std::to_string(task));
      });
      ADD_FAILURE() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "3");
    }
    std::atomic<int> done{0};
    team.run(10, [&](int, int) { ++done; });
    EXPECT_EQ(done, 10);
  }
}

TEST(Workspace, BuffersThatLiveTogetherDoNotOverlap) {
  struct Life {
    int64_t count;
    int first, last;
  };
  const std::vector<Life> lives = {{1000, 0, 0}, {3000, 0, 0}, {500, 0, 1}, {700, 1, 3},
                                   {2500, 1, 2}, {10, 2, 2},   {1, 2, 3},   {4000, 3, 3}};
  std::vector<float*> at(lives.size());
  Workspace space;
  for (std::size_t i = 0; i < lives.size(); ++i) {
    space.plan(&at[i], lives[i].count, lives[i].first, lives[i].last);
  }
  space.allocate();
  for (std::size_t i = 0; i < lives.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(at[i]) % 64, 0u);
    for (std::size_t j = 0; j < i; ++j) {
      if (lives[i].last < lives[j].first || lives[j].last < lives[i].first) continue;
      EXPECT_TRUE(at[i] + lives[i].count <= at[j] || at[j] + lives[j].count <= at[i]) << i << j;
    }
  }
  // Stage 1 and 3 need the most, about 4700 floats; without sharing it would be 11711.
  EXPECT_LE(space.bytes(), sizeof(float) * 4700 * 5 / 4);
}

TEST(ForRows, CoversAllRowsInWholeTiles) {
  for (int threads : {1, 2, 7}) {
    ThreadTeam team(threads);
    std::vector<cpu::Worker> workers(threads);
    for (int rows : {1, 5, 6, 7, 100, 677, 2000}) {
      std::vector<int> seen(rows, 0);
      cpu::for_row_runs({cpu::plain_kernels(), team, workers}, rows, 6, 8,
                        [&](int first, int count, cpu::Worker&) {
                          EXPECT_EQ(first % 6, 0);
                          EXPECT_GT(count, 0);
                          EXPECT_LE(count, 48);
                          for (int r = 0; r < count; ++r) ++seen[first + r];
                        });
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), rows);
    }
  }
}

/// Every instruction set through whole networks, against the independent implementation.
TEST(CpuEngine, EveryInstructionSetMatchesTheGoldens) {
  const char* set = std::getenv("RFSEG_CPU_ISA");
  const std::string old = set ? set : "";
  int ran = 0;
  for (const char* isa : {"plain", "avx2", "avx512"}) {
    if (!cpu::find_kernels(isa)) continue;
    setenv("RFSEG_CPU_ISA", isa, 1);
    for (const char* name :
         {"custom-rectangle", "custom-two-levels", "custom-few-cells", "custom-patch16"}) {
      const Golden golden = load_golden(name);
      const auto engine = create_cpu_engine(golden.config, golden.weights(), 2);
      const Tensor input = golden.input();
      EngineOutputs out;
      engine->forward(input.data.data(), 1, out);
      for (GoldenPoint point : golden.points) {
        const Tensor* found = point.name == "boxes"    ? &out.boxes
                              : point.name == "logits" ? &out.logits
                              : point.name == "masks"  ? &out.masks
                                                       : nullptr;
        if (!found) continue;
        point.shape.insert(point.shape.begin(), 1);
        expect_matches(point, *found, 1e-5);
        ++ran;
      }
    }
  }
  EXPECT_GE(ran, 8);
  old.empty() ? unsetenv("RFSEG_CPU_ISA") : setenv("RFSEG_CPU_ISA", old.c_str(), 1);
}

TEST(CpuEngine, ResultsDoNotDependOnTheNumberOfThreads) {
  const Golden golden = load_golden("custom-two-levels");
  const Tensor input = hash_input(golden.config, 3, 5);
  EngineOutputs first;
  for (int threads : {1, 2, 3, 16}) {  // 16: pictures of a batch go through in groups
    const auto engine = create_cpu_engine(golden.config, golden.weights(), threads);
    EngineOutputs out;
    engine->forward(input.data.data(), 3, out);
    if (threads == 1) first = out;
    EXPECT_EQ(out.boxes.data, first.boxes.data) << threads;
    EXPECT_EQ(out.logits.data, first.logits.data) << threads;
    EXPECT_EQ(out.masks.data, first.masks.data) << threads;
  }
}

TEST(CpuEngine, RefusesWidthsThatAreNotWholeVectors) {
  const Golden golden = load_golden("custom-rectangle");
  ModelConfig config = golden.config;
  config.ca_heads = config.dim / 8;
  try {
    create_cpu_engine(config, golden.weights(), 1);
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kModel);
    EXPECT_NE(std::string(error.what()).find("reference backend"), std::string::npos);
  }
}

}  // namespace
}  // namespace rfseg::testing
