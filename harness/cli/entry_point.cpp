// What meshparity and meshparity-judge do alike with a command line.
#include <csignal>
#include <iostream>
#include <string>

#include "harness/cli/verbs.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

// CLI11 and the libraries below may write several lines; a user's log gets one.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

// CLI11 only says that a subcommand is required where a mistyped one stands.
void refuse_unknown_verb(CLI::App& app, int argc, char** argv, int at, const std::string& before) {
  const std::string word = at < argc ? argv[at] : "";
  if (word.empty() || word[0] == '-') return;
  std::string verbs;
  for (auto* verb : app.get_subcommands([](CLI::App*) { return true; })) {
    if (verb->get_name() == word) {
      if (verb->get_require_subcommand_min() > 0) refuse_unknown_verb(*verb, argc, argv, at + 1, word + " ");
      return;
    }
    if (!verb->get_group().empty())
      verbs += (verbs.empty() ? "" : ", ") + verb->get_name();  // not the hidden
  }
  throw InputError("unknown verb '" + before + word + "'; there are " + verbs);
}

int complain(const std::string& text, int code) {
  std::cerr << "meshparity: " << one_line(text) << "\n";
  return code;
}

}  // namespace

int run_command_line(CLI::App& app, Chosen& chosen, int argc, char** argv) {
  // A file size limit that is reached must be an error with a name, as a full disk is, not the end of the
  // process.
  std::signal(SIGXFSZ, SIG_IGN);
  const std::string verb = argc > 1 && argv[1][0] != '-' ? argv[1] + std::string(" ") : "";
  try {
    refuse_unknown_verb(app, argc, argv, 1, "");
    app.parse(argc, argv);
    return chosen.run();
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return complain(one_line(error.what()) + " (meshparity " + verb + "--help lists what there is)", 2);
  } catch (const InputError& error) {
    return complain(error.what(), 2);
  } catch (const std::exception& error) {
    return complain(error.what(), 3);
  }
}

}  // namespace meshparity::cli
