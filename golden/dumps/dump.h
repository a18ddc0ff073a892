// Opens dumps of per-token logprobs of any known format: HDF5, safetensors, npz, torch .pt, JSON Lines, JSON.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/types/logprob_sample.h"

namespace meshparity::dumps {

// `argument` is a file or a glob pattern ("dump/*_rank*.pt", in natural order: rank2 before rank10). Formats
// are told by content, not by name. Throws InputError naming file and field for what is missing, damaged or
// unknown.
std::shared_ptr<const SampleSource> open_dump(const std::string& argument);
// The same of these files together, called `name` in messages about all of them.
std::shared_ptr<const SampleSource> open_dump(const std::string& name, const std::vector<std::string>& files);

}  // namespace meshparity::dumps
