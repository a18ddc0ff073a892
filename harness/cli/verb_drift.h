// meshparity drift: train against rollout, from dumps of per-token logprobs.
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_drift(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
