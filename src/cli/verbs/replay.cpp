#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "core/statistics.h"
#include "pipeline/cases.h"
#include "pipeline/cuda_case_timer.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace rfseg::cli {
namespace {

using Stage = CaseEntry::Stage;

struct ReplayArguments {
  std::vector<std::string> folders;
  ModelOptions model_options;
  CaseTolerance tolerance;
  std::string stage = "both";
  int warmup = 3, repeats = 20, max_cases = 1000000;
  bool json = false;
};

const char* stage_name(Stage stage) {
  return stage == Stage::kPreprocess ? "preprocess" : "postprocess";
}

struct StageTimes {
  Stage stage;
  std::size_t cases = 0;
  Distribution ms;       // of calls, on the host
  Distribution kernels;  // on the GPU; none where there is no GPU
};

class Replay {
 public:
  explicit Replay(const ReplayArguments& arguments) : arguments_(arguments) {}

  void run(int& exit_code) {
    choice_ = choose_device_on_request(arguments_.model_options);
    read();
    if (choice_.backend == Backend::kCuda) {
      timer_ = std::make_unique<CudaCaseTimer>(choice_.cuda_device);
    }
    for (const RecordedCase& recorded : cases_) check(recorded);
    const bool passed = mismatches_.empty();
    std::vector<StageTimes> times;
    // A speed of wrong answers is no speed.
    if (passed) {
      for (const Stage stage : {Stage::kPreprocess, Stage::kPostprocess}) {
        StageTimes measured = measure(stage);
        if (measured.cases > 0) times.push_back(measured);
      }
    } else {
      exit_code = static_cast<int>(ErrorCode::kPartial);
    }
    arguments_.json ? print_json(times) : print_table(times);
    for (const std::string& line : mismatches_) log_message(LogLevel::kError, line);
    if (!passed) {
      log_message(LogLevel::kError, fmt::format("replay: {} of {} case(s) differ; no times are "
                                                "given for wrong answers",
                                                mismatches_.size(), cases_.size()));
    }
  }

 private:
  void read() {
    for (const std::string& folder : arguments_.folders) {
      for (const CaseEntry& entry : read_manifest(folder).cases) {
        if (arguments_.stage != "both" && arguments_.stage != stage_name(entry.stage)) continue;
        if (cases_.size() == static_cast<std::size_t>(arguments_.max_cases)) return;
        cases_.push_back(read_case(folder, entry));
        names_.push_back(folder + "/" + entry.name);
      }
    }
    if (cases_.empty()) {
      throw Error(ErrorCode::kInput, fmt::format("replay: no case of stage {}", arguments_.stage));
    }
  }

  void check(const RecordedCase& recorded) {
    const auto index = static_cast<std::size_t>(&recorded - cases_.data());
    std::optional<std::string> difference;
    try {
      difference = check_case(recorded, choice_.backend, choice_.cuda_device, arguments_.tolerance);
      if (timer_ && !difference) {
        // What the kernels' time is taken of must be right, too.
        Detections detections;
        Tensor out(recorded.tensor.shape);
        timer_->run(recorded, detections, out.data.data());
        difference = check_answer(recorded, detections, out.data.data(), arguments_.tolerance);
      }
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kDevice) throw;
      throw Error(error.code(), names_[index] + ": " + error.what());
    }
    if (difference) mismatches_.push_back(names_[index] + ": " + *difference);
  }

