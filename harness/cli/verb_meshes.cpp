// meshparity meshes: valid and refused meshes of a model, with reasons.
#include <iostream>

#include "harness/cli/verbs.h"
#include "harness/types/mesh.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

int list_meshes(const std::string& model, int least, int most, bool all_flags) {
  const ModelConfig config = scenarios::load_model(model);
  int valid = 0, refused = 0;
  for (int world = least; world <= most; ++world)
    for (const auto& mesh : enumerate_meshes(world)) {
      const std::string reason = refusal(mesh, {}, config);
      if (!reason.empty()) {
        std::cout << "refused  " << reason << "\n";
        ++refused;
        continue;
      }
      ++valid;
      std::cout << "valid    " << mesh.text() << (all_flags && mesh.tp > 1 ? "  sp=off|on" : "") << "\n";
    }
  std::cout << valid << " valid, " << refused << " refused (world " << least << " to " << most << ", "
            << model << ")\n";
  return 0;
}

}  // namespace

void add_meshes(CLI::App& app, Chosen& chosen) {
  struct Options {
    std::string model = "tiny-dense";
    int world = 0, most = 8;
    bool flags = false;
  };
  auto options = std::make_shared<Options>();
  auto* verb = app.add_subcommand("meshes", "List valid and refused meshes of a model, with reasons");
  verb->add_option("--model", options->model,
                   "tiny-dense, tiny-moe, a config.json or a Hugging Face directory");
  verb->add_option("--world", options->world, "exactly this many ranks")->check(CLI::Range(1, 4096));
  verb->add_option("--up-to", options->most, "all worlds up to this size (default 8)")
      ->check(CLI::Range(1, 4096));
  verb->add_flag("--flags", options->flags, "also the flag values each mesh takes");
  verb->callback([options, &chosen] {
    chosen.run = [o = options] {
      return list_meshes(o->model, o->world ? o->world : 1, o->world ? o->world : o->most, o->flags);
    };
  });
}

}  // namespace meshparity::cli
