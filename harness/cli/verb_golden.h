// meshparity golden verify | inspect | diff. (`golden regenerate` computes and stands in
// verb_regenerate.cpp.)
#pragma once

#include "harness/cli/verbs.h"

namespace meshparity::cli {

void add_golden(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
