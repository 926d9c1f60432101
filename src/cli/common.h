#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/log.h"
#include "rfseg/model.h"
#include "rfseg/options.h"

namespace rfseg::cli {

/// Options that every verb that runs something takes, as the user typed them.
struct CommonOptions {
  std::string model;
  std::string shape;
  std::string stats;  ///< file for --stats, empty = none
  ModelOptions model_options;

  /// The model options with `shape` applied. Throws Error(kUsage).
  ModelOptions resolved() const;
};

/// Messages up to this level go to stderr, one a line.
void log_to_stderr(LogLevel level);
/// Whether errors alone are to be seen (--quiet); no progress either then.
bool is_quiet();
/// "HxW" or one number for a square, as rows, columns, each 1 to `max_side`, of at most
/// kMostMaskPixels in all. Throws Error(kUsage) naming `option`.
std::pair<int, int> parse_size(const std::string& text, const char* option, int max_side = 65535);
/// Whole numbers separated by commas, each 1 to `most`. Throws Error(kUsage) naming `option`, with
/// `example`.
std::vector<int> parse_counts(const std::string& text, const char* option, const char* example,
                              int most);
/// One class name a line. Throws Error(kInput).
std::vector<std::string> read_class_file(const std::string& path);

/// Refuses names of another model (--classes), which would name everything wrongly: `logits` are
/// wanted, or one less, as the last column of a fine-tune is the background. None are no names.
/// Throws Error(kUsage).
void check_class_count(std::size_t names, int logits);

/// Throws Error(kUsage): "NAME: 'VALUE' is not ACCEPTED".
[[noreturn]] void refuse_value(const std::string& name, const std::string& value,
                               const std::string& accepted);

/// True once the user pressed Ctrl-C (or SIGTERM came).
bool interrupted();
/// Ctrl-C, a closed terminal and SIGTERM end the program at once, without half-written files.
void install_signal_handlers();
/// From here on the first of them only makes `interrupted` true.
void finish_work_on_interrupt();
/// A closed stdin, stdout or stderr is made /dev/null that fails, lest the next file that is opened
/// takes its place and gets the results or the log.
void guard_standard_streams();

/// Peak resident memory of this process, bytes.
std::size_t peak_rss_bytes();
/// "312 ms", "4.2 s", "1:02:03": for people.
std::string human_seconds(double seconds);
/// What runs: device, backend, precision, threads, version; goes into --stats and info.
nlohmann::json runtime_json(const ModelInfo& model, int threads);

/// An output file as the user named it; "-" is standard output.
std::string output_path(const std::string& name);
/// Throws Error(kUsage) where the user named a folder, or a file that must be one, "-".
void refuse_dash(const std::string& path, const char* option, const char* expected);
/// Refuses an output file whose folder is missing, before any work is done for it. `made` is a
/// folder that will be created with its parents before the file is. Throws Error(kOutput) naming
/// both.
void refuse_missing_folder(const std::string& path, const char* option,
                           const std::string& made = "");
/// Creates a folder with its parents. Throws Error(kOutput).
void create_folder(const std::string& path);

}  // namespace rfseg::cli
