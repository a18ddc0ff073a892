// The options of rollout cases: which meshes and rollouts they list, and which other options have no meaning
// there.
#include <charconv>

#include "harness/run/case_options.h"
#include "harness/types/error.h"

namespace meshparity::run {
namespace {

// A rollout case runs training's forward once, in float64 or float32, and no loss, gradient or step.
void require_rollout_options(const CaseOptions& o) {
  const auto refuse = [](const std::string& option, const std::string& why) {
    throw InputError("--" + option + " with --rollout-mesh: " + why);
  };
  const auto other_than = [](const std::vector<std::string>& given, const std::string& value) {
    for (const auto& v : given)
      if (v != value) return true;
    return false;
  };
  if (o.steps > 0) refuse("steps", "a rollout case takes no optimizer step");
  if (o.apart) refuse("apart", "a rollout case runs no reference process of its own");
  if (other_than(o.loss, "token_mean")) refuse("loss", "a rollout case evaluates no loss");
  if (other_than(o.loss_form, "sharded")) refuse("loss-form", "a rollout case evaluates no loss");
  if (other_than(o.recompute, "off")) refuse("recompute", "a rollout case has no backward pass");
  if (o.device != "cpu") refuse("device", "rollout runs on the CPU");
  for (const auto& check : o.check)
    if (check != "rollout" && check != "all")
      refuse("check " + check, "a rollout case has the check rollout");
}

}  // namespace

MeshItem parse_mesh_item(const std::string& option, const std::string& text) {
  MeshItem item;
  for (const char* prefix : {"world<=", "world="}) {
    const std::string p = prefix;
    if (text.rfind(p, 0) != 0) continue;
    const auto digits = text.substr(p.size());
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), item.most);
    if (error != std::errc() || end != digits.data() + digits.size() || item.most < 1 || item.most > 64)
      throw InputError("--" + option + " '" + text + "': needs a world size from 1 to 64");
    item.least = p == "world=" ? item.most : 1;
    return item;
  }
  item.explicit_mesh = true;
  item.mesh = Mesh::parse(text);
  return item;
}

std::vector<RolloutChoice> rollouts_asked(const CaseOptions& o, const ModelConfig& config) {
  if (o.rollout_mesh.empty()) {
    if (!o.rollout.empty()) throw InputError("--rollout " + o.rollout.front() + ": needs --rollout-mesh");
    for (const auto& check : o.check)
      if (check == "rollout") throw InputError("--check rollout: needs --rollout-mesh");
    return {RolloutChoice{}};
  }
  require_rollout_options(o);
  std::vector<RolloutSpec> specs;
  for (const auto& text : o.rollout) specs.push_back(RolloutSpec::parse(text));
  if (specs.empty()) specs.push_back({});
  std::vector<RolloutChoice> choices;
  const auto add = [&](const Mesh& mesh) {
    for (const auto& spec : specs) choices.push_back({mesh, spec});
  };
  for (const auto& text : o.rollout_mesh) {
    const MeshItem item = parse_mesh_item("rollout-mesh", text);
    if (item.explicit_mesh) add(item.mesh);
    for (int world = item.least; !item.explicit_mesh && world <= item.most; ++world)
      for (const auto& mesh : enumerate_meshes(world))
        if (rollout_refusal(mesh, {}, config).empty()) add(mesh);
  }
  return choices;
}

}  // namespace meshparity::run
