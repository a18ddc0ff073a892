// meshparity golden regenerate: asks Hugging Face transformers for a golden again and refuses a change it
// cannot explain.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>

#include "golden/diff.h"
#include "golden/store.h"
#include "harness/cli/child.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// Its exit code. What it has to say is on stderr already, one line where the input was wrong.
int run_generator(const std::string& python, const fs::path& source,
                  const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {python, (source / "golden" / "upstream" / "generate.py").string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  const int code = run_child(argv);
  if (code == 0 || code == 2) return code;
  throw RunError("the golden generator failed (its message is above)");
}

// The new file until it is known what becomes of it; gone at the end unless it replaced the old one.
class FreshFile {
 public:
  explicit FreshFile(const fs::path& target)
      : path_(target.string() + ".new" + std::to_string(::getpid())), target_(target) {}
  ~FreshFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  FreshFile(const FreshFile&) = delete;
  FreshFile& operator=(const FreshFile&) = delete;
  std::string path() const { return path_.string(); }
  void replace_target() const {
    std::error_code error;
    fs::rename(path_, target_, error);
    if (error) throw InputError(target_.string() + ": cannot be written: " + error.message());
  }

 private:
  fs::path path_, target_;
};

struct RegenerateOptions {
  std::string model, batch, to, reason;
};

// Everything that can be refused is refused before transformers is loaded.
fs::path target_of(const RegenerateOptions& o, const fs::path& source) {
  scenarios::load_batch(o.batch, scenarios::load_model(o.model));
  if (o.to.empty() && (o.model + o.batch).find('/') != std::string::npos)
    throw InputError("--to is needed: only a model and a batch of scenarios/ have a packaged golden");
  const fs::path target =
      o.to.empty() ? source / "golden" / "data" / (o.model + "." + o.batch + ".h5") : fs::path(o.to);
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  if (!fs::is_directory(folder))
    throw InputError(target.string() + ": cannot be written: no folder " + folder.string());
  return target;
}

int regenerate(const RegenerateOptions& o) {
  const fs::path source = scenarios::scenarios_dir().parent_path(), target = target_of(o, source);
  std::optional<golden::Store> old_store;
  if (fs::exists(target)) old_store = golden::read(target.string(), golden::Kind::golden);
  const char* python = std::getenv("MESHPARITY_UPSTREAM_PYTHON");
  if (!python)
    throw InputError(
        "golden regenerate needs Hugging Face transformers: start it as ./meshparity golden regenerate, "
        "which sets that up, or point MESHPARITY_UPSTREAM_PYTHON at a Python that has "
        "golden/upstream/requirements.txt");
  const FreshFile fresh(target);
  std::vector<std::string> arguments = {"--model", o.model, "--batch", o.batch, "--to", fresh.path()};
  if (!o.reason.empty()) arguments.insert(arguments.end(), {"--reason", o.reason});
  if (const int code = run_generator(python, source, arguments)) return code;
  const golden::Store new_store = golden::read(fresh.path(), golden::Kind::golden);
  if (!old_store) {
    fresh.replace_target();
    std::cout << target.string() << ": written, there was none before" << std::endl;
    return 0;
  }
  const auto change = golden::explain_change(*old_store, new_store);
  std::cout << change.text;
  if (change.within_rounding) {
    std::cout << target.string() << ": reproduced within the float64 bounds; the file is left as it is"
              << std::endl;
    return 0;
  }
  if (o.reason.empty()) {
    std::cout << std::flush;
    std::cerr << "meshparity: " << target.string()
              << ": the numbers changed and no reason is given; nothing was written "
              << "(--reason \"why\" stores it in the file)\n";
    return 1;
  }
  fresh.replace_target();
  std::cout << target.string() << ": replaced, reason stored: " << o.reason << std::endl;
  return 0;
}

}  // namespace

void add_regenerate(CLI::App& app, Chosen& chosen) {
  auto options = std::make_shared<RegenerateOptions>();
  auto* golden = app.add_subcommand("golden", "verify | inspect | diff | regenerate golden files");
  auto* verb = golden->add_subcommand("regenerate",
                                      "Ask Hugging Face transformers again; refuse an unexplained change");
  verb->add_option("--model", options->model, "tiny-dense, tiny-moe or a config.json")->required();
  verb->add_option("--batch", options->batch, "single, packed-odd, rows, boundaries, grids or a batch TOML")
      ->required();
  verb->add_option("--to", options->to, "file to write (default: the packaged one)");
  verb->add_option("--reason", options->reason, "why the numbers may change; stored in the file");
  verb->callback([options, &chosen] { chosen.run = [options] { return regenerate(*options); }; });
}

}  // namespace meshparity::cli
