// Weight sets on disk behind one face: Hugging Face directories, single safetensors files, HDF5 goldens and
// dumps.
#pragma once

#include <memory>
#include <string>

#include "harness/types/weight_set.h"

namespace meshparity::golden {

// `argument`: a directory with model.safetensors or its index, a .safetensors file, an HDF5 golden or dump
// (its /weights; "FILE:step2" its /expected/step2/weights). Names lose the multimodal class's infix; fused
// experts are taken apart into views of one expert each ("...experts.3.up_proj.weight"), so that both ways to
// store them compare. safetensors stay on disk, HDF5 is read whole. Throws InputError naming file and weight.
std::unique_ptr<WeightSet> open_weights(const std::string& argument);

}  // namespace meshparity::golden
