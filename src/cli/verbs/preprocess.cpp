#include "preprocess/preprocess.h"

#include <memory>

#include "cli/file_claims.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "core/npy.h"
#include "core/tensor.h"
#include "media/image_io.h"
#include "pipeline/loaded_model.h"

namespace rfseg::cli {
namespace {

struct PreprocessArguments {
  std::string image, size, output;
  std::string device = "auto";
  PredictOptions predict;
  bool no_exif = false;
};

void run_preprocess(const PreprocessArguments& arguments) {
  const std::string output = output_path(arguments.output);
  FileClaims claims;
  claims.read(arguments.image);
  claims.write("-o", output);
  refuse_missing_folder(output, "-o");
  PreprocessSpec spec;
  std::tie(spec.network_height, spec.network_width) = parse_size(arguments.size, "--size", 8192);
  spec.resize = arguments.predict.resize.value_or(
      arguments.predict.like == Convention::kRfdetr ? ResizeMode::kBilinear : ResizeMode::kPil);
  ModelOptions options;
  options.device = arguments.device;
  const DeviceChoice choice = choose_device_on_request(options);
  spec.backend = choice.backend;
  spec.cuda_device = choice.cuda_device;
  DecodeOptions decode;
  decode.apply_exif = !arguments.no_exif;
  const Image image = decode_image(arguments.image, decode);
  Tensor tensor({1, 3, spec.network_height, spec.network_width});
  preprocess(image.view(), spec, tensor.data.data());
  write_npy(output, tensor.data.data(), tensor.shape);
}

}  // namespace

void add_preprocess(CLI::App& app) {
  auto arguments = std::make_shared<PreprocessArguments>();
  CLI::App* verb = app.add_subcommand("preprocess", "Write a picture as the network sees it");
  verb->add_option("image", arguments->image, "JPEG, PNG, BMP, PPM, WebP or TIFF")
      ->type_name("FILE")
      ->required();
  verb->add_option("--size", arguments->size, "Network input: R for RxR, or HxW")
      ->type_name("HxW")
      ->required();
  add_convention_options(*verb, arguments->predict);
  verb->add_option("--device", arguments->device, "auto and cpu: the CPU; cuda[:N]: a GPU")
      ->type_name("DEVICE")
      ->capture_default_str();
  verb->add_flag("--no-exif", arguments->no_exif, "Do not turn the picture upright");
  verb->add_option("-o,--output", arguments->output, "float32 [1,3,H,W] .npy, - for stdout")
      ->type_name("FILE")
      ->required();
  verb->footer("Example: rfseg preprocess photo.jpg --size 312 --resize pil -o x.npy");
  verb->callback([arguments] { run_preprocess(*arguments); });
}

}  // namespace rfseg::cli
