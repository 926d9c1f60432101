// Addresses and checksums of the official weights. Source: rfdetr 1.11.2 (assets/model_weights) and
// rf-detr_plus 1.1.0.

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>

#include "checkpoint/checkpoint.h"
#include "checkpoint/download.h"
#include "core/nearest_word.h"
#include "rfseg/error.h"

namespace rfseg {

const std::vector<WeightsRelease>& weights_releases() {
  static const std::vector<WeightsRelease> releases = {
      {"nano", "rf-detr-nano.pth", "nano_coco/checkpoint_best_regular.pth",
       "fb6504cce7fbdc783f7a46991f07639f", "Apache-2.0"},
      {"small", "rf-detr-small.pth", "small_coco/checkpoint_best_regular.pth",
       "fb37061c1af7bace359c91b723a8d5c1", "Apache-2.0"},
      {"medium", "rf-detr-medium.pth", "medium_coco/checkpoint_best_regular.pth",
       "7223f764a87b863f02eb8d52bf0ce2ee", "Apache-2.0"},
      {"base", "rf-detr-base.pth", "rf-detr-base-coco.pth", "b4d3ce46099eaed50626ede388caf979",
       "Apache-2.0"},
      {"large", "rf-detr-large-2026.pth", "rf-detr-large-2026.pth",
       "5cb72153541cbcb9aa6efa26222acc75", "Apache-2.0"},
      {"large-deprecated", "rf-detr-large.pth", "rf-detr-large.pth",
       "992c8e862aa733a7bb2777e45d49f1a0", "Apache-2.0"},
      {"xlarge", "rf-detr-xlarge.pth", "platform-licensed/rf-detr-xlarge.pth",
       "6ddf834f2bc5bed3214a82f9b0aaeed7", "PML-1.0"},
      {"2xlarge", "rf-detr-xxlarge.pth", "platform-licensed/rf-detr-xxlarge.pth",
       "e3204689c1f0280427e4c33e6a2ac6cd", "PML-1.0"},
      {"seg-preview", "rf-detr-seg-preview.pt", "rf-detr-seg-preview.pt",
       "e35820c28fb86080558123e47a5e49ca", "Apache-2.0"},
      {"seg-nano", "rf-detr-seg-nano.pt", "rf-detr-seg-n-ft.pth",
       "9995497791d0ff1664a1d9ddee9cfd20", "Apache-2.0"},
      {"seg-small", "rf-detr-seg-small.pt", "rf-detr-seg-s-ft.pth",
       "0a2a3006381d0c42853907e700eadd08", "Apache-2.0"},
      {"seg-medium", "rf-detr-seg-medium.pt", "rf-detr-seg-m-ft.pth",
       "a49af1562c3719227ad43d0ca53b4c7a", "Apache-2.0"},
      {"seg-large", "rf-detr-seg-large.pt", "rf-detr-seg-l-ft.pth",
       "275f7b094909544ed2841c94a677d07e", "Apache-2.0"},
      {"seg-xlarge", "rf-detr-seg-xlarge.pt", "rf-detr-seg-xl-ft.pth",
       "3693b35d0eea86ebb3e0444f4a611fba", "Apache-2.0"},
      {"seg-2xlarge", "rf-detr-seg-xxlarge.pt", "rf-detr-seg-2xl-ft.pth",
       "040bc3412af840fa8a47e0ff69b552ba", "Apache-2.0"},
  };
  return releases;
}

const WeightsRelease& weights_release(const std::string& variant) {
  for (const WeightsRelease& release : weights_releases()) {
    if (release.variant == variant) return release;
  }
  throw Error(ErrorCode::kUsage, fmt::format("unknown variant '{}'{}; accepted: {}", variant,
                                             did_you_mean(variant, stock_variants()),
                                             fmt::join(stock_variants(), ", ")));
}

std::string weights_folder() {
  for (const char* name : {"RF_HOME", "ROBOFLOW_HOME"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    throw Error(ErrorCode::kUsage,
                "no place for downloaded weights: set RF_HOME (or HOME), or name a file");
  }
  return std::string(home) + "/.roboflow/models";
}

std::optional<std::string> find_downloaded(const std::string& variant) {
  const std::string path = weights_folder() + "/" + weights_release(variant).file_name;
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return path;
}

}  // namespace rfseg
