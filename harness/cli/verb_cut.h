// meshparity cut: a small checkpoint from a big one.
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_cut(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
