// Which pipeline stage holds a layer, a parameter or an activation: the design's rules of pp and schedule,
// for whoever places or counts without a batch.
#pragma once

#include <string_view>

#include "harness/types/mesh.h"
#include "harness/types/model_config.h"

namespace meshparity::layout {

// Virtual stages of all pp ranks together: 2*pp with schedule=interleaved, else pp. Virtual stage v holds the
// layers cut(layers, all, v) and lies on pp index v mod pp.
int virtual_stages(const Mesh& mesh, const Flags& flags);

// The pp index that holds a layer of the model.
int stage_of_layer(const ModelConfig& config, const Mesh& mesh, const Flags& flags, std::int64_t layer);

// Does a rank of this pp index hold the parameter or activation of that name? The embedding and the vision
// tower are the first stage's, final norm, head and multi-token prediction the last's; a tied embedding is
// the head as well, so that first and last hold it.
bool on_stage(const ModelConfig& config, const Mesh& mesh, const Flags& flags, std::string_view name, int pp);

}  // namespace meshparity::layout
