#include "eval/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/options.h"
#include "cli/path_list.h"
#include "cli/run_pair.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

using ordered_json = nlohmann::ordered_json;

struct ParityArguments {
  std::vector<std::string> inputs;
  std::string model, variant, shape, a, b, image_root;
  int threads = 0;
  bool json = false, no_exif = false;
  PredictOptions predict;
  PipelineOptions pipeline;
  InputOptions input;
  ParityOptions parity;
  ParityBounds bounds;
  std::vector<std::string> read_files;  // by options
};

/// Both runs, however they came about.
struct Sides {
  RunResults a, b;
  std::string label_a, label_b;
  bool inputs_failed = false;
};

Sides read_sides(const ParityArguments& arguments) {
  if (arguments.inputs.size() != 2) {
    throw Error(
        ErrorCode::kUsage,
        "parity: two result files are expected (RUN_A RUN_B), or -m MODEL INPUT... --a SPEC "
        "--b SPEC");
  }
  Sides sides;
  for (const auto& [path, run, label] :
       {std::tuple{&arguments.inputs[0], &sides.a, &sides.label_a},
        std::tuple{&arguments.inputs[1], &sides.b, &sides.label_b}}) {
    JsonBytes source(*path);
    *run = read_run(source);
    *label = *path;
  }
  return sides;
}

// An instances file.
bool is_list(const std::string& input) {
  return std::filesystem::path(input).extension() == ".json";
}

Sides run_sides(ParityArguments& arguments) {
  if (arguments.a.empty() || arguments.b.empty()) {
    throw Error(ErrorCode::kUsage, "parity -m: needs --a and --b, such as --a cpu --b cuda:fp16");
  }
  if (arguments.inputs.empty()) throw Error(ErrorCode::kUsage, "parity: no INPUT given");
  RunPlan plans[2];
  for (RunPlan& plan : plans) {
    plan.model = arguments.model;
    CommonOptions common;
    common.shape = arguments.shape;
    common.model_options.variant = arguments.variant;
    common.model_options.threads = arguments.threads;
    plan.model_options = common.resolved();
    plan.predict = arguments.predict;
    plan.pipeline = arguments.pipeline;
    plan.input = arguments.input;
    plan.input.image.apply_exif = !arguments.no_exif;
  }
  apply_device_spec(arguments.a, "--a", plans[0].model_options);
  apply_device_spec(arguments.b, "--b", plans[1].model_options);
  // Before the first run: the second would find out minutes later.
  for (const auto& [plan, option] :
       {std::pair{&plans[0], "--a " + arguments.a}, {&plans[1], "--b " + arguments.b}}) {
    try {
      choose_device(plan->model_options);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", option, error.what()));
    }
  }

  std::vector<std::string> words;
  for (const std::string& input : arguments.inputs) {
    if (!is_list(input)) {
      words.push_back(input);
      continue;
    }
    for (std::string& path : listed_pictures(input, arguments.image_root)) {
      words.push_back(std::move(path));
    }
  }
  plans[0].inputs = plans[1].inputs = inputs_of(words);
  if (plans[0].inputs.empty()) throw Error(ErrorCode::kInput, "the list of inputs is empty");

  RunOutcome outcomes[2] = {run_in_memory(plans[0], "A"), run_in_memory(plans[1], "B")};
  std::set<std::string> errors(outcomes[0].errors.begin(), outcomes[0].errors.end());
  errors.insert(outcomes[1].errors.begin(), outcomes[1].errors.end());
  for (const std::string& error : errors) log_message(LogLevel::kError, error);
  const ResolvedOptions& resolved = outcomes[0].resolved;
  arguments.parity.threshold = resolved.postprocess.threshold;
  arguments.parity.class_thresholds = resolved.postprocess.class_thresholds;
  Sides sides;
  sides.a = std::move(outcomes[0].results);
  sides.b = std::move(outcomes[1].results);
  sides.label_a = outcomes[0].description;
  sides.label_b = outcomes[1].description;
  sides.inputs_failed = !outcomes[0].errors.empty() || !outcomes[1].errors.empty();
  if (sides.a.pictures.empty() && sides.b.pictures.empty()) {
    throw Error(ErrorCode::kInput, "parity: no input could be read");
  }
  return sides;
}

