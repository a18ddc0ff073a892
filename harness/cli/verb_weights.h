// meshparity weights: are two sets of weights the same, and if not, what happened to which?
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_weights(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
