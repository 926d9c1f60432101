#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"
#include "cli/unknown_words.h"
#include "cli/verbs.h"
#include "core/log.h"
#include "rfseg/error.h"
#include "rfseg/version.h"

namespace {

// What follows "--" is a file, also where its name begins like an option. (CLI11 knows the mark
// only before the first file.)
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto mark = std::find(words.begin(), words.end(), "--");
  if (mark == words.end()) return words;
  for (auto word = mark + 1; word != words.end(); ++word) {
    if (word->size() > 1 && word->front() == '-') *word = "./" + *word;
  }
  words.erase(mark);
  return words;
}

// "-o $OUT" with nothing in OUT must not write to another place than was meant, nor "--overlay $OUT
// --quiet" to a folder called --quiet.
void refuse_missing_values(CLI::App& app) {
  static constexpr const char* kTexts[] = {"--report-title", "--report-notice"};
  for (CLI::App* verb : app.get_subcommands({})) {
    const auto check = [&app, verb](const std::string& value) -> std::string {
      if (value.empty()) return "empty; is a variable of the shell not set?";
      if (value.size() < 2 || value[0] != '-') return "";
      if (!verb->get_option_no_throw(value) && !app.get_option_no_throw(value)) return "";
      return fmt::format(
          "'{0}' is an option, so the value is missing (./{0} for a file of that name)", value);
    };
    for (CLI::Option* option : verb->get_options()) {
      const bool text = std::any_of(std::begin(kTexts), std::end(kTexts),
                                    [&](const char* name) { return option->check_name(name); });
      if (option->get_items_expected_max() > 0 && !text) option->check(check, "");
    }
  }
}

// CLI11's "--stats: At Most 1 required but received 2" and "--stats: 1 required FILE missing".
std::string plain_words(const CLI::ParseError& error) {
  std::string text = error.what();
  const std::string option = text.substr(0, text.find(": "));
  if (text.find(": At Most 1 required") != std::string::npos) return option + ": given twice";
  if (text.starts_with(option + ": 1 required ") && text.ends_with(" missing")) {
    return option + ": needs a value";
  }
  return text;
}

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
      "4 no input readable, 5 device or memory, 6 output, 70 a fault of rfseg itself,\n"
      "130 interrupted.");
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
  rfseg::cli::add_parity(app, exit_code);
  rfseg::cli::add_capture(app, exit_code);
  rfseg::cli::add_replay(app, exit_code);
  rfseg::cli::add_ablate(app, exit_code);
  rfseg::cli::add_completion(app);
  refuse_missing_values(app);
  try {
    std::vector<std::string> words = words_of(argc, argv);
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    // A misspelt option often shows first as something that is missing.
    const std::string unknown = rfseg::cli::describe_unknown_word(app);
    rfseg::log_message(rfseg::LogLevel::kError, unknown.empty() ? plain_words(error) : unknown);
    const auto chosen = app.get_subcommands();
    std::cerr << "Run 'rfseg" << (chosen.empty() ? "" : " " + chosen.front()->get_name())
              << " --help' for what is accepted.\n";
    return static_cast<int>(rfseg::ErrorCode::kUsage);
  }
  return exit_code;
}

// Whoever reads a pipe only as far as needed (head) wants no complaint; the exit code says that not
// all was written.
bool reader_has_left() {
  struct pollfd standard_output = {STDOUT_FILENO, POLLOUT, 0};
  return poll(&standard_output, 1, 0) == 1 && (standard_output.revents & POLLERR) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  rfseg::cli::guard_standard_streams();
  rfseg::cli::install_signal_handlers();
  int code = 0;
  try {
    code = run(argc, argv);
  } catch (const rfseg::Error& error) {
    const std::string_view what = error.what();
    const bool quiet = error.code() == rfseg::ErrorCode::kOutput &&
                       (what.starts_with("standard output:") || what.starts_with("/dev/stdout:")) &&
                       reader_has_left();
    rfseg::log_message(quiet ? rfseg::LogLevel::kDebug : rfseg::LogLevel::kError, error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    rfseg::log_message(rfseg::LogLevel::kError,
                       "out of memory; smaller inputs, --shape or --batch need less");
    return static_cast<int>(rfseg::ErrorCode::kDevice);
  } catch (const std::exception& error) {
    rfseg::log_message(rfseg::LogLevel::kError, std::string("unexpected failure: ") + error.what());
    return static_cast<int>(rfseg::ErrorCode::kInternal);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    rfseg::log_message(reader_has_left() ? rfseg::LogLevel::kDebug : rfseg::LogLevel::kError,
                       "standard output: cannot write");
    return static_cast<int>(rfseg::ErrorCode::kOutput);
  }
  return code;
}
