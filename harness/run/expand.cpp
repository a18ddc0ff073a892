// Case expansion: lists of values -> distinct valid cases, everything impossible with its reason.
#include <algorithm>
#include <set>

#include "harness/run/case_options.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::run {
namespace {

using Strings = std::vector<std::string>;

// A row of flag_options() for a flag that is a word, and for one that is on or off.
template <std::string Flags::*field>
FlagOption word_flag(const char* name, Strings values, Strings CaseOptions::*given) {
  return {name, std::move(values), given, [](const Flags& f) { return f.*field; },
          [](Flags& f, const std::string& value) { f.*field = value; }};
}
template <bool Flags::*field>
FlagOption switch_flag(const char* name, Strings CaseOptions::*given) {
  return {name,
          {"off", "on"},
          given,
          [](const Flags& f) { return std::string(f.*field ? "on" : "off"); },
          [](Flags& f, const std::string& value) { f.*field = value == "on"; }};
}

// Uses this mesh only axes of the list?
bool keeps_to(const Mesh& mesh, const Strings& axes) {
  if (axes.empty()) return true;
  const std::pair<const char*, int> sizes[] = {{"pp", mesh.pp},     {"dp", mesh.dp},   {"fsdp", mesh.fsdp},
                                               {"ring", mesh.ring}, {"uly", mesh.uly}, {"tp", mesh.tp},
                                               {"ep", mesh.ep}};
  Mesh plain = mesh;
  plain.etp = 0;
  for (const auto& [axis, size] : sizes) {
    // etp is read with ep: leaving that out leaves experts as tp cuts them.
    bool listed = size == 1 && !(std::string_view(axis) == "ep" && !(plain == mesh));
    for (const auto& a : axes) listed |= a == axis;
    if (!listed) return false;
  }
  return true;
}

DType case_dtype(const std::string& name) {
  if (name == "float64" || name == "float32") return parse_dtype(name);
  if (name == "bfloat16")
    throw InputError("--dtype bfloat16 is not in this version; float64 and float32 are");
  throw InputError("--dtype '" + name + "' is unknown: float64, float32");
}

const Strings kChecks = {"logits",  "logprobs", "loss",      "grads",       "grad_norm",
                         "weights", "replicas", "placement", "activations", "rollout"};

Strings check_list(const Strings& given) {
  Strings out;
  for (const auto& c : given) {
    if (c == "all") return {};
    bool known = false;
    for (const auto& k : kChecks) known |= k == c;
    if (!known)
      throw InputError("--check '" + c +
                       "' is unknown: logits, logprobs, loss, grads, grad_norm, weights, "
                       "replicas, placement, activations, rollout, all");
    out.push_back(c);
  }
  return out;
}

void check_words(const char* option, const Strings& values, const Strings& known) {
  for (const auto& v : values) {
    bool found = false;
    for (const auto& k : known) found |= k == v;
    std::string list;
    for (const auto& k : known) list += (list.empty() ? "" : ", ") + k;
    if (!found) throw InputError("--" + std::string(option) + " '" + v + "' is unknown: " + list);
  }
}

Strings or_default(const Strings& given, const char* value) {
  return given.empty() ? Strings{value} : given;
}

}  // namespace

const std::vector<FlagOption>& flag_options() {
  using O = CaseOptions;
  static const std::vector<FlagOption> table = {
      switch_flag<&Flags::sp>("sp", &O::sp),
      word_flag<&Flags::gdn>("gdn", {"state", "heads", "gather", "hybrid"}, &O::gdn),
      word_flag<&Flags::attn>("attn", {"ring", "gather"}, &O::attn),
      word_flag<&Flags::layout>("layout", {"contiguous", "zigzag", "zigzag-document"}, &O::layout),
      word_flag<&Flags::schedule>("schedule", {"1f1b", "gpipe", "interleaved"}, &O::schedule),
      switch_flag<&Flags::recompute>("recompute", &O::recompute),
      word_flag<&Flags::pad>("pad", {"none", "left", "right", "document"}, &O::pad),
      word_flag<&Flags::vision>("vision", {"tensor", "images"}, &O::vision),
  };
  return table;
}

