#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

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

/// -q, -v, --log-level on the program.
void add_log_options(CLI::App& app);
/// Whether errors alone are to be seen (--quiet); no progress either then.
bool is_quiet();
/// -m, --variant, --shape, --device, --precision, --threads, --backend, --stats.
void add_model_options(CLI::App& app, CommonOptions& options);
void add_runtime_options(CLI::App& app, CommonOptions& options);
/// --like, --resize.
void add_convention_options(CLI::App& app, PredictOptions& options);
/// --threshold, --class-threshold, --max-detections, --num-select, --classes, --keep, --drop.
/// `files` gets the names of the files that the options read.
void add_selection_options(CLI::App& app, PredictOptions& options, std::vector<std::string>& files);

/// "HxW" or one number for a square, as rows, columns, each 1 to `max_side`. Throws Error(kUsage)
/// naming `option`.
std::pair<int, int> parse_size(const std::string& text, const char* option, int max_side = 65535);
/// Whole numbers separated by commas, each 1 to `most`. Throws Error(kUsage) naming `option`, with
/// `example`.
std::vector<int> parse_counts(const std::string& text, const char* option, const char* example,
                              int most);
/// One class name a line. Throws Error(kInput).
std::vector<std::string> read_class_file(const std::string& path);

/// Throws Error(kUsage): "NAME: 'VALUE' is not ACCEPTED".
[[noreturn]] void refuse_value(const std::string& name, const std::string& value,
                               const std::string& accepted);

/// An option that takes one of a few words. Anything else is an Error(kUsage) that lists them.
template <class T>
CLI::Option* add_choice(CLI::App& app, const std::string& name,
                        std::vector<std::pair<std::string, T>> choices, std::function<void(T)> set,
                        const std::string& description) {
  std::string type;
  for (const auto& [label, value] : choices) type += (type.empty() ? "{" : ",") + label;
  return app
      .add_option_function<std::string>(
          name,
          [name, choices = std::move(choices), set = std::move(set)](const std::string& word) {
            std::string known;
            for (const auto& [label, value] : choices) {
              if (label == word) return set(value);
              known += (known.empty() ? "" : ", ") + label;
            }
            refuse_value(name, word, "one of " + known);
          },
          description)
      ->type_name(type + "}");
}
/// An option that takes a number in [low, high]; anything else is an Error(kUsage) that says so.
CLI::Option* add_number(CLI::App& app, const std::string& name, double low, double high,
                        std::function<void(double)> set, const std::string& description);
/// The same for whole numbers.
CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high, int& value,
                         const std::string& description);

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
/// Refuses two outputs of one name, standard output included. Pairs of option and path; empty paths
/// and devices are left out. Throws Error(kUsage) naming both.
void refuse_equal_outputs(const std::vector<std::pair<std::string, std::string>>& outputs);
/// Refuses an output that is one of the inputs. Throws Error(kUsage) naming both.
void refuse_overwriting_input(const std::string& output, const std::vector<std::string>& inputs,
                              const char* option);
/// Creates a folder with its parents. Throws Error(kOutput).
void create_folder(const std::string& path);

}  // namespace rfseg::cli
