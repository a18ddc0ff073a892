#include "harness/cli/verb_golden.h"

#include <algorithm>
#include <iostream>

#include "golden/diff.h"
#include "golden/inspect.h"
#include "golden/schema.h"
#include "golden/store.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

// Everything that can be known of a golden without computing the model: hashes, schema, batch, training, and
// that the weights are those of its configuration.
void verify_one(const std::string& path) {
  const golden::Store store = golden::read(path, golden::Kind::golden);
  const ModelConfig config = scenarios::parse_model_config(store.strings.at("config"), path + ": config");
  golden::check_weights(store, config);
  golden::batch_of(store).validate(path, config);
  const auto hash = store.attributes.find("content_sha256");
  std::cout << "OK " << path << "  " << store.tensors.size() + store.strings.size()
            << " datasets, every hash right, sha256 "
            << (hash == store.attributes.end() ? "-" : hash->second.substr(0, 12)) << std::endl;
}

// Every file is looked at; one line on stderr per file that is wrong.
int verify(const std::vector<std::string>& files) {
  bool good = true;
  for (const auto& file : files) {
    try {
      verify_one(file);
    } catch (const InputError& error) {
      good = false;
      std::cerr << "meshparity: " << error.what() << std::endl;
    }
  }
  return good ? 0 : 2;
}

int inspect(const std::string& file) {
  std::cout << golden::inspect(golden::read(file, golden::Kind::dump)) << std::flush;
  return 0;
}

int diff(const std::string& old_path, const std::string& new_path, bool bitwise, bool everything) {
  const golden::Store want = golden::read(old_path, golden::Kind::dump);
  const golden::Store got = golden::read(new_path, golden::Kind::dump);
  const auto bounds = bitwise ? golden::bitwise_bounds() : golden::float64_bounds(want);
  const auto diffs = golden::diff(got, want, bounds);
  std::cout << golden::diff_text(diffs, everything);
  const bool same = std::all_of(diffs.begin(), diffs.end(), [](const golden::DatasetDiff& d) {
    return d.state == golden::DatasetDiff::State::identical || d.state == golden::DatasetDiff::State::within;
  });
  if (!same) std::cout << golden::explain_change(want, got, bounds).text;
  std::cout << std::flush;
  return same ? 0 : 1;
}

}  // namespace

void add_golden(CLI::App& app, Chosen& chosen) {
  struct Options {
    std::vector<std::string> files;
    std::string file, old_file, new_file;
    bool bitwise = false, everything = false;
  };
  auto o = std::make_shared<Options>();
  auto* verb = app.add_subcommand("golden", "verify | inspect | diff | regenerate golden files");
  verb->require_subcommand(1);
  auto* verify_verb =
      verb->add_subcommand("verify", "Hashes, schema, batch and weights of golden files (exit 2 if wrong)");
  verify_verb->add_option("files", o->files, "golden files")->required();
  verify_verb->callback([o, &chosen] { chosen.run = [o] { return verify(o->files); }; });
  // Known here too, so that help and typos name it; the launcher and meshparity never hand it over.
  auto* regenerate_verb = verb->add_subcommand(
      "regenerate", "Ask Hugging Face transformers again (./meshparity golden regenerate --help)");
  regenerate_verb->allow_extras();
  regenerate_verb->callback([&chosen] {
    chosen.run = []() -> int {
      throw InputError("golden regenerate runs a model: start it as ./meshparity golden regenerate");
    };
  });
  auto* inspect_verb = verb->add_subcommand("inspect", "What a golden or dump holds");
  inspect_verb->add_option("file", o->file, "golden or dump")->required();
  inspect_verb->callback([o, &chosen] { chosen.run = [o] { return inspect(o->file); }; });
  auto* diff_verb = verb->add_subcommand(
      "diff", "Two files dataset by dataset (exit 1 if they differ by more than float64 rounding)");
  diff_verb->add_option("old", o->old_file, "file that is believed")->required();
  diff_verb->add_option("new", o->new_file, "file that is compared with it")->required();
  diff_verb->add_flag("--bitwise", o->bitwise, "any other bit is a difference");
  diff_verb->add_flag("--all", o->everything, "list identical datasets too");
  diff_verb->callback([o, &chosen] {
    chosen.run = [o] { return diff(o->old_file, o->new_file, o->bitwise, o->everything); };
  });
}

}  // namespace meshparity::cli
