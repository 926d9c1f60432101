#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/statistics.h"
#include "engine/cuda/cuda_engine.h"
#include "pipeline/loaded_model.h"

namespace rfseg::cli {

/// Times of one way to run, over the rounds.
struct VideoRow {
  std::string name;
  std::vector<double> rates;  ///< frames a second, after the first tenth
  double start_ms = 0;        ///< to the first result, in the last round
  double rate() const;        ///< their median
};

/// When the GPU had nothing to do in one way to run.
struct VideoTrace {
  std::string name;
  Distribution gaps_us;
  double idle_share = 0;
};

/// What was measured with one size of the clip.
struct VideoSizeResults {
  int width = 0, height = 0;
  std::string file;
  int64_t frames = 0;
  std::size_t gated = 0;  ///< ways whose bytes were compared
  bool nvdec = false;     ///< the GPU's decoder takes the clip
  std::vector<VideoRow> rows;
  std::vector<VideoTrace> traces;
  double copy = 0, network = 0;  ///< us
  Distribution latency;          ///< us, at depth 1 from pinned memory

  VideoRow& row(const std::string& name);      ///< made where there is none
  double rate(const std::string& name) const;  ///< 0 where there is none
};

/// What holds for all sizes.
struct VideoBenchFacts {
  const LoadedModel* model = nullptr;
  const CudaEngine* cuda = nullptr;  ///< of the model; null on the CPU
  uint64_t clock_step_ns = 0;        ///< of the GPU
  int threads = 0, depth = 2, rounds = 1;
};

nlohmann::json video_json(const VideoBenchFacts& facts,
                          const std::vector<VideoSizeResults>& results);
std::string video_table(const VideoBenchFacts& facts, const std::vector<VideoSizeResults>& results);

}  // namespace rfseg::cli
