#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/run_pair.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "core/npy.h"
#include "core/statistics.h"
#include "eval/parity.h"
#include "media/image_io.h"
#include "pipeline/ablation.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

struct AblateArguments {
  std::vector<std::string> folders;
  std::string device = "cuda", model, image, queries = "100,300", image_size = "720x1280", save;
  int survivors = 25, rounds = 50, warmup = 5, max_cases = 3;
  bool json = false;
};

constexpr int kMostQueries = 4096, kMostSide = 16384;

/// What was done in several ways.
struct Group {
  std::string name;
  std::vector<AblationRow> rows;
};

class Ablate {
 public:
  explicit Ablate(const AblateArguments& arguments) : arguments_(arguments) {}

  void run(int& exit_code) {
    queries_ = parse_counts(arguments_.queries, "--queries", "100,300", kMostQueries);
    size_ = parse_size(arguments_.image_size, "--image-size", kMostSide);
    ModelOptions device;
    device.device = arguments_.device;
    device.backend = Backend::kCuda;
    options_.device = choose_device(device).cuda_device;
    options_.warmup = arguments_.warmup;
    options_.rounds = arguments_.rounds;
    Progress progress("calls");
    options_.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
    postprocess_groups();
    if (!arguments_.model.empty()) network_group();
    progress.clear();
    for (const Group& group : groups_) {
      for (const AblationRow& row : group.rows) {
        if (!row.difference) continue;
        log_message(LogLevel::kError,
                    fmt::format("{}, {}: {}", group.name, row.name, *row.difference));
        exit_code = static_cast<int>(ErrorCode::kPartial);
      }
    }
    arguments_.json ? print_json() : print_tables();
  }

 private:
  void postprocess_groups() {
    std::vector<RecordedCase> cases;
    for (const std::string& folder : arguments_.folders) {
      for (const CaseEntry& entry : read_manifest(folder).cases) {
        const bool usable = entry.stage == CaseEntry::Stage::kPostprocess &&
                            entry.postprocess.like != Convention::kInference;
        if (!usable || cases.size() == static_cast<std::size_t>(arguments_.max_cases)) continue;
        cases.push_back(read_case(folder, entry));
      }
    }
    if (arguments_.folders.empty()) {
      for (const int queries : queries_) {
        cases.push_back(ablation_scene(queries, arguments_.survivors, size_.first, size_.second));
        if (!arguments_.save.empty()) save(cases.back(), queries);
      }
    }
    if (cases.empty()) {
      throw Error(ErrorCode::kInput,
                  "ablate: the folders hold no case of post-processing by a convention other than "
                  "'inference'");
    }
    for (const RecordedCase& recorded : cases) {
      groups_.push_back({fmt::format("post-processing, {} ({} detections)", recorded.entry.name,
                                     recorded.entry.expected.items.size()),
                         ablate_postprocess(recorded, options_)});
    }
  }

  /// As the benchmarks' case folders are.
  void save(const RecordedCase& scene, int queries) const {
    const std::string folder = fmt::format("{}/{}/case", arguments_.save, queries);
    create_folder(folder);
    const auto write = [&](const char* name, const Tensor& tensor) {
      Shape shape = tensor.shape;
      shape.insert(shape.begin(), 1);
      write_npy(folder + "/" + name + ".npy", tensor.data.data(), shape);
    };
    write("boxes", scene.boxes);
    write("logits", scene.logits);
    write("masks", scene.masks);
  }

  void network_group() {
    ModelOptions on_cpu;
    on_cpu.device = "cpu";
    on_cpu.backend = Backend::kCpu;
    LoadedModel reference;
    load_model(arguments_.model, on_cpu, reference);
    const ModelConfig& config = reference.config;
    PredictOptions predict;
    if (!config.seg) predict.masks = MaskFormat::kNone;
    const ResolvedOptions resolved = resolve_options(predict, config);
    const Image picture = decode_image(arguments_.image);
    AlignedVector<float> input(std::size_t{3} * config.height * config.width);
    PostprocessSpec spec = resolved.postprocess;
    spec.geometry = preprocess(picture.view(), resolved.preprocess, input.data());
    EngineOutputs outputs;
    reference.engine->forward(input.data(), 1, outputs);
    PostprocessSpec on_host = spec;
    on_host.backend = Backend::kCpu;
    const Detections expected = postprocess(network_outputs(outputs, 0), on_host);
    if (expected.items.empty()) {
      throw Error(ErrorCode::kInput,
                  fmt::format("{}: the model finds nothing in it, so no answer could be compared; "
                              "--image takes another picture",
                              arguments_.image));
    }
    const Checkpoint checkpoint =
        open_checkpoint(resolve_model_path(arguments_.model), ModelOptions{});
    Group group{fmt::format("network, {} on {} ({} detections)", config.variant, arguments_.image,
                            expected.items.size()),
                ablate_network(config, *checkpoint.weights, input.data(), spec, options_)};
    groups_.push_back(std::move(group));
    groups_.push_back(
        {fmt::format("frame, {} of {}x{}", arguments_.image, picture.height, picture.width),
         ablate_frame(config, *checkpoint.weights, picture.view(), resolved, options_)});
    for (std::size_t i = groups_.size() - 2; i < groups_.size(); ++i) {
      for (AblationRow& row : groups_[i].rows) {
        row.difference = judge(expected, row.answer, resolved);
      }
    }
  }

