// What a command line or a line of a .cases file says about cases, before it is expanded: every option a list
// of values.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/types/case.h"

namespace meshparity::run {

struct CaseOptions {
  std::vector<std::string> model, batch, golden, mesh;
  std::vector<std::string> axes;  // the axes that world=N and world<=N may use; empty: all
  std::vector<std::string> sp, gdn, attn, layout, schedule, recompute, pad, vision;
  std::vector<std::string> loss, loss_form, dtype, check, engine, reduce;
  std::string tensor = "*", device = "cpu", fault;
  int steps = -1, spawn = 0;
  long long seed = 0;
  bool apart = false;
  std::vector<std::string> rollout_mesh, rollout;
};

// One flag of a mesh: its option, its values with the default first, and where it lies in a case. A new flag
// is a row of flag_options(); expansion, random cases and shrinking then know it.
struct FlagOption {
  const char* name;
  std::vector<std::string> values;
  std::vector<std::string> CaseOptions::*given;
  std::string (*get)(const Flags&);
  void (*set)(Flags&, const std::string&);
};
const std::vector<FlagOption>& flag_options();

// The values of a flag that the options ask for, "all" spelled out; its default where they do not say. Throws
// InputError for an unknown value.
std::vector<std::string> values_asked(const FlagOption& flag, const CaseOptions& options);

// A combination that was asked for and cannot be run.
struct Skipped {
  CaseSpec spec;
  std::string reason;
};

struct Expansion {
  std::vector<CaseSpec> cases;  // each once, in the order asked for
  std::vector<Skipped> skipped;
};

// The flags with every value that changes nothing on this mesh set to its default. `why`, if given and empty,
// gets the first such value's reason. `tower`: has the model a vision tower, or may it have one?
Flags canonical_flags(const Mesh& mesh, Flags flags, std::string* why, bool tower = true);

// What an item of --mesh or --rollout-mesh stands for.
struct MeshItem {
  bool explicit_mesh = false;
  Mesh mesh;
  int least = 1, most = 1;  // world sizes
};
// "tp2.fsdp2", "world=8" or "world<=8". Throws InputError naming the option.
MeshItem parse_mesh_item(const std::string& option, const std::string& text);

// How a case is rolled out; without a mesh it is not.
struct RolloutChoice {
  std::optional<Mesh> mesh;
  RolloutSpec spec;
};
// Every rollout mesh asked for with every rollout; of world=N and world<=N those that the model takes. One
// choice without a mesh where no rollout is asked for. Throws InputError for --rollout without
// --rollout-mesh, and for options that say nothing about a rollout case (--steps, --loss, --apart, ...).
std::vector<RolloutChoice> rollouts_asked(const CaseOptions& options, const ModelConfig& config);

// Cross product of all lists. Mesh items are "tp2.fsdp2", "world=8" or "world<=8" (the last two give the
// valid meshes of every model). "all" is every value of a flag. Values that mean the same on a mesh (sp where
// tp = 1, layout where ring = 1) are one case. An explicit mesh or value that a model cannot take is Skipped
// when something else in the same call can; otherwise InputError. `config_of(model, golden)` gives the model
// of a case.
Expansion expand(
    const CaseOptions& options,
    const std::function<ModelConfig(const std::string& model, const std::string& golden)>& config_of);

}  // namespace meshparity::run
