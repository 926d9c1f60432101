#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "cli/common.h"

// How verbs declare their options. Apart from common.h, because CLI11 takes seconds to read.

namespace rfseg::cli {

/// -q, -v, --log-level on the program.
void add_log_options(CLI::App& app);
/// -m, --variant, --shape, --device, --precision, --backend, --threads, --weights-cache, --stats.
void add_model_options(CLI::App& app, CommonOptions& options);
/// --device, --precision, --backend, --threads.
void add_runtime_options(CLI::App& app, CommonOptions& options);
/// --like alone, for what resizes nothing.
void add_like_option(CLI::App& app, PredictOptions& options);
/// --like, --resize.
void add_convention_options(CLI::App& app, PredictOptions& options);
/// --threshold, --class-threshold, --max-detections, --num-select, --classes, --keep, --drop.
/// `files` gets the names of the files that the options read.
void add_selection_options(CLI::App& app, PredictOptions& options, std::vector<std::string>& files);

/// Throws Error(kUsage) "NAME: WHY" for the first of the options that the command line has.
void refuse_options(const CLI::App& verb, std::initializer_list<const char*> names,
                    const std::string& why);

/// Throws Error(kUsage) "NAME and OTHER: only one of them is accepted" for the first of the options
/// that the command line has beside OTHER.
void refuse_beside(const CLI::App& verb, std::initializer_list<const char*> names,
                   const char* other);

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
CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high,
                         std::function<void(int)> set, const std::string& description);
CLI::Option* add_integer(CLI::App& app, const std::string& name, int low, int high, int& value,
                         const std::string& description);

}  // namespace rfseg::cli