  /// By the bounds that fp16 is held to everywhere.
  std::optional<std::string> judge(const Detections& expected, const Detections& answer,
                                   const ResolvedOptions& resolved) const {
    const auto run_of = [&](const char* name, const Detections& detections) {
      RunResults run;
      run.name = name;
      run.pictures.push_back(
          to_run_picture({arguments_.image, {}, {}, detections, {}}, resolved.class_names));
      return run;
    };
    ParityOptions options;
    options.threshold = resolved.postprocess.threshold;
    const ParityReport report =
        compare_runs(run_of("cpu", expected), run_of("cuda", answer), options);
    ParityBounds bounds;
    bounds.max_box_px = 0.5 * std::max(1.0, std::max(expected.width, expected.height) / 640.0);
    bounds.max_score = 0.01;
    bounds.min_mask_iou = 0.97;
    bounds.min_mean_iou = 0.99;
    bounds.max_unmatched = 0;
    // Small masks alone say nothing by their IoU.
    if (report.mask_iou.count == 0) bounds.min_mask_iou = bounds.min_mean_iou = std::nullopt;
    const std::vector<std::string> lines = violations(report, bounds);
    if (report.matched == 0) return "no detection is matched";
    return lines.empty() ? std::nullopt : std::optional(lines[0]);
  }

  void print_tables() const {
    std::string text;
    for (const Group& group : groups_) {
      text += fmt::format("{}, {} rounds, all ways in turn\n", group.name, arguments_.rounds);
      text += fmt::format("  {:<54} {:>9} {:>9} {:>9} {:>8} {:>8} {:>6} {:>12}\n", "", "p50 ms",
                          "p90", "p99", "kernels", "launches", "waits", "bytes back");
      for (const AblationRow& row : group.rows) {
        const Distribution d = Distribution::of(row.ms);
        text += fmt::format("  {:<54} ", row.name);
        text += row.difference ? fmt::format("{:>29}", "answer differs, no time")
                               : fmt::format("{:>9.4f} {:>9.4f} {:>9.4f}", d.p50, d.p90, d.p99);
        text += fmt::format(" {:>8} {:>8} {:>6} {:>12}\n", row.kernels, row.launches,
                            row.synchronisations, row.bytes_to_host);
      }
    }
    std::fputs(text.c_str(), stdout);
  }

  void print_json() const {
    nlohmann::json all = nlohmann::json::array();
    for (const Group& group : groups_) {
      nlohmann::json rows = nlohmann::json::array();
      for (const AblationRow& row : group.rows) {
        nlohmann::json one = {{"name", row.name},
                              {"equal", !row.difference},
                              {"kernels", row.kernels},
                              {"launches", row.launches},
                              {"synchronisations", row.synchronisations},
                              {"bytes_to_host", row.bytes_to_host}};
        if (!row.precision.empty()) one["precision"] = row.precision;
        if (row.difference) {
          one["difference"] = *row.difference;
        } else {
          const Distribution d = Distribution::of(row.ms);
          one["ms"] = {{"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90},
                       {"p99", d.p99},   {"min", d.min}, {"max", d.max}};
        }
        rows.push_back(std::move(one));
      }
      all.push_back({{"name", group.name}, {"rows", std::move(rows)}});
    }
    std::fputs(
        (nlohmann::json{{"rounds", arguments_.rounds}, {"groups", std::move(all)}}.dump() + "\n")
            .c_str(),
        stdout);
  }

  const AblateArguments& arguments_;
  AblationOptions options_;
  std::vector<int> queries_;
  std::pair<int, int> size_;
  std::vector<Group> groups_;
};

}  // namespace

void add_ablate(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<AblateArguments>();
  CLI::App* verb = app.add_subcommand(
      "ablate", "Do one piece of work in several ways on a GPU: what does each step gain?");
  verb->add_option("folders", arguments->folders,
                   "Recorded cases (capture); without any, scenes are generated")
      ->type_name("DIR");
  verb->add_option("--device", arguments->device, "cuda[:N]")
      ->type_name("DEVICE")
      ->capture_default_str();
  verb->add_option("-m,--model", arguments->model, "Do the same for the network of this model")
      ->type_name("MODEL");
  verb->add_option("--image", arguments->image, "The network's picture")->type_name("FILE");
  verb->add_option("--queries", arguments->queries, "Queries of the generated scenes")
      ->type_name("N,...")
      ->capture_default_str();
  add_integer(*verb, "--survivors", 1, kMostQueries, arguments->survivors,
              "Detections in each (25)");
  verb->add_option("--image-size", arguments->image_size, "Their picture, HxW")
      ->type_name("HxW")
      ->capture_default_str();
  verb->add_option("--save", arguments->save,
                   "Write the generated scenes to DIR/QUERIES/case, for other programs")
      ->type_name("DIR");
  add_integer(*verb, "--max-cases", 1, 1000000, arguments->max_cases, "The first N cases (3)");
  add_integer(*verb, "--rounds", 1, 100000, arguments->rounds, "Timed calls of each way (50)");
  add_integer(*verb, "--warmup", 0, 100000, arguments->warmup, "Calls before them (5)");
  verb->add_flag("--json", arguments->json, "The result as one JSON object");
  verb->footer(
      "Example: rfseg ablate -m model.pth --image photo.jpg --queries 100,300\n"
      "Every way's answer is compared first, post-processing bit by bit with the reference\n"
      "implementation, the network with the CPU's detections; one that differs gets no time, and\n"
      "the exit code is 1.");
  verb->callback([arguments, verb, &exit_code] {
    if (arguments->model.empty() != arguments->image.empty()) {
      throw Error(ErrorCode::kUsage, "ablate: --model and --image belong together");
    }
    if (arguments->folders.empty()) {
      refuse_options(*verb, {"--max-cases"}, "needs folders of recorded cases");
    } else {
      refuse_options(*verb, {"--queries", "--survivors", "--image-size", "--save"},
                     "says how scenes are generated; with folders none are");
    }
    Ablate(*arguments).run(exit_code);
  });
}

}  // namespace rfseg::cli