  StageTimes measure(Stage stage) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> samples, kernels;
    AlignedVector<float> out;
    std::size_t count = 0;
    for (int round = -arguments_.warmup; round < arguments_.repeats; ++round) {
      count = 0;
      for (const RecordedCase& recorded : cases_) {
        if (recorded.entry.stage != stage) continue;
        ++count;
        out.resize(recorded.tensor.data.size());
        const auto start = Clock::now();
        run_case(recorded, choice_.backend, choice_.cuda_device, out.data());
        const auto end = Clock::now();
        if (round >= 0) {
          samples.push_back(std::chrono::duration<double, std::milli>(end - start).count());
        }
        if (!timer_) continue;
        Detections detections;
        const double ms = timer_->run(recorded, detections, out.data());
        if (round >= 0) kernels.push_back(ms);
      }
      if (count == 0) break;
    }
    return {stage, count, Distribution::of(std::move(samples)),
            Distribution::of(std::move(kernels))};
  }

  std::string backend() const {
    return choice_.backend == Backend::kReference ? "reference"
           : choice_.backend == Backend::kCuda    ? "cuda"
                                                  : "cpu";
  }

  static void add_times(nlohmann::ordered_json& out, const Distribution& ms) {
    out["mean_ms"] = ms.mean;
    out["p50_ms"] = ms.p50;
    out["p90_ms"] = ms.p90;
    out["p99_ms"] = ms.p99;
    out["min_ms"] = ms.min;
    out["max_ms"] = ms.max;
  }

  static std::string row(const std::string& name, std::size_t cases, const Distribution& ms) {
    return fmt::format("{:<20} {:>6} {:>7} {:>9.4f} {:>9.4f} {:>9.4f} {:>9.4f} {:>9.4f} {:>9.4f}\n",
                       name, cases, ms.count, ms.mean, ms.p50, ms.p90, ms.p99, ms.min, ms.max);
  }

  void print_json(const std::vector<StageTimes>& times) const {
    nlohmann::ordered_json json;
    json["version"] = RFSEG_VERSION;
    json["device"] = device_name(choice_);
    json["backend"] = backend();
    json["cases"] = cases_.size();
    json["passed"] = mismatches_.empty();
    json["mismatches"] = mismatches_;
    json["tolerance"] = {{"box_px", arguments_.tolerance.box_px},
                         {"score", arguments_.tolerance.score},
                         {"tensor", arguments_.tolerance.tensor}};
    if (mismatches_.empty()) {
      json["warmup"] = arguments_.warmup;
      json["repeats"] = arguments_.repeats;
      json["stages"] = nlohmann::ordered_json::array();
    }
    for (const StageTimes& stage : times) {
      nlohmann::ordered_json& out = json["stages"].emplace_back();
      out = {{"name", stage_name(stage.stage)}, {"cases", stage.cases}, {"calls", stage.ms.count}};
      add_times(out, stage.ms);
      if (stage.kernels.count > 0) add_times(out["kernels"], stage.kernels);
    }
    const std::string text =
        json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    std::fputs((text + "\n").c_str(), stdout);
  }

  void print_table(const std::vector<StageTimes>& times) const {
    std::string text =
        fmt::format("{} case(s) on {}, backend {}: {}\n", cases_.size(), device_name(choice_),
                    backend(), mismatches_.empty() ? "all answers as recorded" : "answers differ");
    if (!times.empty()) {
      text += fmt::format("{:<20} {:>6} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "stage",
                          "cases", "calls", "mean ms", "p50", "p90", "p99", "min", "max");
    }
    for (const StageTimes& stage : times) {
      const std::string name = stage_name(stage.stage);
      text += row(name, stage.cases, stage.ms);
      if (stage.kernels.count > 0) text += row(name + ", GPU", stage.cases, stage.kernels);
    }
    std::fputs(text.c_str(), stdout);
  }

  const ReplayArguments& arguments_;
  DeviceChoice choice_;
  std::unique_ptr<CudaCaseTimer> timer_;  // with the backend cuda
  std::vector<RecordedCase> cases_;
  std::vector<std::string> names_;  // of the cases, for messages
  std::vector<std::string> mismatches_;
};

}  // namespace

void add_replay(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<ReplayArguments>();
  CLI::App* verb = app.add_subcommand(
      "replay", "Check recorded cases on a backend, and time it if every answer is right");
  verb->add_option("folders", arguments->folders, "Folders that capture wrote")
      ->type_name("DIR")
      ->required();
  add_choice<Backend>(
      *verb, "--backend",
      {{"auto", Backend::kAuto},
       {"reference", Backend::kReference},
       {"cpu", Backend::kCpu},
       {"cuda", Backend::kCuda}},
      [arguments](Backend value) { arguments->model_options.backend = value; },
      "Which implementation; auto (default): cpu, or cuda with --device cuda");
  verb->add_option("--device", arguments->model_options.device, "auto, cpu or cuda[:N]")
      ->type_name("DEVICE")
      ->capture_default_str();
  add_choice<std::string>(
      *verb, "--stage",
      {{"both", "both"}, {"preprocess", "preprocess"}, {"postprocess", "postprocess"}},
      [arguments](const std::string& value) { arguments->stage = value; }, "What to replay (both)");
  add_integer(*verb, "--max-cases", 1, 1000000, arguments->max_cases, "The first N only (all)");
  add_integer(*verb, "--warmup", 0, 100000, arguments->warmup, "Rounds before the timed ones (3)");
  add_integer(*verb, "--repeats", 1, 100000, arguments->repeats, "Timed rounds of all cases (20)");
  CaseTolerance& tolerance = arguments->tolerance;
  add_number(
      *verb, "--max-box-px", 0, 1e18, [&tolerance](double value) { tolerance.box_px = value; },
      "Boxes may differ by this, pixels (0)");
  add_number(
      *verb, "--max-score", 0, 1e18, [&tolerance](double value) { tolerance.score = value; },
      "Scores may differ by this (0)");
  add_number(
      *verb, "--max-tensor", 0, 1e18, [&tolerance](double value) { tolerance.tensor = value; },
      "Values of the network's input may differ by this (0)");
  verb->add_flag("--json", arguments->json, "The result as one JSON object");
  verb->footer(
      "Example: rfseg replay cases --backend cpu --repeats 100\n"
      "Exit code 1, and no times, where an answer is not as recorded. A time is that of one call\n"
      "on the host, copies to a GPU and back included; with --backend cuda the time of the "
      "kernels,\n"
      "from device memory, stands apart (GPU).");
  verb->callback([arguments, verb, &exit_code] {
    if (arguments->stage == "preprocess") {
      refuse_options(*verb, {"--max-box-px", "--max-score"},
                     "--stage preprocess has no detections");
    }
    if (arguments->stage == "postprocess") {
      refuse_options(*verb, {"--max-tensor"}, "--stage postprocess makes no network input");
    }
    Replay(*arguments).run(exit_code);
  });
}

}  // namespace rfseg::cli
