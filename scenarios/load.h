// Reads what scenarios/ holds as data: models, batches, placements, tolerances, case files. Every error names
// the file and the field (InputError).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "harness/types/placement.h"
#include "harness/types/precision.h"
#include "harness/types/tolerance_rows.h"

namespace meshparity::scenarios {

// Folder with models/, batches/, *.cases, placements.toml, tolerance.toml: MESHPARITY_SCENARIOS or
// <source>/scenarios.
std::filesystem::path scenarios_dir();

// A Qwen3.5 config.json text (Hugging Face format, text-only or multimodal). Throws InputError naming `file`
// and the field for a config that is not Qwen3.5's or has a wrong field.
ModelConfig parse_model_config(const std::string& json, const std::string& file);
// The same model without its layer of multi-token prediction.
ModelConfig without_multi_token_prediction(const ModelConfig& config);
// A name in scenarios/models, a config.json, a directory that holds one, or a shape
// (harness/types/model_shape.h). "text:" before a name, file or directory: its text model alone.
ModelConfig load_model(const std::string& name_or_path);

// A batch described by TOML (rows of document lengths, micro-batches, mask, seed), its ids drawn from a
// counter-based generator so that token i is a function of (seed, i). A name in scenarios/batches, a file, or
// "tokens:..." (harness/types/batch_shape.h).
Batch load_batch(const std::string& name_or_path, const ModelConfig& config);
// The [train] table of a batch; the defaults for "tokens:...".
TrainSpec load_train(const std::string& name_or_path);

// scenarios/placements.toml resolved for a model: one row per parameter, in parameters_of order.
PlacementTable load_placements(const ModelConfig& config);
tolerance::Policy load_tolerance();

// A dtype policy: a name in scenarios/policies or a TOML with a dtype for every place.
PrecisionPolicy load_policy(const std::string& name_or_path);

// The lines of a .cases file without comments and blanks: (line number, text).
struct CaseLine {
  int number = 0;
  std::string text;
};
std::vector<CaseLine> load_cases(const std::string& name_or_path);

// scenarios/faults/not_planted.toml: rows of the public list of faults that nothing here can show yet.
struct UnplantedFault {
  std::string id;
  std::string kind;       // layout, communication, ...
  std::string waits_for;  // axis or lane that must come first, or why none will
  std::string why;        // more words, may be empty
};
std::vector<UnplantedFault> load_unplanted_faults();

}  // namespace meshparity::scenarios
