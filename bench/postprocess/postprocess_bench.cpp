// From raw network outputs to detections with COCO run-length bytes, one thread.
//
// Scenes are generated (ellipses with noise, 78x78 cells), or read from RFSEG_POST_CASES: folders
// of case folders, separated by ':', each case with boxes.npy [1,Q,4], logits.npy [1,Q,K] and
// masks.npy [1,Q,rows,columns]. One iteration is one scene, in turn; beside each time stand the
// means of survivors, runs and bytes. Medians: --benchmark_repetitions=11
// --benchmark_report_aggregates_only.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/coco_rle.h"
#include "core/npy.h"
#include "postprocess/backends.h"

namespace rfseg {
namespace {

struct Scene {
  Tensor boxes, logits, masks;

  NetworkOutputs view() const {
    NetworkOutputs outputs;
    outputs.boxes = boxes.data.data();
    outputs.logits = logits.data.data();
    outputs.masks = masks.data.data();
    outputs.queries = static_cast<int>(boxes.dim(1));
    outputs.classes = static_cast<int>(logits.dim(2));
    outputs.mask_rows = static_cast<int>(masks.dim(2));
    outputs.mask_cols = static_cast<int>(masks.dim(3));
    return outputs;
  }
};
using Scenes = std::vector<Scene>;

std::shared_ptr<Scenes> generated(int count, int survivors, int queries, int grid) {
  constexpr int kClasses = 91;
  std::mt19937 random(7);
  const auto uniform = [&](double low, double high) {
    return static_cast<float>(low + (high - low) * static_cast<double>(random()) / 4294967296.0);
  };
  auto scenes = std::make_shared<Scenes>();
  for (int s = 0; s < count; ++s) {
    Scene scene{Tensor({1, queries, 4}), Tensor({1, queries, kClasses}),
                Tensor({1, queries, grid, grid})};
    for (float& v : scene.boxes.data) v = uniform(0.1, 0.6);
    for (float& v : scene.logits.data) v = uniform(-9, -5);
    for (int q = 0; q < queries; ++q) {
      if (q < survivors) {
        scene.logits.data[static_cast<std::size_t>(q) * kClasses + q % kClasses] = uniform(2, 4);
      }
      const float cy = uniform(0.1, 0.9) * static_cast<float>(grid);
      const float cx = uniform(0.1, 0.9) * static_cast<float>(grid);
      const float ry = uniform(0.03, 0.25) * static_cast<float>(grid);
      const float rx = uniform(0.03, 0.25) * static_cast<float>(grid);
      float* mask = scene.masks.data.data() + static_cast<std::size_t>(q) * grid * grid;
      for (int row = 0; row < grid; ++row) {
        for (int column = 0; column < grid; ++column) {
          const float dy = (static_cast<float>(row) - cy) / ry;
          const float dx = (static_cast<float>(column) - cx) / rx;
          *mask++ = std::max(6 * (1 - dy * dy - dx * dx), -14.0f) + uniform(-0.3, 0.3);
        }
      }
    }
    scenes->push_back(std::move(scene));
  }
  return scenes;
}

std::shared_ptr<Scenes> read_cases(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (std::filesystem::exists(entry.path() / "masks.npy")) names.push_back(entry.path());
  }
  std::sort(names.begin(), names.end());
  auto scenes = std::make_shared<Scenes>();
  for (const auto& name : names) {
    scenes->push_back({read_npy(name / "boxes.npy"), read_npy(name / "logits.npy"),
                       read_npy(name / "masks.npy")});
  }
  return scenes;
}

struct Setting {
  int height, width;
  Convention like = Convention::kRfdetr;
  const Isa* isa = nullptr;  ///< null: the reference backend
  MaskFormat masks = MaskFormat::kRle;
};

void measure(benchmark::State& state, const Scenes& scenes, const Setting& setting) {
  PostprocessSpec spec;
  spec.like = setting.like;
  if (setting.like == Convention::kRfdetrEval) spec.threshold = -1;
  spec.masks = setting.masks;
  const NetworkOutputs first = scenes[0].view();
  spec.num_select = setting.like == Convention::kInference ? first.queries : 300;
  spec.geometry = PreprocessGeometry::stretch(setting.height, setting.width, first.mask_rows * 4,
                                              first.mask_cols * 4);
  spec.backend = Backend::kReference;
  const auto run = [&](const Scene& scene) {
    return setting.isa == nullptr ? postprocess(scene.view(), spec)
                                  : postprocess_with(scene.view(), spec, *setting.isa);
  };
  std::size_t survivors = 0, runs = 0, bytes = 0;
  for (const Scene& scene : scenes) {
    for (const Detection& item : run(scene).items) {
      ++survivors;
      if (item.mask == nullptr) continue;
      const Rle rle = rle_from_string(item.mask->counts, setting.height, setting.width);
      runs += rle.counts.size() / 2;  // of foreground
      bytes += item.mask->counts.size();
    }
  }
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(run(scenes[next]));
    next = next + 1 == scenes.size() ? 0 : next + 1;
  }
  const double n = static_cast<double>(scenes.size());
  state.counters["survivors"] = static_cast<double>(survivors) / n;
  state.counters["runs"] = static_cast<double>(runs) / n;
  state.counters["bytes"] = static_cast<double>(bytes) / n;
}

void add(const std::string& name, const std::shared_ptr<Scenes>& scenes, Setting setting) {
  benchmark::RegisterBenchmark(name.c_str(), [scenes, setting](benchmark::State& state) {
    measure(state, *scenes, setting);
  })->Unit(benchmark::kMicrosecond);
}

void add_all(const std::string& source, const std::shared_ptr<Scenes>& scenes) {
  const struct {
    const char* name;
    int height, width;
  } sizes[] = {
      {"640x480", 480, 640}, {"720p", 720, 1280}, {"1080p", 1080, 1920}, {"4K", 2160, 3840}};
  for (const auto& size : sizes) {
    for (const Isa& isa : kAllIsas) {
      if (!isa_supported(isa)) continue;
      const std::string name = source + "/" + size.name + "/" + kernels_for(isa).name;
      add(name, scenes, {size.height, size.width, Convention::kRfdetr, &isa});
    }
  }
  const Isa* best = &kAllIsas[static_cast<int>(best_isa())];
  add(source + "/1080p/inference", scenes, {1080, 1920, Convention::kInference, best});
  add(source + "/1080p/eval", scenes, {1080, 1920, Convention::kRfdetrEval, best});
  add(source + "/1080p/boxes", scenes, {1080, 1920, Convention::kRfdetr, best, MaskFormat::kNone});
  add(source + "/1080p/reference", scenes, {1080, 1920, Convention::kRfdetr, nullptr});
}

[[maybe_unused]] const bool registered = [] {
  add_all("generated_10", generated(20, 10, 100, 78));
  add_all("generated_60", generated(10, 60, 100, 78));
  const char* folders = std::getenv("RFSEG_POST_CASES");
  for (std::string rest = folders == nullptr ? "" : folders; !rest.empty();) {
    const std::size_t colon = rest.find(':');
    const std::filesystem::path folder = rest.substr(0, colon);
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
    add_all(folder.filename().string(), read_cases(folder));
  }
  return true;
}();

}  // namespace
}  // namespace rfseg
