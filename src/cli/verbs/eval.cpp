#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/options.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "eval/coco_eval.h"

namespace rfseg::cli {
namespace {

struct EvalArguments {
  std::string ground_truth, results, iou = "segm";
  bool json = false;
};

void run_eval(const EvalArguments& arguments) {
  const IouType type = arguments.iou == "bbox" ? IouType::kBbox : IouType::kSegm;
  const CocoSummary summary = evaluate_coco(arguments.ground_truth, arguments.results, type);
  if (summary.boxes_as_masks > 0) {
    log_warning(
        fmt::format("{}: {} of {} results have no mask; their boxes stand for masks, as in "
                    "pycocotools (--iou bbox compares boxes)",
                    arguments.results, summary.boxes_as_masks, summary.results));
  }
  if (summary.without_results > 0) {
    log_warning(
        fmt::format("{}: no result for {} of {} annotated pictures; what they show counts as "
                    "missed",
                    arguments.results, summary.without_results, summary.annotated));
  }
  if (!arguments.json) {
    std::fputs(summary.table(type).c_str(), stdout);
    return;
  }
  static constexpr const char* kNames[] = {"AP",        "AP50",     "AP75",      "AP_small",
                                           "AP_medium", "AP_large", "AR1",       "AR10",
                                           "AR100",     "AR_small", "AR_medium", "AR_large"};
  nlohmann::ordered_json json = {{"iou", arguments.iou}};
  if (type == IouType::kSegm) json["boxes_as_masks"] = summary.boxes_as_masks;
  for (std::size_t i = 0; i < summary.stats.size(); ++i) json[kNames[i]] = summary.stats[i];
  std::fputs((json.dump() + "\n").c_str(), stdout);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* verb = app.add_subcommand("eval", "COCO average precision and recall of results");
  verb->add_option("--gt", arguments->ground_truth, "COCO instances .json with the annotations")
      ->type_name("FILE")
      ->required();
  verb->add_option("--results", arguments->results,
                   "COCO results array, as predict -o OUT.json writes it")
      ->type_name("FILE")
      ->required();
  verb->add_option("--iou", arguments->iou, "What is compared, masks or boxes (segm)")
      ->type_name("{segm,bbox}")
      ->check(CLI::IsMember({"bbox", "segm"}).description(""));
  verb->add_flag("--json", arguments->json, "The twelve numbers as one JSON object");
  verb->footer("Example: rfseg eval --gt instances_val2017.json --results results.json --iou segm");
  verb->callback([arguments] { run_eval(*arguments); });
}

}  // namespace rfseg::cli
