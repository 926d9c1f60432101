#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "cli/file_claims.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "pipeline/loaded_model.h"
#include "rfseg/error.h"

namespace rfseg::cli {
namespace {

struct ConvertArguments {
  std::string model, output, dtype = "f32";
  ModelOptions options;
};

// Whoever finds a .pth takes it for one.
void refuse_other_ending(const std::string& output) {
  namespace fs = std::filesystem;
  if (output.starts_with("/dev/")) return;  // the standard output may be a file
  std::error_code ignored;
  const bool no_file = fs::exists(output, ignored) && !fs::is_regular_file(output, ignored);
  if (no_file || fs::path(output).extension() == ".safetensors") return;
  throw Error(ErrorCode::kUsage,
              fmt::format("output {}: what is written is .safetensors; name the file so", output));
}

}  // namespace

void add_convert(CLI::App& app) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* verb =
      app.add_subcommand("convert", "Write the tensors that inference uses as .safetensors");
  verb->add_option("model", arguments->model, "Checkpoint or variant name")
      ->type_name("MODEL")
      ->required();
  verb->add_option("output", arguments->output, ".safetensors to write, or - for stdout")
      ->type_name("FILE")
      ->required();
  verb->add_option("--dtype", arguments->dtype, "How numbers are stored (f32)")
      ->type_name("{f32,f16}")
      ->check(CLI::IsMember({"f32", "f16"}).description(""));
  verb->add_option("--variant", arguments->options.variant,
                   "Decides the variant where the file does not")
      ->type_name("NAME");
  verb->footer("Example: rfseg convert checkpoint_best_total.pth model.safetensors --dtype f16");
  verb->callback([arguments] {
    const std::string path = resolve_model_path(arguments->model);
    const std::string output = output_path(arguments->output);
    refuse_other_ending(output);
    FileClaims claims;
    claims.read_model(path);
    claims.write("output", output);
    refuse_missing_folder(output, "output");
    write_safetensors(open_checkpoint(path, arguments->options), output, arguments->dtype == "f16");
  });
}

}  // namespace rfseg::cli
