#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/path_list.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "pipeline/cases.h"
#include "pipeline/frame_source.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"
#include "preprocess/color.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace rfseg::cli {
namespace {

struct CaptureArguments {
  CommonOptions common;
  PredictOptions predict;
  InputOptions input;
  std::vector<std::string> inputs;
  std::string output, crop;
  std::string stage = "both";
  int count = 10, weaker = 8;
  bool no_exif = false, survivors = false, half = false;
  std::vector<std::string> read_files;  // by options
};

/// The middle `height` x `width` of a picture as RGB, all of it where it is smaller.
Image centre_of(const ImageView& view, int height, int width) {
  Image whole(view.width, view.height);
  convert_to_rgb(view, whole.pixels.data());
  width = std::min(width, view.width);
  height = std::min(height, view.height);
  const int x = (view.width - width) / 2, y = (view.height - height) / 2;
  Image part(width, height);
  for (int row = 0; row < height; ++row) {
    const auto from = (static_cast<std::ptrdiff_t>(y + row) * view.width + x) * 3;
    std::copy_n(whole.pixels.begin() + from, width * 3,
                part.pixels.begin() + static_cast<std::ptrdiff_t>(row) * width * 3);
  }
  return part;
}

class Capture {
 public:
  explicit Capture(CaptureArguments& arguments) : arguments_(arguments) {}

  void run(int& exit_code) {
    if (arguments_.inputs.empty()) throw Error(ErrorCode::kUsage, "capture: no INPUT given");
    refuse_dash(arguments_.output, "-o", "a folder");
    if (!arguments_.crop.empty()) {
      std::tie(crop_height_, crop_width_) = parse_size(arguments_.crop, "--crop");
    }
    std::vector<Input> inputs = inputs_of(arguments_.inputs);
    if (inputs.empty()) throw Error(ErrorCode::kInput, "the list of inputs is empty");
    load_model(arguments_.common.model, arguments_.common.resolved(), model_);
    check_class_count(arguments_.predict.class_names.size(), model_.config.logits);
    if (!model_.config.seg) arguments_.predict.masks = MaskFormat::kNone;
    resolved_ = resolve_options(arguments_.predict, model_.config);
    resolved_.preprocess.backend = Backend::kReference;
    CaseWriter writer(arguments_.output, {{"program", "rfseg " RFSEG_VERSION},
                                          {"model", arguments_.common.model},
                                          {"variant", model_.info.variant},
                                          {"device", model_.info.device},
                                          {"backend", model_.info.backend},
                                          {"precision", model_.info.precision},
                                          {"expected", "by the reference implementation"}});
    arguments_.input.image.apply_exif = !arguments_.no_exif;
    arguments_.input.cancelled = interrupted;
    finish_work_on_interrupt();  // what was written is to go
    InputSource source(std::move(inputs), arguments_.input);
    SourceFrame frame;
    Progress progress("frames");
    int frames = 0, failed = 0;
    while (frames < arguments_.count && !interrupted() && source.next(frame)) {
      try {
        if (!frame.error.empty()) throw Error(ErrorCode::kInput, frame.error);
        record(frame, writer);
        progress.update(++frames, arguments_.count);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInput) throw;
        log_message(LogLevel::kError, error.what());
        ++failed;
      }
    }
    progress.clear();
    if (interrupted()) throw Error(ErrorCode::kCancelled, "capture: interrupted; nothing is kept");
    if (writer.cases() == 0) throw Error(ErrorCode::kInput, "capture: no input could be read");
    writer.finish();
    log_info(
        fmt::format("{} case(s) of {} frame(s) in {}", writer.cases(), frames, arguments_.output));
    if (failed > 0) exit_code = static_cast<int>(ErrorCode::kPartial);
  }

 private:
  void record(const SourceFrame& frame, CaseWriter& writer) {
    Image part;
    ImageView view = frame.view;
    if (crop_height_ > 0) {
      part = centre_of(view, crop_height_, crop_width_);
      view = part.view();
    }
    input_.resize(std::size_t{3} * model_.config.height * model_.config.width);
    PostprocessSpec spec = resolved_.postprocess;
    spec.geometry = preprocess(view, resolved_.preprocess, input_.data());
    if (arguments_.stage != "postprocess") {
      writer.add_preprocess(frame.file, frame.frame, view, resolved_.preprocess, input_.data());
    }
    if (arguments_.stage == "preprocess") return;
    model_.engine->forward(input_.data(), 1, outputs_);
    RecordOptions options;
    options.half_masks = arguments_.half;
    if (arguments_.survivors) options.weaker_queries = arguments_.weaker;
    writer.add_postprocess(frame.file, frame.frame, network_outputs(outputs_, 0), spec, options);
  }

  CaptureArguments& arguments_;
  LoadedModel model_;
  ResolvedOptions resolved_;
  AlignedVector<float> input_;
  EngineOutputs outputs_;
  int crop_height_ = 0, crop_width_ = 0;
};

}  // namespace

void add_capture(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<CaptureArguments>();
  CLI::App* verb = app.add_subcommand(
      "capture", "Record inputs and answers of the stages around the network, for replay");
  add_model_options(*verb, arguments->common);
  verb->remove_option(verb->get_option("--stats"));
  verb->add_option("inputs", arguments->inputs, "Pictures, folders of them, videos, as predict's")
      ->type_name("INPUT");
  verb->add_option("-o,--output", arguments->output, "A new or empty folder")
      ->type_name("DIR")
      ->required();
  add_choice<std::string>(
      *verb, "--stage",
      {{"both", "both"}, {"preprocess", "preprocess"}, {"postprocess", "postprocess"}},
      [arguments](const std::string& value) { arguments->stage = value; }, "What to record (both)");
  add_integer(*verb, "--count", 1, 100000, arguments->count, "Frames to record (10)");
  add_integer(*verb, "--every", 1, 1000000000, arguments->input.video.every,
              "Video: every Nth frame (1)");
  verb->add_option("--crop", arguments->crop, "Only the middle HxW of every picture (all of it)")
      ->type_name("HxW");
  verb->add_flag("--survivors", arguments->survivors,
                 "Store only queries with a detection, and a few weaker ones");
  add_integer(*verb, "--weaker", 0, 100000, arguments->weaker, "How many (8)");
  verb->add_flag("--half", arguments->half, "Store masks in float16, rounded before all else");
  verb->add_flag("--no-exif", arguments->no_exif, "Do not turn pictures upright");
  add_convention_options(*verb, arguments->predict);
  add_selection_options(*verb, arguments->predict, arguments->read_files);
  verb->footer("Example: rfseg capture -m model.pth clip.mp4 --every 10 --count 20 -o cases");
  verb->callback([arguments, verb, &exit_code] {
    if (arguments->stage == "preprocess") {
      refuse_options(
          *verb,
          {"--survivors", "--weaker", "--half", "--threshold", "--class-threshold",
           "--max-detections", "--num-select", "--classes", "--keep", "--drop"},
          "says what to record of post-processing, and --stage preprocess leaves it out");
    }
    if (!arguments->survivors) refuse_options(*verb, {"--weaker"}, "needs --survivors");
    Capture(*arguments).run(exit_code);
  });
}

}  // namespace rfseg::cli
