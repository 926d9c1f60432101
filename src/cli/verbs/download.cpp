#include "checkpoint/download.h"

#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "core/log.h"

namespace rfseg::cli {
namespace {

std::string known_variants() {
  std::string names;
  for (const WeightsRelease& release : weights_releases()) {
    names += (names.empty() ? "" : ", ") + release.variant;
  }
  return names;
}

void run_download(const std::string& variant, const std::string& output) {
  refuse_dash(output, "-o", "a file");
  refuse_missing_folder(output, "-o");
  const WeightsRelease& release = weights_release(variant);
  log_info(fmt::format(
      "{}: the weights are under the licence {}{}", variant, release.license,
      release.license == "Apache-2.0" ? "" : ", which requires an active Roboflow platform plan"));
  finish_work_on_interrupt();
  Progress progress("MB");
  DownloadOptions options;
  options.cancelled = interrupted;
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.update(static_cast<int64_t>(done >> 20), static_cast<int64_t>(total >> 20));
  };
  const std::string path = download_weights(variant, output, "", options);
  progress.clear();
  log_info(output.empty() ? fmt::format("{} is ready: rfseg predict -m {} ...", path, variant)
                          : fmt::format("{} is ready", path));
}

}  // namespace

void add_download(CLI::App& app) {
  auto variant = std::make_shared<std::string>();
  auto output = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("download", "Fetch the official weights of a variant");
  verb->add_option("variant", *variant, "One of " + known_variants())
      ->type_name("VARIANT")
      ->required();
  verb->add_option(
          "-o,--output", *output,
          "File to write; default: the cache, $RF_HOME or ~/.roboflow/models, where -m VARIANT "
          "finds it")
      ->type_name("FILE");
  verb->footer("Example: rfseg download seg-nano && rfseg predict -m seg-nano photo.jpg");
  verb->callback([variant, output] { run_download(*variant, *output); });
}

}  // namespace rfseg::cli