ordered_json to_json(const std::vector<ParityDetection>& list) {
  ordered_json array = ordered_json::array();
  for (const ParityDetection& detection : list) {
    ordered_json& out = array.emplace_back();
    out["file"] = detection.file;
    if (detection.frame) out["frame"] = *detection.frame;
    out["class_id"] = detection.class_id;
    if (!detection.class_name.empty()) out["class_name"] = detection.class_name;
    out["score"] = detection.score;
  }
  return array;
}

// NaN, which stands for "none", has no place in JSON.
ordered_json number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json to_json(const ParityReport& report, const Sides& sides,
                     const std::vector<std::string>& broken) {
  ordered_json json;
  json["a"] = sides.label_a;
  json["b"] = sides.label_b;
  json["pictures"] = report.pictures;
  json["pictures_only_a"] = report.only_a;
  json["pictures_only_b"] = report.only_b;
  json["pictures_by_name"] = report.by_name;
  json["size_changes"] = report.size_changes;
  json["detections_a"] = report.detections_a;
  json["detections_b"] = report.detections_b;
  json["matched"] = report.matched;
  json["threshold"] = report.threshold ? number(*report.threshold) : ordered_json(nullptr);
  json["unmatched_a"] = to_json(report.unmatched_a);
  json["unmatched_b"] = to_json(report.unmatched_b);
  json["near_threshold_a"] = to_json(report.near_threshold_a);
  json["near_threshold_b"] = to_json(report.near_threshold_b);
  json["class_changes"] = ordered_json::array();
  for (const auto& change : report.class_changes) {
    const ordered_json pair = to_json({change.a, change.b});
    json["class_changes"].push_back({{"a", pair[0]}, {"b", pair[1]}});
  }
  for (const auto& [name, values] :
       {std::pair{"box_px", &report.box_px}, std::pair{"score", &report.score}}) {
    json[name] = {
        {"max", number(values->max)}, {"p99", number(values->p99)}, {"mean", number(values->mean)}};
  }
  json["mask_iou"] = {{"masks", report.mask_iou.count},
                      {"small_masks", report.small_masks},
                      {"mean", number(report.mask_iou.mean)},
                      {"min", number(report.mask_iou.min)}};
  json["mask_pairs"] = report.mask_pairs;
  json["one_sided_masks"] = report.one_sided_masks;
  json["identical_masks"] = report.identical;
  json["identical_share"] = number(report.identical_share());
  json["passed"] = broken.empty();
  json["violations"] = broken;
  return json;
}

// A file name may hold anything; the table is for a terminal.
std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return out;
}

std::string describe(const ParityDetection& detection) {
  const std::string name = detection.class_name.empty()
                               ? fmt::format("class {}", detection.class_id)
                               : detection.class_name;
  const std::string frame = detection.frame ? fmt::format(" frame {}", *detection.frame) : "";
  return printable(fmt::format("{}{}: {} {:.6f}", detection.file, frame, name, detection.score));
}

std::string describe(const std::string& line) { return printable(line); }

std::string describe(const ParityReport::ClassChange& change) {
  return fmt::format("{} -> {}", describe(change.a), describe(change.b));
}

// Two runs that have nothing in common would fill the terminal.
template <class T>
void append_list(std::string& text, const char* title, const std::vector<T>& list) {
  constexpr std::size_t kMost = 20;
  if (list.empty()) return;
  text += fmt::format("{}:\n", title);
  for (std::size_t i = 0; i < std::min(list.size(), kMost); ++i) {
    text += "  " + describe(list[i]) + "\n";
  }
  if (list.size() > kMost) {
    text += fmt::format("  ... and {} more (--json lists all)\n", list.size() - kMost);
  }
}

