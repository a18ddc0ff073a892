// meshparity: entry point and composition root. Verbs that need no LibTorch are handed to meshparity-judge
// beside it.
#include <ATen/Parallel.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "harness/cli/verbs.h"
#include "harness/run/interruption.h"

namespace {

namespace fs = std::filesystem;
using namespace meshparity;

// Verbs of meshparity-judge, for the help text and for handing over.
struct Handed {
  const char* name;
  const char* help;
};
constexpr Handed kHanded[] = {
    {"compare", "Judge a dump of any origin against a golden or another dump"},
    {"drift", "Judge train against rollout logprobs from dumps"},
    {"golden", "verify | inspect | diff | regenerate golden files"},
    {"export", "Write a golden as a trainer's inputs"},
    {"report", "Render the result of an earlier --json"},
    {"plan", "Memory and communication of every rank of a mesh, without running it"},
    {"cut", "Write a small checkpoint with the real weights of a big one"},
    {"weights", "Are two sets of weights the same, and if not, what happened?"}};

// The forms of handed verbs that stay here: golden regenerate, drift --model.
bool runs_a_model(int argc, char** argv) {
  const std::string verb = argv[1];
  if (verb == "golden") return argc > 2 && std::string(argv[2]) == "regenerate";
  for (int i = 2; verb == "drift" && i < argc; ++i)
    if (const std::string word = argv[i]; word == "--model" || word.starts_with("--model=")) return true;
  return false;
}

int hand_over(char** argv) {
  const fs::path judge = fs::read_symlink("/proc/self/exe").parent_path() / "meshparity-judge";
  argv[0] = const_cast<char*>(judge.c_str());
  ::execv(judge.c_str(), argv);
  std::cerr << "meshparity: " << judge.string() << " cannot be started\n";
  return 3;
}

// Results must not depend on how threads split a sum or on alignment: fixed before LibTorch reads them.
void pin_numerics() {
  ::setenv("OMP_NUM_THREADS", "1", 1);
  ::setenv("MKL_NUM_THREADS", "1", 1);
  ::setenv("MKL_CBWR", "AUTO,STRICT", 1);
  // The flight recorder is one for the process and not safe where several Gloo ranks are threads of it.
  ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  at::set_num_threads(1);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  for (const auto& handed : kHanded)
    if (verb == handed.name && !runs_a_model(argc, argv)) return hand_over(argv);

  pin_numerics();
  CLI::App app("Proves that a parallel Qwen3.5 computes what the model says.", "meshparity");
  app.set_version_flag("--version", std::string("meshparity ") + cli::kVersion);
  app.require_subcommand(1);
  cli::Chosen chosen;
  cli::add_gate(app, chosen);
  cli::add_run(app, chosen);
  cli::add_meshes(app, chosen);
  cli::add_faults(app, chosen);
  cli::add_demo(app, chosen);
  cli::add_bench(app, chosen);
  for (const auto& handed : kHanded) {
    if (std::string(handed.name) == "golden")
      cli::add_regenerate(app, chosen);
    else if (std::string(handed.name) == "drift")
      cli::add_model_drift(app, chosen);
    else
      app.add_subcommand(handed.name, handed.help);
  }
  try {
    return cli::run_command_line(app, chosen, argc, argv);
  } catch (const run::Interrupted& interrupted) {
    std::cerr << "meshparity: " << interrupted.what << "; no report was written" << std::endl;
    run::end_by_signal(interrupted.signal);
  }
}
