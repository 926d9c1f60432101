#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/image_ids.h"
#include "cli/verbs/predict_parts.h"
#include "core/log.h"
#include "output/dense_masks.h"
#include "rfseg/error.h"

namespace rfseg::cli {

// A .json is always a COCO array and a .jsonl always JSON lines: whoever reads them relies on it.
bool wants_coco(const PredictArguments& arguments) {
  const std::string extension = std::filesystem::path(arguments.output).extension().string();
  const bool array = extension == ".json", lines = extension == ".jsonl";
  if (!arguments.format.empty()) {
    const bool coco = arguments.format == "coco";
    if (coco ? lines : array) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--format {} and -o {}: the name says {}; leave out --format or name "
                              "the file {}",
                              arguments.format, arguments.output, coco ? "JSON lines" : "COCO",
                              coco ? ".json" : ".jsonl"));
    }
    return coco;
  }
  if (array) return true;
  if (lines || arguments.output == "-") return false;
  std::error_code ignored;
  if (std::filesystem::exists(arguments.output, ignored) &&
      !std::filesystem::is_regular_file(arguments.output, ignored)) {
    return false;  // a pipe or /dev/stdout: as stdout
  }
  throw Error(
      ErrorCode::kUsage,
      fmt::format("-o {}: the name says neither .jsonl nor .json; choose with --format jsonl|coco",
                  arguments.output));
}

// Their number is not known before the work is done, their names are.
void claim_dense_masks(const PredictArguments& arguments, FileClaims& claims) {
  namespace fs = std::filesystem;
  const std::string& output = arguments.output;
  std::error_code ignored;
  if (fs::exists(output, ignored) && !fs::is_regular_file(output, ignored)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--masks dense: writes PNG files next to OUT, and -o {} is no file; "
                            "name one that is",
                            output));
  }
  const std::string folder = fs::path(output).parent_path().string();
  claims.write_family("--masks dense", folder, dense_mask_pattern(output),
                      [output](const std::string& name) { return is_dense_mask(output, name); });
  for (const std::string& input : arguments.inputs) {
    if (!fs::is_directory(input, ignored) ||
        !fs::equivalent(input, folder.empty() ? "." : folder, ignored)) {
      continue;
    }
    log_warning(
        fmt::format("--masks dense: the masks go into the input folder {}; a later run "
                    "over it takes them for pictures",
                    input));
  }
}

// Two pictures with one id would be evaluated as one. What can have none fails alone, without being
// read.
ImageIds image_ids_of(const PredictArguments& arguments, std::vector<Input>& inputs) {
  if (!wants_coco(arguments)) {
    throw Error(ErrorCode::kUsage,
                "--image-ids: belongs to --format coco (an OUT that ends in .json)");
  }
  ImageIds ids(read_image_ids(arguments.image_ids));
  std::map<int64_t, std::string> files;
  for (Input& input : inputs) {
    if (!input.error.empty()) continue;
    if (input.kind == InputKind::kVideo) {
      input = {input.path, InputKind::kImage,
               fmt::format("{}: --image-ids names pictures; the frames of a video have no ids",
                           input.path)};
      continue;
    }
    int64_t id = 0;
    try {
      id = ids.of(input.path);
    } catch (const Error& error) {
      input.error = error.what();
      continue;
    }
    const auto [other, is_new] = files.emplace(id, input.path);
    if (is_new) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("--image-ids {}: {} and {} would both have the image_id {}; name "
                            "pictures there by as much of their paths as tells them apart",
                            arguments.image_ids, other->second, input.path, id));
  }
  return ids;
}

// Scripts give them for whatever comes, so that they are no errors.
void warn_of_video_options(const CLI::App& verb, const std::vector<Input>& inputs) {
  const auto is_video = [](const Input& input) { return input.kind == InputKind::kVideo; };
  if (std::any_of(inputs.begin(), inputs.end(), is_video)) return;
  for (const char* option : {"--every", "--start", "--end", "--decoder", "--streams",
                             "--max-wait-ms", "--timeout", "--reconnect"}) {
    if (verb.count(option) > 0) {
      log_warning(fmt::format("{}: without effect, as no input is a video", option));
    }
  }
}

}  // namespace rfseg::cli