std::vector<std::string> values_asked(const FlagOption& flag, const CaseOptions& options) {
  const Strings& given = options.*flag.given;
  if (given.empty()) return {flag.values.front()};
  Strings out;
  for (const auto& value : given) {
    if (value == "all") {
      out.insert(out.end(), flag.values.begin(), flag.values.end());
      continue;
    }
    bool known = false;
    for (const auto& v : flag.values) known |= v == value;
    if (!known) {
      std::string list;
      for (const auto& v : flag.values) list += (list.empty() ? "" : ", ") + v;
      throw InputError("--" + std::string(flag.name) + " '" + value + "' is unknown: " + list + ", all");
    }
    out.push_back(value);
  }
  return out;
}

Flags canonical_flags(const Mesh& mesh, Flags flags, std::string* why, bool tower) {
  const Flags plain;
  const auto idle = [&](auto Flags::*field, bool takes_part, const char* what) {
    if (takes_part || flags.*field == plain.*field) return;
    if (why && why->empty()) *why = what;
    flags.*field = plain.*field;
  };
  idle(&Flags::sp, mesh.tp > 1, "sp=on needs tp > 1");
  idle(&Flags::gdn, mesh.cp() > 1, "gdn other than state needs ring or uly > 1");
  if (flags.gdn == "hybrid")
    idle(&Flags::gdn, mesh.ring > 1 && mesh.uly > 1, "gdn=hybrid needs ring > 1 and uly > 1");
  idle(&Flags::attn, mesh.ring > 1, "attn=gather needs ring > 1");
  idle(&Flags::layout, mesh.ring > 1, "a layout other than contiguous needs ring > 1");
  idle(&Flags::schedule, mesh.pp > 1, "a schedule needs pp > 1");
  idle(&Flags::vision, tower, "vision=images needs a model with a vision tower");
  idle(&Flags::vision, mesh.tp * mesh.cp() > 1, "vision=images needs tp, ring or uly > 1");
  return flags;
}

