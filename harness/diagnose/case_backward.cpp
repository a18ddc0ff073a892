// Rules for a wrong gradient under a right forward pass and loss, and for a wrong norm of right gradients.
#include <algorithm>
#include <cmath>

#include "harness/diagnose/case_view.h"
#include "harness/types/loss_sum.h"

namespace meshparity::diagnose {
namespace {

// The entrance of the block whose input gradient first reaches this norm: "layers.3.mlp", "lm_head", or
// nothing where the parameter is no norm in front of a block.
std::string site_above(const CaseView& view, const std::string& name) {
  if (name == "model.norm.weight") return "lm_head";
  if (!name.ends_with("layernorm.weight") || !name.starts_with("model.layers.")) return "";
  const std::string layer = name.substr(6, name.find('.', 13) - 6);  // "layers.3"
  if (name.ends_with("post_attention_layernorm.weight")) return layer + ".mlp";
  const auto index = static_cast<std::size_t>(std::stoll(layer.substr(7)));
  return layer + (view.config.full_attention[index] ? ".self_attn" : ".linear_attn");
}

// Of the gradients that come after this one in the backward pass: how many are wrong.
std::pair<int, int> wrong_below(const CaseView& view, const CaseView::Entry& at) {
  int wrong = 0, all = 0;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::backward || entry.moment.step != at.moment.step) continue;
    if (entry.moment.within <= at.moment.within) continue;
    ++all, wrong += entry.tensor->wrong;
  }
  return {wrong, all};
}

// The wrong gradients of the step at hand as families: names with the layer number replaced.
std::string families(const CaseView& view) {
  std::set<std::string> names;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::backward || entry.moment.step != view.first->moment.step) continue;
    if (!entry.tensor->wrong) continue;
    std::string name = entry.moment.name;
    for (const std::string numbered : {"layers.", "blocks."})
      if (const auto at = name.find(numbered); at != std::string::npos) {
        const auto number = at + numbered.size();
        name.replace(number, name.find('.', number) - number, "*");
      }
    names.insert(name);
  }
  std::string text;
  int shown = 0;
  for (const auto& name : names) {
    if (++shown > 4) break;
    text += (text.empty() ? "" : ", ") + name;
  }
  return names.size() > 4 ? text + " and " + std::to_string(names.size() - 4) + " more families" : text;
}

// The factor that all wrong gradients share, or 0.
double common_factor(const CaseView& view) {
  double factor = 0;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::backward || entry.moment.step != 1) continue;
    if (!entry.tensor->invalid.empty()) return 0;
    const Values got = values_of(entry.tensor->got), want = values_of(entry.tensor->want);
    const double norm = norm_of(want);
    if (norm == 0) continue;
    double dot = 0;
    for (std::size_t i = 0; i < got.size(); ++i) dot += got[i] * want[i];
    const double f = dot / (norm * norm);
    if (factor == 0) factor = f;
    Values scaled = want;
    for (double& x : scaled) x *= f;
    if (std::fabs(f - factor) > 1e-8 * std::fabs(factor) ||
        distance(got, scaled) > std::max(10 * entry.tensor->norm_bound, 1e-9 * norm))
      return 0;
  }
  return factor;
}

// Squares of the expert gradients that no rank with index 0 on this axis holds.
double expert_squares_off(const CaseView& view, const Axis& axis) {
  double squares = 0;
  for (const auto& p : view.map.placements()) {
    const CaseTensor* gradient = p.expert ? view.find("grads/" + p.name) : nullptr;
    if (!gradient) continue;
    std::set<std::int64_t> held;
    for (int rank = 0; rank < view.map.world(); ++rank)
      if (axis.index(rank) == 0) {
        const auto index = view.map.local("grads/" + p.name, rank);
        if (index.local_shape()[1] == p.shape[1] && index.local_shape()[2] == p.shape[2])
          held.insert(index.indices[0].begin(), index.indices[0].end());
      }
    const std::int64_t inner = gradient->want.numel() / p.shape[0];
    for (std::int64_t i = 0; i < gradient->want.numel(); ++i)
      if (!held.count(i / inner)) squares += gradient->want.at(i) * gradient->want.at(i);
  }
  return squares;
}

}  // namespace

