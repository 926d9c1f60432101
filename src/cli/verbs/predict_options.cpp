#include "cli/options.h"
#include "cli/verbs/predict_parts.h"

namespace rfseg::cli {

void add_predict_input_options(CLI::App& verb, PredictArguments& arguments) {
  verb.add_option(
          "inputs", arguments.inputs,
          "Pictures, folders of them, videos, their URLs, /dev/videoN, or - for a list of paths on "
          "stdin")
      ->type_name("INPUT");
  verb.add_flag("--no-exif", arguments.no_exif, "Do not turn pictures upright");
  add_integer(verb, "--every", 1, 1000000000, arguments.input.video.every,
              "Video: every Nth frame (1)");
  add_number(
      verb, "--start", 0, 1e18, [&](double value) { arguments.input.video.start_s = value; },
      "Video: from this second (0)");
  add_number(
      verb, "--end", 0, 1e18, [&](double value) { arguments.input.video.end_s = value; },
      "Video: up to this second (its end)");
  add_choice<std::string>(
      verb, "--decoder", {{"auto", "auto"}, {"cpu", "cpu"}, {"nvdec", "nvdec"}},
      [&](const std::string& value) { arguments.decoder = value; },
      "Video: nvdec decodes on the GPU, cpu on the processors, auto (default) where it is "
      "faster");
  add_integer(verb, "--batch", 1, 1024, arguments.pipeline.batch,
              "Pictures that go through the network together (1)");
  add_integer(verb, "--depth", 1, 64, arguments.pipeline.depth,
              "Batches in flight (default 2; 1 = one stage after another)");
  add_integer(verb, "--streams", 0, 1024, arguments.streams,
              "Videos read at once, whose results then come as they are ready, each video's in its "
              "order; default: all live streams, files one after another");
  add_integer(verb, "--max-wait-ms", 0, 1000000, arguments.pipeline.max_wait_ms,
              "Live streams: longest wait for a batch (20)");
  add_number(
      verb, "--timeout", 0.1, 1e6, [&](double value) { arguments.input.video.timeout_s = value; },
      "Live streams and URLs of videos: seconds without a picture that count as broken off "
      "(default 30)");
  add_number(
      verb, "--reconnect", 0, 1e6, [&](double value) { arguments.input.video.reconnect_s = value; },
      "Live streams: seconds without a picture in which to connect again (default 30; 0 = never)");
}

void add_predict_output_options(CLI::App& verb, PredictArguments& arguments) {
  verb.add_option("-o,--output", arguments.output,
                  "Results: .jsonl, or .json for COCO's form; default (-): JSON lines on stdout")
      ->type_name("FILE");
  add_choice<std::string>(
      verb, "--format", {{"jsonl", "jsonl"}, {"coco", "coco"}},
      [&](const std::string& value) { arguments.format = value; },
      "Default: by the name of -o; on stdout jsonl");
  add_choice<MaskFormat>(
      verb, "--masks",
      {{"rle", MaskFormat::kRle},
       {"polygon", MaskFormat::kPolygon},
       {"dense", MaskFormat::kDense},
       {"none", MaskFormat::kNone}},
      [&](MaskFormat value) { arguments.predict.masks = value; },
      "rle (default): COCO run lengths; dense: a PNG for each object, next to the file of -o");
  verb.add_option("--image-ids", arguments.image_ids,
                  "COCO instances .json whose file names give the image ids; default: they count "
                  "from 1, and "
                  "a list goes to OUTPUT.images.json, OUTPUT being the whole name")
      ->type_name("FILE");
  verb.add_option("--overlay", arguments.overlay, "Folder for annotated pictures and videos")
      ->type_name("DIR");
  verb.add_option("--report", arguments.report, "Self-contained HTML page of the results")
      ->type_name("FILE");
  verb.add_option("--report-title", arguments.report_title, "Title of the page (rfseg results)");
  verb.add_option("--report-notice", arguments.report_notice,
                  "A statement shown first on the page");
}

}  // namespace rfseg::cli
