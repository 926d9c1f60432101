#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/file_claims.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "cli/verbs/bench_kernels.h"
#include "cli/verbs/bench_video.h"
#include "core/files.h"
#include "engine/cuda/cuda_engine.h"
#include "media/image_io.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"
#include "preprocess/preprocess.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

constexpr int kMaxSide = 16384;

struct BenchArguments {
  CommonOptions common;
  PredictOptions predict;
  std::string batches = "1", image_size = "1080x1920", image;
  int rounds = 20, warmup = 3;
  std::vector<std::string> read_files;  // by options
  bool json = false, kernels = false;
  VideoBenchArguments video;
};

struct Timing {
  std::string name;
  int batch = 1;
  int launches = 0;             // of kernels on a GPU, a call
  std::vector<double> samples;  // milliseconds a call

  double percentile(double p) const {
    std::vector<double> sorted = samples;
    std::sort(sorted.begin(), sorted.end());
    const double at = p * static_cast<double>(sorted.size() - 1);
    const auto low = static_cast<std::size_t>(at);
    const std::size_t high = std::min(low + 1, sorted.size() - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
  }
};

std::vector<int> parse_batches(const std::string& text) {
  return parse_counts(text, "--batch", "1,8,32", 1024);
}

// A picture with structure at every scale, so that the codecs and the network do real work.
Image synthetic_picture(int height, int width) {
  Image image(width, height);
  uint32_t state = 12345;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      state = state * 1664525u + 1013904223u;
      const double wave =
          std::sin(x * 0.02) * std::cos(y * 0.03) * 60 + std::sin((x + y) * 0.2) * 20;
      const int noise = static_cast<int>(state >> 28);
      uint8_t* pixel = image.pixels.data() + (static_cast<std::size_t>(y) * width + x) * 3;
      for (int c = 0; c < 3; ++c) {
        pixel[c] =
            static_cast<uint8_t>(std::clamp(110.0 + wave * (1 + 0.3 * c) + noise, 0.0, 255.0));
      }
    }
  }
  return image;
}

class Bench {
 public:
  explicit Bench(const BenchArguments& arguments) : arguments_(arguments), progress_("rounds") {}

  void run() {
    claims_.read(arguments_.image);
    claims_.read(arguments_.read_files);
    claims_.read_model(arguments_.common.model);
    claims_.write("the table", "-");
    claims_.write("--stats", arguments_.common.stats);
    if (!arguments_.common.stats.empty()) stats_.emplace(output_path(arguments_.common.stats));
    load_model(arguments_.common.model, arguments_.common.resolved(), model_);
    check_class_count(arguments_.predict.class_names.size(), model_.config.logits);
    const ResolvedOptions resolved = resolve_options(arguments_.predict, model_.config);
    Image picture;
    if (arguments_.image.empty()) {
      const auto [height, width] = parse_size(arguments_.image_size, "--image-size", kMaxSide);
      picture = synthetic_picture(height, width);
    } else {
      picture = decode_image(arguments_.image);
    }
    picture_size_ = fmt::format("{}x{}", picture.height, picture.width);
    const std::vector<uint8_t> jpeg = as_jpeg(picture);
    const std::size_t plane = std::size_t{3} * model_.config.height * model_.config.width;
    AlignedVector<float> input(plane);

    Image decoded;
    const auto decode = [&] { decoded = decode_image(jpeg.data(), jpeg.size(), "jpeg"); };
    PreprocessGeometry geometry;
    const auto resize = [&] {
      geometry = preprocess(decoded.view(), resolved.preprocess, input.data());
    };
    EngineOutputs outputs;
    const auto network = [&] { model_.engine->forward(input.data(), 1, outputs); };
    Detections detections;
    const auto finish = [&] {
      PostprocessSpec spec = resolved.postprocess;
      spec.geometry = geometry;
      detections = postprocess(network_outputs(outputs, 0), spec);
    };
    const std::vector<int> batches = parse_batches(arguments_.batches);
    total_ = static_cast<int64_t>(5 + batches.size()) * (arguments_.rounds + arguments_.warmup);
    measure("decode", 1, decode);
    measure("preprocess", 1, resize);
    for (const int batch : batches) {
      AlignedVector<float> repeated(plane * static_cast<std::size_t>(batch));
      for (int i = 0; i < batch; ++i)
        std::copy(input.begin(), input.end(),
                  repeated.begin() + static_cast<std::ptrdiff_t>(plane) * i);
      EngineOutputs batch_outputs;
      measure("network", batch,
              [&] { model_.engine->forward(repeated.data(), batch, batch_outputs); });
    }
    network();
    measure("postprocess", 1, finish);
    measure("whole", 1, [&] {
      decode();
      resize();
      network();
      finish();
    });
    progress_.clear();
    detections_ = detections.items.size();
    print();
  }

