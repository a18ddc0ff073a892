// meshparity compare: a dump of any origin against a golden or another dump.
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_compare(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