std::string table(const ParityReport& report, const Sides& sides) {
  std::string text =
      fmt::format("A: {}\nB: {}\n", printable(sides.label_a), printable(sides.label_b));
  text += fmt::format("{:<28} {}", "pictures", report.pictures);
  if (!report.only_a.empty() || !report.only_b.empty()) {
    text +=
        fmt::format(" (only in A: {}, only in B: {})", report.only_a.size(), report.only_b.size());
  }
  if (report.by_name > 0) {
    text += fmt::format("\n{:<28} {}, by the ends of their paths", "matched by name alone",
                        report.by_name);
  }
  text += fmt::format("\n{:<28} {} and {}, {} matched\n", "detections", report.detections_a,
                      report.detections_b, report.matched);
  text += fmt::format("{:<28} {} and {}\n", "unmatched", report.unmatched_a.size(),
                      report.unmatched_b.size());
  if (report.threshold) {
    text += fmt::format("{:<28} {} and {} (threshold {:.6g})\n", "unmatched near the threshold",
                        report.near_threshold_a.size(), report.near_threshold_b.size(),
                        *report.threshold);
  }
  text += fmt::format("{:<28} {}\n", "class changes", report.class_changes.size());
  if (report.matched > 0) {
    text += fmt::format("{:<28} max {:.6g}, p99 {:.6g}, mean {:.6g}\n", "box difference, px",
                        report.box_px.max, report.box_px.p99, report.box_px.mean);
    text += fmt::format("{:<28} max {:.6g}, p99 {:.6g}, mean {:.6g}\n", "score difference",
                        report.score.max, report.score.p99, report.score.mean);
  }
  const std::string left_out =
      report.small_masks > 0 ? fmt::format("{} smaller ones left out", report.small_masks) : "";
  if (report.mask_iou.count > 0) {
    text += fmt::format("{:<28} mean {:.8f}, min {:.8f} ({} of more than 100 px{})\n", "mask IoU",
                        report.mask_iou.mean, report.mask_iou.min, report.mask_iou.count,
                        left_out.empty() ? "" : "; " + left_out);
  } else if (report.small_masks > 0) {
    text += fmt::format("{:<28} none of more than 100 px; {}\n", "mask IoU", left_out);
  }
  if (report.mask_pairs > 0) {
    text += fmt::format("{:<28} {} of {} ({:.4f})\n", "identical run lengths", report.identical,
                        report.mask_pairs, report.identical_share());
  }
  if (report.one_sided_masks > 0) {
    text += fmt::format("{:<28} {} of {} (counted above as IoU 0 and not identical)\n",
                        "masks on one side only", report.one_sided_masks, report.mask_pairs);
  }
  append_list(text, "pictures of two sizes", report.size_changes);
  append_list(text, "pictures only in A", report.only_a);
  append_list(text, "pictures only in B", report.only_b);
  append_list(text, "unmatched of A", report.unmatched_a);
  append_list(text, "unmatched of B", report.unmatched_b);
  append_list(text, "near the threshold, A only", report.near_threshold_a);
  append_list(text, "near the threshold, B only", report.near_threshold_b);
  append_list(text, "class changes (also among the unmatched)", report.class_changes);
  return text;
}

void run_parity(ParityArguments& arguments, int& exit_code) {
  if (arguments.predict.threshold) arguments.parity.threshold = *arguments.predict.threshold;
  const Sides sides = arguments.model.empty() ? read_sides(arguments) : run_sides(arguments);
  const ParityReport report = compare_runs(sides.a, sides.b, arguments.parity);
  const std::vector<std::string> broken = violations(report, arguments.bounds);
  if (arguments.json) {
    const std::string text =
        to_json(report, sides, broken).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    std::fputs((text + "\n").c_str(), stdout);
  } else {
    std::fputs(table(report, sides).c_str(), stdout);
  }
  for (const std::string& line : broken) log_message(LogLevel::kError, "parity: " + line);
  if (!broken.empty() || sides.inputs_failed) exit_code = static_cast<int>(ErrorCode::kPartial);
}