Expansion expand(const CaseOptions& o,
                 const std::function<ModelConfig(const std::string&, const std::string&)>& config_of) {
  std::vector<Strings> flags;
  for (const auto& flag : flag_options()) flags.push_back(values_asked(flag, o));
  const auto loss_form = or_default(o.loss_form, "sharded");
  check_words("loss-form", loss_form, {"sharded", "replicated"});
  const auto losses = or_default(o.loss, "token_mean");
  for (const auto& loss : losses) parse_loss(loss);  // throws on what is none
  const auto engines = or_default(o.engine, "inprocess");
  check_words("engine", engines, {"inprocess", "gloo", "nccl"});
  const auto reduces = or_default(o.reduce, "engine");
  check_words("reduce", reduces, {"engine", "ordered", "permuted"});
  check_words("device", {o.device}, {"cpu", "cuda"});
  const auto checks = check_list(o.check);
  check_words("axes", o.axes, {"pp", "dp", "fsdp", "ring", "uly", "tp", "ep"});
  // Of a model with a tower the meshes that one of its ways asked for can take.
  const auto takes = [&](const Mesh& mesh, const ModelConfig& config) {
    for (const auto& vision : values_asked(flag_options().back(), o)) {
      Flags asked;
      flag_options().back().set(asked, vision);
      if (refusal(mesh, asked, config).empty()) return true;
    }
    return false;
  };
  std::vector<MeshItem> meshes;
  for (const auto& text : or_default(o.mesh, "dp1")) meshes.push_back(parse_mesh_item("mesh", text));

  // (model, batch, golden) of every data source asked for.
  struct Source {
    std::string model, batch, golden;
  };
  std::vector<Source> sources;
  for (const auto& golden : o.golden) sources.push_back({"", "", golden});
  if (o.golden.empty())
    for (const auto& model : or_default(o.model, "tiny-dense"))
      for (const auto& batch : or_default(o.batch, "rows")) sources.push_back({model, batch, ""});

  // Every list of values with the way it enters a case: the cross product counts through them, last one
  // fastest.
  struct Dimension {
    Strings values;
    std::function<void(CaseSpec&, const std::string&)> set;
  };
  std::vector<Dimension> dimensions;
  for (std::size_t i = 0; i < flags.size(); ++i)
    dimensions.push_back(
        {flags[i], [set = flag_options()[i].set](CaseSpec& c, const std::string& v) { set(c.flags, v); }});
  const std::vector<Dimension> others = {
      {losses, [](CaseSpec& c, const std::string& v) { c.loss = v; }},
      {loss_form, [](CaseSpec& c, const std::string& v) { c.loss_form = v; }},
      {or_default(o.dtype, "float64"), [](CaseSpec& c, const std::string& v) { c.dtype = case_dtype(v); }},
      {engines, [](CaseSpec& c, const std::string& v) { c.engine = v; }},
      {reduces, [](CaseSpec& c, const std::string& v) { c.reduce = v; }},
  };
  dimensions.insert(dimensions.end(), others.begin(), others.end());
  const auto for_each_value = [&](CaseSpec spec, const auto& visit) {
    std::vector<std::size_t> digit(dimensions.size(), 0);
    while (true) {
      for (std::size_t i = 0; i < dimensions.size(); ++i)
        dimensions[i].set(spec, dimensions[i].values[digit[i]]);
      visit(spec);
      std::size_t i = dimensions.size();
      while (i > 0 && ++digit[i - 1] == dimensions[i - 1].values.size()) digit[--i] = 0;
      if (i == 0) return;
    }
  };

  Expansion out;
  std::set<std::string> listed;  // lines of out.cases
  // Asked for with a value that changes nothing on their mesh, and whether their model has a vision tower.
  std::vector<std::pair<CaseSpec, bool>> idle;
  std::set<std::string> seen;
  for (const auto& source : sources) {
    const ModelConfig config = config_of(source.model, source.golden);
    const std::vector<RolloutChoice> rollouts = rollouts_asked(o, config);
    for (const auto& item : meshes) {
      std::vector<Mesh> list;
      if (item.explicit_mesh) list.push_back(item.mesh);
      if (!item.explicit_mesh)
        for (int world = item.least; world <= item.most; ++world)
          for (const auto& mesh : enumerate_meshes(world))
            if (keeps_to(mesh, o.axes) && takes(mesh, config)) list.push_back(mesh);
      for (const auto& mesh : list) {
        CaseSpec base;
        base.model = source.model, base.batch = source.batch, base.golden = source.golden, base.mesh = mesh;
        base.checks = checks, base.tensor = o.tensor, base.steps = o.steps, base.spawn = o.spawn;
        base.device = o.device, base.fault = o.fault, base.seed = o.seed;
        base.apart = o.apart;
        const auto add = [&](const CaseSpec& spec) {
          if (!seen.insert(spec.line()).second) return;
          if (!(canonical_flags(mesh, spec.flags, nullptr, config.has_vision()) == spec.flags)) {
            idle.push_back({spec, config.has_vision()});
            return;
          }
          std::string reason = refusal(mesh, spec.flags, config);
          if (reason.empty()) reason = loss_refusal(parse_loss(spec.loss), config);
          if (reason.empty() && spec.rollout_mesh)
            reason = rollout_refusal(*spec.rollout_mesh, spec.rollout, config);
          const int ranks = std::max(mesh.world(), spec.rollout_mesh ? spec.rollout_mesh->world() : 1);
          if (reason.empty() && spec.spawn && spec.spawn != ranks)
            reason = mesh.text() +
                     (spec.rollout_mesh ? " and " + spec.rollout_mesh->text() + " have " : " has ") +
                     std::to_string(ranks) + " ranks, --spawn is " + std::to_string(spec.spawn);
          if (reason.empty()) {
            out.cases.push_back(spec);
            listed.insert(spec.line());
          } else {
            out.skipped.push_back({spec, reason});
          }
        };
        for (const auto& rollout : rollouts) {
          base.rollout_mesh = rollout.mesh, base.rollout = rollout.spec;
          for_each_value(base, add);
        }
      }
    }
  }
  // An idle value whose default is listed too is the same case; alone it is a skip.
  for (auto& [spec, tower] : idle) {
    std::string why;
    CaseSpec plain = spec;
    plain.flags = canonical_flags(spec.mesh, spec.flags, &why, tower);
    if (!listed.count(plain.line())) out.skipped.push_back({spec, spec.mesh.text() + ": " + why});
  }
  if (out.cases.empty()) {
    if (out.skipped.empty()) throw InputError("no mesh of the sizes asked for is valid for this model");
    throw InputError(out.skipped.front().reason);
  }
  return out;
}

}  // namespace meshparity::run
