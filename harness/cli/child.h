// Runs another program and waits for it.
#pragma once

#include <string>
#include <vector>

namespace meshparity::cli {

// Starts `argv` (found on PATH where argv[0] has no slash) with this process's environment and output, in
// `folder` where it is not empty, and waits. Returns its exit code. Throws RunError where it cannot be
// started or dies of a signal.
int run_child(std::vector<std::string> argv, const std::string& folder = "");

}  // namespace meshparity::cli
