// Verdict records -> console, JSON, JUnit, Markdown. Touches no tensor.
#pragma once

#include <string>
#include <vector>

#include "harness/types/verdict.h"

namespace meshparity::reports {

struct Run {
  std::string command;                // what was typed
  std::string version;                // meshparity's
  std::vector<std::string> versions;  // "LibTorch 2.11.0", ...
  std::vector<CaseResult> cases;
  std::size_t listed = 0;  // cases that should have run
  double seconds = 0;
};

// The failing-case block: state first, detail indented, re-run line last.
std::string failing_block(const CaseResult& result, const CheckResult& check);
// All blocks of a case (at most `most`, then a line that counts the rest).
std::string case_text(const CaseResult& result, std::size_t most = 5);
// One line per check of a case: its state, how many tensors were judged and not, and which used most of its
// bound.
std::string verdict_table(const CaseResult& result);
// "258 listed  258 pass  0 fail ...  worst bound used 12 % (grads model.norm.weight, tp2)".
std::string summary_text(const Run& run);

std::string to_json(const Run& run, bool detail);  // schema of the design's command-line section
Run from_json(const std::string& text, const std::string& file);
std::string case_to_json(const CaseResult& result);  // one line: also the worker's answer
CaseResult case_from_json(const std::string& line);
std::string to_junit(const Run& run);
std::string to_markdown(const Run& run);
// docs/parity-matrix.md: a verdict and the worst share of a bound for every mesh and model, then for every
// option.
std::string to_parity_matrix(const Run& run);

// Writes text to path whole or not at all (temporary file, fsync, rename). Throws InputError naming the file.
void write_file(const std::string& path, const std::string& text);

}  // namespace meshparity::reports