void backward_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseView::Entry& first = *view.first;
  if (first.moment.phase != Phase::backward || first.moment.step != 1 || !first.tensor->invalid.empty())
    return;
  if (!first.tensor->wrong) return;
  const CaseTensor& tensor = *first.tensor;
  const auto all = view.wrong_of(Phase::backward);
  const auto below = wrong_below(view, first);
  const bool spreads = below.second > 0 && below.first >= 0.8 * below.second;
  const std::string site = site_above(view, first.moment.name);
  const std::string clean = "forward and loss are right; ";
  const double factor = all.first == all.second ? common_factor(view) : 0;
  for (auto cause : shape_causes(view, tensor)) {
    if (factor != 0 && cause.name.find("constant factor") == 0) {
      cause.name = "all gradients times a " + cause.name;
    } else if (factor != 0 && cause.name.find("ed by ") != std::string::npos) {
      cause = {"all gradients " + cause.name, clean + cause.evidence, 0.97};
    } else if (cause.name.find("all-reduce over ") == 0) {
      const std::string axis = cause.name.substr(16, cause.name.find(' ', 16) - 16);
      if (spreads && !site.empty())
        cause = {"input-gradient all-reduce over " + axis + " missing at " + site,
                 clean + "the gradient of " + first.moment.name + " below it is a partial sum on every " +
                     axis + " rank (" + cause.evidence + "), and " + std::to_string(below.first) + " of " +
                     std::to_string(below.second) + " gradients further down are wrong",
                 cause.confidence};
      else
        cause = {"gradient all-reduce over " + axis + " missing",
                 clean + "wrong are " + families(view) + "; " + cause.evidence, cause.confidence};
    } else if (cause.name.find("multiplied by ") == 0 && spreads && !site.empty()) {
      cause = {"input gradient " + cause.name + " at " + site,
               clean + cause.evidence + "; identical gradients summed, and " + std::to_string(below.first) +
                   " of " + std::to_string(below.second) + " gradients further down are wrong",
               std::min(cause.confidence, 0.9)};
    } else if (cause.name == "all zero") {
      cause = {"gradient never arrived",
               "the gradient of " + first.moment.name + " is exactly zero; wrong are " + families(view),
               cause.confidence};
    } else if (cause.name.find("only ") == 0) {
      cause.name += " in the gradient of " + first.moment.name;
    } else if (cause.name.find("rounded to") == 0) {
      cause = {"gradient " + cause.name, clean + "wrong are " + families(view) + "; " + cause.evidence,
               cause.confidence};
    }
    causes.push_back(std::move(cause));
  }
  // Of a pipeline's first stage, only the embeddings of next tokens get a gradient that no layer passes on.
  if (view.map.mesh().pp > 1 && parse_loss(view.evidence.loss).has("mtp") &&
      first.moment.name == "model.embed_tokens.weight")
    causes.push_back({"gradient of the next tokens' embeddings lost on the pipeline",
                      clean +
                          "all layers' gradients are right, and multi-token prediction reads the embedding "
                          "on the last stage",
                      0.75});
  // Nothing but what the loss asks of routers enters there: what came from the head is right at the experts.
  const std::string router = "layers." + std::to_string(view.config.num_hidden_layers - 1) + ".mlp.gate.";
  if (parse_loss(view.evidence.loss).of_router() && first.moment.name.find(router) != std::string::npos)
    causes.push_back({"gradient of the router's loss terms wrong",
                      clean + "so are all gradients above the last router, whose own is the first wrong one",
                      0.75});
  std::int64_t differ = 0;
  for (const auto& entry : view.order)
    if (entry.moment.phase == Phase::backward && entry.moment.step == 1)
      differ += entry.tensor->replicas_differ;
  if (differ > 0)
    causes.push_back({"gradients not fully reduced: replicas hold different ones",
                      clean + std::to_string(differ) +
                          " elements differ between ranks that hold the same part; " + "wrong are " +
                          families(view),
                      0.65});
  const double norm = norm_of(values_of(tensor.want)), relative = norm > 0 ? difference_of(tensor) / norm : 0;
  if (relative > 1e-7 && relative < 1e-2)
    causes.push_back({"low precision in the backward pass from " + first.moment.name + " on",
                      clean + "the difference is " + short_number(relative) + " of the gradient", 0.55});
  causes.push_back({"backward pass wrong from " + first.moment.name + " on",
                    clean + std::to_string(all.first) + " of " + std::to_string(all.second) +
                        " gradients are wrong: " + families(view),
                    0.5});
}

