#include "cli/unknown_words.h"

#include <fmt/format.h>

#include "core/nearest_word.h"

namespace rfseg::cli {
namespace {

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands({})) names.push_back(verb->get_name());
  return names;
}

void add_option_names(const CLI::App& app, std::vector<std::string>& names) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
}

}  // namespace

std::string describe_unknown_word(const CLI::App& app) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (unknown.empty()) return "";
  const auto chosen = app.get_subcommands();
  const std::string& word = unknown.front();
  if (word.size() > 1 && word[0] == '-') {
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string> known;
    if (!chosen.empty()) add_option_names(*chosen.front(), known);
    add_option_names(app, known);
    const std::string nearest = nearest_word(name, known);
    return fmt::format("{}: {} has no such option{}", name,
                       chosen.empty() ? "rfseg" : chosen.front()->get_name(),
                       nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest));
  }
  if (!chosen.empty()) {
    return fmt::format("'{}': {} takes no further argument", word, chosen.front()->get_name());
  }
  const std::vector<std::string> verbs = verb_names(app);
  const std::string nearest = nearest_word(word, verbs);
  return fmt::format("'{}' is no verb{} Accepted are {}", word,
                     nearest.empty() ? "." : fmt::format(", did you mean {}?", nearest),
                     fmt::join(verbs, ", "));
}

}  // namespace rfseg::cli
