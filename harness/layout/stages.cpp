#include "harness/layout/stages.h"

#include <cstdlib>
#include <string>

#include "harness/types/cut.h"

namespace meshparity::layout {

int virtual_stages(const Mesh& mesh, const Flags& flags) {
  return mesh.pp * (mesh.pp > 1 && flags.schedule == "interleaved" ? 2 : 1);
}

int stage_of_layer(const ModelConfig& config, const Mesh& mesh, const Flags& flags, std::int64_t layer) {
  const int stages = virtual_stages(mesh, flags);
  for (int v = 0; v < stages; ++v)
    if (layer < cut(config.num_hidden_layers, stages, v).end) return v % mesh.pp;
  return mesh.pp - 1;
}

bool on_stage(const ModelConfig& config, const Mesh& mesh, const Flags& flags, std::string_view name,
              int pp) {
  if (mesh.pp == 1) return true;
  const bool last = pp == mesh.pp - 1;
  if (name.find("visual.") != std::string_view::npos) return pp == 0;
  if (name.rfind("mtp.", 0) == 0) return last;
  if (const auto at = name.find("layers."); at != std::string_view::npos)
    return stage_of_layer(config, mesh, flags, std::atoll(std::string(name.substr(at + 7)).c_str())) == pp;
  // A tied embedding is the head as well; its activation is the first stage's alone.
  if (name.find("embed") != std::string_view::npos)
    return pp == 0 || (last && config.tie_word_embeddings && name != "embed");
  return last;
}

}  // namespace meshparity::layout