void replica_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor& tensor = *view.first->tensor;
  const Moment& moment = view.first->moment;
  if (tensor.wrong || moment.phase == Phase::load) return;
  const std::string when = moment.phase == Phase::update
                               ? "step " + std::to_string(moment.step) + " of the optimizer"
                               : moment.name;
  causes.push_back({"replicas part in " + when,
                    std::to_string(tensor.replicas_differ) + " elements of " + moment.name +
                        " differ between ranks that hold the same part, first " + tensor.replicas_where +
                        "; before it all replicas are equal",
                    0.75});
}

void norm_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor* norm = view.find("grad_norm");
  if (!norm || !norm->wrong || view.wrong_of(Phase::backward).first > 0 ||
      view.wrong_of(Phase::backward).second == 0)
    return;
  // Squares of the expected gradients by how they are placed.
  struct Subset {
    const char* name;
    double squares = 0;
  };
  Subset replicated{"parameters replicated over tp"}, cut{"parameters cut over tp"}, heads{"key-value heads"},
      experts{"experts"};
  for (const auto& p : view.map.placements()) {
    const CaseTensor* gradient = view.find("grads/" + p.name);
    if (!gradient) continue;
    const double n = norm_of(values_of(gradient->want)), squares = n * n;
    (p.tp_dim < 0 ? replicated : cut).squares += squares;
    if (!p.tp_blocks.empty() && p.tp_blocks[0].replicate) heads.squares += squares;
    if (p.expert) experts.squares += squares;
  }
  const double got = norm->got.at(0), want = norm->want.at(0), excess = got * got - want * want;
  for (const auto& axis : axes_of(view.map.mesh()))
    for (const auto& subset : {replicated, cut, heads, experts}) {
      if (subset.squares == 0) continue;
      const std::string values = "got^2 - want^2 = " + short_number(excess) + ", their squares sum to " +
                                 short_number(subset.squares) + "; all gradients are right";
      if (std::fabs(excess - (axis.size - 1) * subset.squares) <= 1e-9 * std::fabs(excess))
        causes.push_back({"gradient norm counts " + std::string(subset.name) + " " +
                              std::to_string(axis.size) + " times over " + axis.name,
                          values, 0.97});
      if (std::fabs(excess + subset.squares * (axis.size - 1) / axis.size) <= 1e-9 * std::fabs(excess))
        causes.push_back(
            {"gradient norm counts " + std::string(subset.name) + " on one rank of " + axis.name + " only",
             values, 0.9});
    }
  for (const auto& axis : axes_of(view.map.mesh())) {
    const double missing = expert_squares_off(view, axis);
    if (missing > 0 && std::fabs(excess + missing) <= 1e-9 * std::fabs(excess))
      causes.push_back({"gradient norm counts the experts of " + axis.name + " index 0 only",
                        "got^2 - want^2 = " + short_number(excess) +
                            ", minus the squares of the experts that no rank of that index holds; all "
                            "gradients are right",
                        0.97});
  }
  for (auto cause : shape_causes(view, *norm)) causes.push_back(std::move(cause));
  causes.push_back({"gradient norm of right gradients is wrong",
                    "got " + short_number(got) + ", want " + short_number(want), 0.5});
}

}  // namespace meshparity::diagnose
