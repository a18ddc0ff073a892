// meshparity-judge: the verbs that compute no model (compare, golden, export, report). It links no LibTorch,
// so whoever only judges dumps needs no 1.3 GB wheel; meshparity hands these verbs to it. To add a verb:
// verb_<name>.{h,cpp}, one line in main.
#include <csignal>
#include <iostream>
#include <string>

#include "harness/cli/verb_compare.h"
#include "harness/cli/verb_export.h"
#include "harness/cli/verb_golden.h"
#include "harness/cli/verb_report.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"

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
    verbs += (verbs.empty() ? "" : ", ") + verb->get_name();
  }
  throw meshparity::InputError("unknown verb '" + before + word + "'; there are " + verbs);
}

int complain(const std::exception& error, int code) {
  std::cerr << "meshparity: " << one_line(error.what()) << "\n";
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  // A file size limit that is reached must be an error with a name, as a full disk is, not the end of the
  // process.
  std::signal(SIGXFSZ, SIG_IGN);
  using namespace meshparity;
  CLI::App app("Judges dumps and goldens of Qwen3.5 runs; needs no LibTorch.", "meshparity");
  app.set_version_flag("--version", std::string("meshparity ") + cli::kVersion);
  app.require_subcommand(1);
  cli::Chosen chosen;
  cli::add_compare(app, chosen);
  cli::add_golden(app, chosen);
  cli::add_export(app, chosen);
  cli::add_report(app, chosen);
  try {
    refuse_unknown_verb(app, argc, argv, 1, "");
    app.parse(argc, argv);
    return chosen.run();
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return complain(error, 2);
  } catch (const InputError& error) {
    return complain(error, 2);
  } catch (const std::exception& error) {
    return complain(error, 3);
  }
}
