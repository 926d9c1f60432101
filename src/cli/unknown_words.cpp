#include "cli/unknown_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace rfseg::cli {
namespace {

std::size_t distance(const std::string& a, const std::string& b) {
  // Rows of the table for the last two letters of `a` and this one.
  std::vector<std::size_t> before, last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before = last;
    last = row;
  }
  return last[b.size()];
}

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

std::string nearest_word(const std::string& word, const std::vector<std::string>& known) {
  std::string nearest;
  // Nobody misspells a name at this length, and the table would be as large as the word.
  if (word.size() > 64) return nearest;
  std::size_t best = std::numeric_limits<std::size_t>::max();
  for (const std::string& candidate : known) {
    const std::size_t d = distance(word, candidate);
    if (d < best && 3 * d <= std::max(word.size(), candidate.size())) {
      best = d;
      nearest = candidate;
    }
  }
  return nearest;
}

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
