// meshparity golden regenerate: asks Hugging Face transformers for a golden again and refuses a change it
// cannot explain.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "golden/diff.h"
#include "golden/store.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

extern char** environ;

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

void run_generator(const std::string& python, const fs::path& source,
                   const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {python, (source / "golden" / "upstream" / "generate.py").string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  std::vector<char*> raw;
  for (auto& word : argv) raw.push_back(word.data());
  raw.push_back(nullptr);
  pid_t pid = 0;
  if (const int error = ::posix_spawnp(&pid, raw[0], nullptr, nullptr, raw.data(), environ))
    throw RunError(python + " cannot be started: " + std::strerror(error));
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw RunError("the golden generator failed (its message is above)");
}

int regenerate(const std::string& model, const std::string& batch, const std::string& to,
               const std::string& reason) {
  const char* python = std::getenv("MESHPARITY_UPSTREAM_PYTHON");
  if (!python)
    throw InputError(
        "golden regenerate needs Hugging Face transformers: start it as ./meshparity golden regenerate, "
        "which "
        "sets that up, or point MESHPARITY_UPSTREAM_PYTHON at a Python that has "
        "golden/upstream/requirements.txt");
  const fs::path source = scenarios::scenarios_dir().parent_path();
  const fs::path target =
      to.empty() ? source / "golden" / "data" / (model + "." + batch + ".h5") : fs::path(to);
  const fs::path fresh = target.string() + ".new";
  std::vector<std::string> arguments = {"--model", model, "--batch", batch, "--to", fresh.string()};
  if (!reason.empty()) arguments.insert(arguments.end(), {"--reason", reason});
  run_generator(python, source, arguments);
  if (!fs::exists(target)) {
    fs::rename(fresh, target);
    std::cout << target.string() << ": written, there was none before\n";
    return 0;
  }
  const auto change = golden::explain_change(golden::read(target.string(), golden::Kind::golden),
                                             golden::read(fresh.string(), golden::Kind::golden));
  std::cout << change.text;
  if (change.within_rounding) {
    fs::remove(fresh);
    std::cout << target.string() << ": reproduced within the float64 bounds; the file is left as it is\n";
    return 0;
  }
  if (reason.empty()) {
    fs::remove(fresh);
    std::cerr << "meshparity: " << target.string()
              << ": the numbers changed and no reason is given; nothing was written "
              << "(--reason \"why\" stores it in the file)\n";
    return 1;
  }
  fs::rename(fresh, target);
  std::cout << target.string() << ": replaced, reason stored: " << reason << "\n";
  return 0;
}

}  // namespace

void add_regenerate(CLI::App& app, Chosen& chosen) {
  struct Options {
    std::string model, batch, to, reason;
  };
  auto options = std::make_shared<Options>();
  auto* golden = app.add_subcommand("golden", "verify | inspect | diff | regenerate golden files");
  auto* verb = golden->add_subcommand("regenerate",
                                      "Ask Hugging Face transformers again; refuse an unexplained change");
  verb->add_option("--model", options->model, "tiny-dense, tiny-moe or a config.json")->required();
  verb->add_option("--batch", options->batch, "single, packed-odd, rows or a batch TOML")->required();
  verb->add_option("--to", options->to, "file to write (default: the packaged one)");
  verb->add_option("--reason", options->reason, "why the numbers may change; stored in the file");
  verb->callback([options, &chosen] {
    chosen.run = [o = options] { return regenerate(o->model, o->batch, o->to, o->reason); };
  });
}

}  // namespace meshparity::cli
