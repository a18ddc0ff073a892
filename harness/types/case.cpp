#include "harness/types/case.h"

#include "harness/types/command_line.h"

namespace meshparity {
std::string CaseSpec::line() const {
  const CaseSpec plain;
  std::string out;
  const auto add = [&](const char* option, const std::string& value, bool shown) {
    if (shown) out += (out.empty() ? "--" : " --") + std::string(option) + " " + quoted(value);
  };
  const auto on = [](bool b) { return std::string(b ? "on" : "off"); };
  add("model", model, golden.empty());
  add("batch", batch, golden.empty());
  add("golden", golden, !golden.empty());
  add("mesh", mesh.text(), true);
  add("sp", on(flags.sp), flags.sp);
  add("gdn", flags.gdn, flags.gdn != plain.flags.gdn);
  add("attn", flags.attn, flags.attn != plain.flags.attn);
  add("layout", flags.layout, flags.layout != plain.flags.layout);
  add("schedule", flags.schedule, flags.schedule != plain.flags.schedule);
  add("recompute", on(flags.recompute), flags.recompute);
  add("pad", flags.pad, flags.pad != plain.flags.pad);
  add("vision", flags.vision, flags.vision != plain.flags.vision);
  if (rollout_mesh) add("rollout-mesh", rollout_mesh->text(), true);
  add("rollout", rollout.text(), !(rollout == plain.rollout));
  add("loss", loss, loss != plain.loss);
  add("loss-form", loss_form, loss_form != plain.loss_form);
  add("steps", std::to_string(steps), steps >= 0);
  add("dtype", std::string(dtype_name(dtype)), dtype != plain.dtype);
  std::string joined;
  for (const auto& c : checks) joined += (joined.empty() ? "" : ",") + c;
  add("check", joined, !checks.empty());
  add("tensor", tensor, tensor != "*");
  add("engine", engine, engine != plain.engine);
  add("reduce", reduce, reduce != plain.reduce);
  add("spawn", std::to_string(spawn), spawn > 0);
  add("device", device, device != plain.device);
  add("fault", fault, !fault.empty());
  add("seed", std::to_string(seed), seed != 0);
  if (apart) out += " --apart";
  return out;
}

}  // namespace meshparity
