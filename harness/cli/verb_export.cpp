// meshparity export --golden G --to DIR writes what somebody else's trainer needs to compute what the golden
// holds:
//   config.json, model.safetensors   the checkpoint in Hugging Face's format
//   batch.safetensors                what the golden holds below /inputs, images and videos included
//   check.py, images.py, lift.py     a trainer in 40 lines that writes a dump for `meshparity compare`; a
//   frame for one's own
// Everything is written into a folder beside DIR first and moved at the end, so DIR never holds a part.
#include "harness/cli/verb_export.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "golden/checkpoint.h"
#include "golden/schema.h"
#include "golden/store.h"
#include "harness/cli/staging_folder.h"
#include "harness/types/command_line.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kScripts[] = {"check.py", "images.py", "lift.py"};

struct ExportOptions {
  std::string golden, to;
  bool force = false;
};

// golden/upstream of the source tree, or where an installed executable carries it.
fs::path scripts_folder() {
  std::vector<fs::path> tried;
  if (const char* source = std::getenv("MESHPARITY_SOURCE"); source && *source)
    tried.push_back(fs::path(source) / "golden/upstream");
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) tried.push_back(executable.parent_path().parent_path() / "share/meshparity/upstream");
  tried.push_back(fs::path(MESHPARITY_SOURCE_DIR) / "golden/upstream");
  for (const auto& folder : tried)
    if (fs::is_regular_file(folder / kScripts[0], error)) return folder;
  throw InputError(tried.back().string() +
                   ": has no check.py; set MESHPARITY_SOURCE to meshparity's source folder");
}

std::map<std::string, HostTensor> weights_of(const golden::Store& store) {
  std::map<std::string, HostTensor> weights;
  for (const auto& [path, tensor] : store.tensors)
    if (const std::string name = golden::after(path, "weights/"); !name.empty())
      weights.emplace(name, tensor);
  return weights;
}

int export_golden(const ExportOptions& o) {
  const fs::path target = writable_target(o.to, o.force), scripts = scripts_folder();
  const golden::Store store = golden::read(o.golden, golden::Kind::golden);
  const std::string& config_json = store.strings.at("config");
  const ModelConfig config = scenarios::parse_model_config(config_json, o.golden + ": config");
  golden::check_weights(store, config);

  const StagingFolder staging(target);
  golden::save_checkpoint(staging.path().string(), config_json, weights_of(store));
  golden::export_batch(staging.path().string(), golden::batch_of(store));
  for (const char* script : kScripts) {
    std::error_code error;
    fs::copy_file(scripts / script, staging.path() / script, error);
    if (error) throw InputError((scripts / script).string() + ": cannot be copied: " + error.message());
  }
  staging.move_to(target);

  const std::string golden_path = quoted(fs::absolute(o.golden).lexically_normal().string());
  std::cout << "wrote config.json, model.safetensors, batch.safetensors, check.py, images.py and lift.py to "
            << target.string() << "\n";
  if (config.mtp_num_hidden_layers > 0)
    std::cout << "note: transformers has no multi-token prediction; check.py leaves it out, your trainer may "
                 "dump its gradients as expected/grads_mtp\n";
  std::cout << "next: cd " << quoted(target.string())
            << " && python check.py    (needs torch, transformers, h5py)\n"
            << "then: ./meshparity compare --golden " << golden_path << " "
            << quoted((target / "dump.h5").string()) << std::endl;
  return 0;
}

}  // namespace

void add_export(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<ExportOptions>();
  auto* verb =
      app.add_subcommand("export", "Write a golden as a trainer's inputs: checkpoint, batch, check.py");
  verb->add_option("--golden", o->golden, "golden file")->required();
  verb->add_option("--to", o->to, "folder to write; made where it does not exist")->required();
  verb->add_flag("--force", o->force, "write into a folder that is not empty");
  verb->callback([o, &chosen] { chosen.run = [o] { return export_golden(*o); }; });
}

}  // namespace meshparity::cli
