// Weights in a torch .pt file: a state dict, read by the pickle interpreter that runs nothing.
#pragma once

#include "golden/weight_views.h"

namespace meshparity::dumps {

// Is it a zip of torch.save?
bool is_torch_file(const std::string& path);

// Every tensor of the state dict: the dictionary itself, or the one under model, state_dict, model_state_dict
// or module where the outer one holds no tensors; DataParallel's "module." before every name is taken off.
// Contiguous tensors lie where the file (mapped) stores them, others are copied. Throws InputError naming
// file and weight.
golden::WeightViews torch_weights(const std::string& path);

}  // namespace meshparity::dumps