void add_bound_options(CLI::App& verb, ParityArguments& arguments) {
  ParityBounds& bounds = arguments.bounds;
  const auto bound = [&](const char* name, double high, std::optional<double>& value,
                         const char* description) {
    add_number(
        verb, name, 0, high, [&value](double number) { value = number; }, description);
  };
  bound("--max-box-px", 1e18, bounds.max_box_px, "Fail past this difference of a box, pixels");
  bound("--max-score", 1e18, bounds.max_score, "Fail past this difference of a score");
  bound("--min-mask-iou", 1, bounds.min_mask_iou, "Fail where a mask over 100 px has less IoU");
  bound("--min-mean-iou", 1, bounds.min_mean_iou, "Fail where their mean is less");
  bound("--min-identical", 1, bounds.min_identical,
        "Fail where a smaller share of masks has identical run lengths");
  add_integer(
      verb, "--max-unmatched", 0, std::numeric_limits<int>::max(),
      [&bounds](int value) { bounds.max_unmatched = value; },
      "Fail past so many detections without a partner, of both runs together; with any bound, a "
      "picture that one run lacks fails too");
  add_number(
      verb, "--score-margin", 0, 1, [&](double value) { arguments.parity.score_margin = value; },
      "Unmatched this close to the threshold is listed apart (0.01)");
  add_number(
      verb, "--match-iou", 0.01, 1, [&](double value) { arguments.parity.match_iou = value; },
      "Least overlap of matched detections (0.5)");
}

}  // namespace

void add_parity(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<ParityArguments>();
  CLI::App* verb = app.add_subcommand(
      "parity", "Compare two runs, detection by detection: result files, or two backends");
  verb->add_option("inputs", arguments->inputs,
                   "RUN_A RUN_B: two .jsonl or two COCO .json; with -m: pictures, folders, videos, "
                   "or a COCO instances .json that lists pictures")
      ->type_name("INPUT");
  verb->add_option("-m,--model", arguments->model, "Checkpoint to run with --a and with --b")
      ->type_name("MODEL");
  verb->add_option("--a", arguments->a, "cpu, reference or cuda[:N], also with :PRECISION")
      ->type_name("SPEC");
  verb->add_option("--b", arguments->b, "The same, for the other run")->type_name("SPEC");
  add_bound_options(*verb, *arguments);
  verb->add_flag("--json", arguments->json, "The report as one JSON object");
  verb->add_option("--variant", arguments->variant, "As predict's")->type_name("NAME");
  verb->add_option("--shape", arguments->shape, "As predict's")->type_name("HxW");
  add_integer(*verb, "--threads", 1, 1024, arguments->threads,
              "As predict's; default: the cores that this process may use");
  add_integer(*verb, "--batch", 1, 1024, arguments->pipeline.batch, "As predict's (1)");
  add_integer(*verb, "--depth", 1, 64, arguments->pipeline.depth, "As predict's (2)");
  add_integer(*verb, "--every", 1, 1000000000, arguments->input.video.every, "As predict's (1)");
  verb->add_flag("--no-exif", arguments->no_exif, "As predict's");
  verb->add_option("--image-root", arguments->image_root,
                   "Folder of the pictures that an instances .json lists (its own)")
      ->type_name("DIR");
  add_convention_options(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  verb->get_option("--threshold")
      ->description(
          "The runs' threshold (0..1); default: with -m as predict's, of files the lowest score");
  verb->footer(
      "Example: rfseg parity cpu.jsonl cuda.jsonl --max-box-px 1 --max-unmatched 0\n"
      "Example: rfseg parity -m model.pth photos/ --a cpu --b cuda:fp16 --min-mean-iou 0.99\n"
      "Exit code 1 where a bound does not hold; without bounds it only reports.");
  verb->callback([arguments, verb, &exit_code] {
    if (arguments->model.empty()) {
      // What says how to run a model says nothing about results that are there already.
      refuse_options(
          *verb,
          {"--a", "--b", "--variant", "--shape", "--threads", "--batch", "--depth", "--every",
           "--no-exif", "--image-root", "--like", "--resize", "--class-threshold",
           "--max-detections", "--num-select", "--classes", "--keep", "--drop"},
          "needs a model to run (-m MODEL INPUT... --a SPEC --b SPEC)");
    } else if (std::none_of(arguments->inputs.begin(), arguments->inputs.end(), is_list)) {
      refuse_options(*verb, {"--image-root"}, "needs an instances .json among the inputs");
    }
    run_parity(*arguments, exit_code);
  });
}

}  // namespace rfseg::cli
