// The case options of the command line, the same for gate, run, explain and the lines of .cases files.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "harness/run/case_options.h"
#include "harness/types/case.h"

namespace meshparity::cli {

// Adds --model, --batch, --mesh, ... to `app`; lists are comma separated.
void add_case_arguments(CLI::App& app, run::CaseOptions& options);

// Options of one case line. Throws InputError naming the word that is wrong.
run::CaseOptions parse_case_line(const std::string& line);

// The model of a case: a golden's own /config where one is given, else the model named.
ModelConfig config_of(const std::string& model, const std::string& golden);

// Throws InputError for a batch that is neither packaged, nor a file, nor a text that can be one.
void require_batches(const run::CaseOptions& options);

// Expands with the model loader behind it (a golden's own /config where one is given).
run::Expansion expand_cases(const run::CaseOptions& options);

// All lines of a .cases file, expanded; errors are "FILE:LINE: ...". Cases that two lines share are run once.
run::Expansion expand_case_file(const std::string& name_or_path);

// The one case of a line that describes exactly one.
CaseSpec single_case(const std::string& line);

}  // namespace meshparity::cli
