#pragma once

#include <string>
#include <vector>

#include "cli/common.h"

namespace rfseg::cli {

struct VideoBenchArguments {
  std::vector<std::string> files;
  std::vector<std::string> read_files;  // by options
  std::string sizes = "312x176,1280x720,1920x1080";
  int frames = 600, depth = 2, rounds = 3, streams = 0;
  bool json = false;
};

/// `rfseg bench --video`. Throws Error(kInput) where the modes compared do not give the same bytes;
/// no speed is printed then.
void run_video_bench(const CommonOptions& common, const PredictOptions& predict,
                     const VideoBenchArguments& arguments);

}  // namespace rfseg::cli
