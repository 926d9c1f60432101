#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>

#include "cli/common.h"
#include "cli/unknown_words.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace {

int run(int argc, char** argv) {
  CLI::App app{"rfseg: RF-DETR instance segmentation of pictures and video, without Python",
               "rfseg"};
  app.set_version_flag("--version", "rfseg " RFSEG_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  // Options of the program (-q, -v) may also follow the verb.
  app.fallthrough();
  app.footer(
      "Example: rfseg predict -m model.pth photo.jpg -o result.json --overlay out\n"
      "Every verb has --help. Exit codes: 0 done, 1 some inputs failed, 2 bad usage, 3 bad model,\n"
      "4 no input readable, 5 device, 6 output, 130 interrupted.");
  int exit_code = 0;
  rfseg::cli::add_log_options(app);
  rfseg::cli::add_predict(app, exit_code);
  rfseg::cli::add_forward(app);
  rfseg::cli::add_preprocess(app);
  rfseg::cli::add_postprocess(app);
  rfseg::cli::add_info(app);
  rfseg::cli::add_convert(app);
  rfseg::cli::add_download(app);
  rfseg::cli::add_bench(app);
  rfseg::cli::add_eval(app);
  rfseg::cli::add_completion(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    // A misspelt option often shows first as something that is missing.
    const std::string unknown = rfseg::cli::describe_unknown_word(app);
    rfseg::log_message(rfseg::LogLevel::kError, unknown.empty() ? error.what() : unknown);
    const auto chosen = app.get_subcommands();
    std::cerr << "Run 'rfseg" << (chosen.empty() ? "" : " " + chosen.front()->get_name())
              << " --help' for what is accepted.\n";
    return static_cast<int>(rfseg::ErrorCode::kUsage);
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  rfseg::cli::guard_standard_streams();
  rfseg::cli::install_signal_handlers();
  int code = 0;
  try {
    code = run(argc, argv);
  } catch (const rfseg::Error& error) {
    rfseg::log_message(rfseg::LogLevel::kError, error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    rfseg::log_message(rfseg::LogLevel::kError, "out of memory");
    return static_cast<int>(rfseg::ErrorCode::kDevice);
  } catch (const std::exception& error) {
    rfseg::log_message(rfseg::LogLevel::kError, std::string("unexpected failure: ") + error.what());
    return static_cast<int>(rfseg::ErrorCode::kInternal);
  }
  if (std::fflush(stdout) != 0) {
    rfseg::log_message(rfseg::LogLevel::kError, "stdout: cannot write");
    return static_cast<int>(rfseg::ErrorCode::kOutput);
  }
  return code;
}
