#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "cli/verbs.h"

namespace rfseg::cli {
namespace {

std::string option_words(const CLI::App& verb) {
  std::string words;
  for (const CLI::Option* option : verb.get_options()) {
    for (const std::string& name : option->get_lnames()) words += " --" + name;
    for (const std::string& name : option->get_snames()) words += " -" + name;
  }
  return words;
}

// zsh reads the bash script through bashcompinit, so one list serves both.
std::string bash_script(const CLI::App& app) {
  std::string verbs, cases;
  for (const CLI::App* verb : app.get_subcommands({})) {
    verbs += " " + verb->get_name();
    cases += fmt::format("    {}) words=\"{}\" ;;\n", verb->get_name(), option_words(*verb));
  }
  return fmt::format(R"(_rfseg() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" verb="" word words
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) ;; *) verb="$word"; break ;; esac
  done
  case "$verb" in
    "") words="{}{}" ;;
{}  esac
  if [[ "$current" == -* || -z "$verb" ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _rfseg rfseg
)",
                     verbs, option_words(app), cases);
}

std::string fish_script(const CLI::App& app) {
  std::string script;
  for (const CLI::App* verb : app.get_subcommands({})) {
    script += fmt::format("complete -c rfseg -n __fish_use_subcommand -a {} -d '{}'\n",
                          verb->get_name(), verb->get_description());
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        script += fmt::format("complete -c rfseg -n '__fish_seen_subcommand_from {}' -l {}\n",
                              verb->get_name(), name);
      }
    }
  }
  return script;
}

}  // namespace

void add_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "Print a completion script for a shell");
  verb->add_option("shell", *shell, "Which shell")
      ->type_name("{bash,zsh,fish}")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""));
  verb->footer("Example: source <(rfseg completion bash)");
  verb->callback([shell, &app] {
    std::string script = *shell == "fish" ? fish_script(app) : bash_script(app);
    if (*shell == "zsh") script = "autoload -U +X bashcompinit && bashcompinit\n" + script;
    std::fputs(script.c_str(), stdout);
  });
}

}  // namespace rfseg::cli
