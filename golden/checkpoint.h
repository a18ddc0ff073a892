// Hugging Face checkpoints: a directory with config.json and one or many safetensors files, in and out.
#pragma once

#include <map>
#include <string>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"

namespace meshparity::golden {

// Every parameter of `config` under its name here (docs/decisions/0005), in the dtype it is stored in, from
// model.safetensors or from the files named by model.safetensors.index.json. Names of the multimodal class
// (model.language_model.*) are mapped, model.visual.* and mtp.* left out where `config` has no tower (no
// multi-token prediction), experts stored one by one merged
// into experts.gate_up_proj [E,2F,D] and experts.down_proj [E,D,F]. With tied embeddings lm_head.weight may
// stand there if it equals the embedding. Throws InputError naming the file and the weight for one that is
// missing, unknown, twice there or of a wrong shape.
std::map<std::string, HostTensor> load_checkpoint(const std::string& directory, const ModelConfig& config);

// Writes config.json and model.safetensors into `directory`, which is made where it does not exist. Where the
// config is a multimodal one (it has a text_config), under the names of the multimodal class.
void save_checkpoint(const std::string& directory, const std::string& config_json,
                     const std::map<std::string, HostTensor>& weights);

// Writes batch.safetensors, the inputs that a golden holds by their names below /inputs: token_ids [N],
// labels [N], document_offsets [D+1], row_offsets [R+1], micro_batch_offsets [M+1]; where the batch has them
// position_ids [3,N], pixel_values [patches, width] with image_grid_thw [images, 3], the same of videos,
// advantages [N] and old_logprobs [N].
void export_batch(const std::string& directory, const Batch& batch);

}  // namespace meshparity::golden