 private:
  // What decoding is timed on.
  std::vector<uint8_t> as_jpeg(const Image& picture) const {
    try {
      return encode_jpeg(picture.view(), 90);
    } catch (const Error& error) {
      if (arguments_.image.empty()) throw;
      throw Error(ErrorCode::kInput, fmt::format("{}: {}", arguments_.image, error.what()));
    }
  }

  void measure(const char* name, int batch, const std::function<void()>& work) {
    Timing timing{name, batch, 0, {}};
    for (int i = 0; i < arguments_.warmup + arguments_.rounds; ++i) {
      const auto start = std::chrono::steady_clock::now();
      work();
      const auto end = std::chrono::steady_clock::now();
      if (i >= arguments_.warmup) {
        timing.samples.push_back(std::chrono::duration<double, std::milli>(end - start).count());
      }
      progress_.update(++done_, total_);
    }
    const auto* gpu = dynamic_cast<const CudaEngine*>(model_.engine.get());
    if (gpu != nullptr && std::string_view(name) == "network")
      timing.launches = gpu->launches(batch);
    timings_.push_back(std::move(timing));
  }

  nlohmann::json to_json() const {
    nlohmann::json json = runtime_json(model_.info, arguments_.common.model_options.threads);
    json["model"] = model_.info.variant;
    json["image_size"] = picture_size_;
    json["rounds"] = arguments_.rounds;
    json["load_ms"] = model_.open_ms + model_.pack_ms;
    json["engine_memory_bytes"] = model_.info.memory_bytes;
    json["peak_rss_bytes"] = peak_rss_bytes();
    json["detections"] = detections_;
    json["stages"] = nlohmann::json::array();
    for (const Timing& timing : timings_) {
      const double median = timing.percentile(0.5);
      json["stages"].push_back({{"name", timing.name},
                                {"batch", timing.batch},
                                {"median_ms", median},
                                {"p90_ms", timing.percentile(0.9)},
                                {"p99_ms", timing.percentile(0.99)},
                                {"images_per_s", 1000.0 * timing.batch / median},
                                {"launches", timing.launches}});
    }
    return json;
  }

  void print() {
    const nlohmann::json json = to_json();
    std::fputs((arguments_.json ? json.dump() + "\n" : table(json)).c_str(), stdout);
    if (!stats_) return;
    stats_->write(json.dump(2) + "\n");
    stats_->commit();
  }

  std::string table(const nlohmann::json& json) const {
    std::string text = fmt::format(
        "{} on {} ({}, {} threads), picture {}, {} rounds\nload {:.0f} ms, engine {:.0f} MB, peak "
        "memory {:.0f} MB, {} detections\n",
        model_.info.variant, json["device"].get<std::string>(), model_.info.backend,
        json["threads"].get<int>(), picture_size_, arguments_.rounds, json["load_ms"].get<double>(),
        static_cast<double>(model_.info.memory_bytes) / 1e6,
        static_cast<double>(peak_rss_bytes()) / 1e6, detections_);
    text += fmt::format("{:<12} {:>5} {:>11} {:>9} {:>9} {:>10}\n", "stage", "batch", "median ms",
                        "p90", "p99", "images/s");
    for (const Timing& timing : timings_) {
      text += fmt::format("{:<12} {:>5} {:>11.3f} {:>9.3f} {:>9.3f} {:>10.1f}\n", timing.name,
                          timing.batch, timing.percentile(0.5), timing.percentile(0.9),
                          timing.percentile(0.99), 1000.0 * timing.batch / timing.percentile(0.5));
    }
    return text;
  }

