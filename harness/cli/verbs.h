// The subcommands that need LibTorch, one file each (verb_<name>.cpp); compare, drift, golden, export,
// report, plan, cut and weights stand in meshparity-judge. Each adds itself to the command line and returns
// its exit code when it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace meshparity::cli {

// Set by the chosen subcommand's callback.
struct Chosen {
  std::function<int()> run;
};

void add_gate(CLI::App& app, Chosen& chosen);
void add_run(CLI::App& app, Chosen& chosen);
void add_meshes(CLI::App& app, Chosen& chosen);
void add_faults(CLI::App& app, Chosen& chosen);
void add_demo(CLI::App& app, Chosen& chosen);
void add_bench(CLI::App& app, Chosen& chosen);
void add_model_drift(CLI::App& app, Chosen& chosen);
void add_regenerate(CLI::App& app, Chosen& chosen);

// Reads the command line and runs the chosen verb. Returns its exit code; 2 for wrong usage or input, 3 for
// any other error, each with one line on stderr. What is not a std::exception passes.
int run_command_line(CLI::App& app, Chosen& chosen, int argc, char** argv);

inline constexpr char kVersion[] = "0.1.0";

}  // namespace meshparity::cli
