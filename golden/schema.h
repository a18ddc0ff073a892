// What a golden or a dump must hold: paths, dtypes, and shapes that agree with the configuration, the weights
// and the batch. To add a dataset to the schema: one row in schema.cpp and one in docs/golden-format.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "golden/flat.h"
#include "golden/store.h"
#include "harness/types/model_config.h"

namespace meshparity::golden {

inline constexpr int kSchema = 1;

// Every stored hash against the content; a golden must have them all, a dump's are verified where they are.
// Throws InputError naming the dataset.
void verify_hashes(const RawContent& content, Kind kind);

// Paths, dtypes and shapes. A golden: float64 weights and expected values, finite, nothing unknown, nothing
// missing but /train and parts of /expected. A dump: any floating dtype and any part; what is there must be
// consistent. Throws InputError naming the dataset.
void check_schema(const Store& store, Kind kind);

// Weights (and with them gradients and stepped weights, which check_schema holds equal in shape) against the
// parameters that `config` has: none missing, none unknown, every shape right. Throws InputError naming the
// weight.
void check_weights(const Store& store, const ModelConfig& config);

// vocab_size of the configuration stored in the file, else the width of expected/logits, else 0.
std::int64_t vocab_of(const Store& store);

// Number of expected/step<k>, which must be numbered 1..steps.
int steps_of(const Store& store);

// The part of `path` after `prefix`, or empty if it does not begin with it.
std::string after(const std::string& path, const std::string& prefix);

}  // namespace meshparity::golden