  const BenchArguments& arguments_;
  FileClaims claims_;
  std::optional<OutputFile> stats_;
  LoadedModel model_;
  Progress progress_;
  int64_t done_ = 0, total_ = 0;
  std::vector<Timing> timings_;
  std::string picture_size_;
  std::size_t detections_ = 0;
};

}  // namespace

void add_bench(CLI::App& app) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* verb = app.add_subcommand("bench", "Time every stage of a model on this machine");
  add_model_options(*verb, arguments->common);
  verb->add_option("--batch", arguments->batches, "Batch sizes of the network, such as 1,8,32")
      ->type_name("N,...")
      ->capture_default_str();
  verb->add_option("--image-size", arguments->image_size, "Synthetic picture, HxW")
      ->type_name("HxW")
      ->capture_default_str();
  verb->add_option("--image", arguments->image, "A real picture instead")->type_name("FILE");
  add_integer(*verb, "--rounds", 1, 100000, arguments->rounds,
              "Timed calls of each stage, with --video runs of each way (20)");
  add_integer(*verb, "--warmup", 0, 100000, arguments->warmup, "Calls before them (3)");
  add_convention_options(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  verb->add_flag("--json", arguments->json, "Results as one JSON object on stdout");
  verb->add_flag("--kernels", arguments->kernels,
                 "Instead: each kind of step of the network on a GPU, for each batch size, beside "
                 "the device's peak and cuBLASLt");
  VideoBenchArguments& video = arguments->video;
  verb->add_option(
          "--video", video.files,
          "Instead: the pipeline over this clip, scaled to each size; one of several clips "
          "that has a size is taken as it is")
      ->type_name("FILE");
  verb->add_option("--video-sizes", video.sizes, "WxH, separated by commas")
      ->type_name("WxH,...")
      ->capture_default_str();
  add_integer(*verb, "--video-frames", 20, 1000000, video.frames,
              "--video: frames of a run, at least (600)");
  add_integer(*verb, "--video-streams", 0, 64, video.streams,
              "--video: also so many files at once (0)");
  add_integer(*verb, "--depth", 2, 64, video.depth, "--video: batches in flight (2)");
  verb->footer("Example: rfseg bench -m model.pth --batch 1,8 --image-size 1080x1920");
  verb->callback([arguments, verb] {
    refuse_beside(*verb, {"--kernels", "--image", "--image-size", "--batch", "--warmup"},
                  "--video");
    refuse_beside(*verb,
                  {"--image", "--image-size", "--rounds", "--warmup", "--stats", "--like",
                   "--resize", "--threshold", "--class-threshold", "--max-detections",
                   "--num-select", "--classes", "--keep", "--drop"},
                  "--kernels");
    refuse_beside(*verb, {"--image-size"}, "--image");
    if (arguments->video.files.empty()) {
      refuse_options(*verb, {"--video-sizes", "--video-frames", "--video-streams", "--depth"},
                     "needs --video FILE");
    }
    if (!arguments->video.files.empty()) {
      arguments->video.json = arguments->json;
      arguments->video.read_files = arguments->read_files;
      arguments->video.rounds = std::min(arguments->rounds, 1000);
      run_video_bench(arguments->common, arguments->predict, arguments->video);
    } else if (arguments->kernels) {
      bench_kernels(arguments->common.model, arguments->common.resolved(),
                    parse_batches(arguments->batches), arguments->json);
    } else {
      Bench(*arguments).run();
    }
  });
}

}  // namespace rfseg::cli
