#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

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
/// -m, --variant, --shape, --device, --precision, --threads, --backend, --stats.
void add_model_options(CLI::App& app, CommonOptions& options);
void add_runtime_options(CLI::App& app, CommonOptions& options);
/// --like, --resize.
void add_convention_options(CLI::App& app, PredictOptions& options);
/// --threshold, --class-threshold, --max-detections, --num-select, --classes, --keep, --drop.
void add_selection_options(CLI::App& app, PredictOptions& options);

/// "HxW" or one number for a square, as rows, columns. Throws Error(kUsage) naming `option`.
std::pair<int, int> parse_size(const std::string& text, const char* option);
/// One class name a line. Throws Error(kInput).
std::vector<std::string> read_class_file(const std::string& path);

/// True once the user pressed Ctrl-C (or SIGTERM came).
bool interrupted();
void install_signal_handlers();

/// Peak resident memory of this process, bytes.
std::size_t peak_rss_bytes();
/// "312 ms", "4.2 s", "1:02:03": for people.
std::string human_seconds(double seconds);
/// What runs: device, backend, precision, threads, version; goes into --stats and info.
nlohmann::json runtime_json(const std::string& backend, int threads);

/// Refuses an output that is one of the inputs. Throws Error(kUsage) naming both.
void refuse_overwriting_input(const std::string& output, const std::vector<std::string>& inputs,
                              const char* option);
/// Creates a folder with its parents. Throws Error(kOutput).
void create_folder(const std::string& path);

}  // namespace rfseg::cli
