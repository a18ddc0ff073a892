// meshparity export: a golden as a trainer's inputs.
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_export(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
