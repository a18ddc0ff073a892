// Rules for gradients of experts: summed with those of other experts, or of tokens that went elsewhere.
#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {
namespace {

bool of_experts(const std::string& name) {
  return name.find(".mlp.experts.") != std::string::npos;
}

// What every expert's gradient is where the ep ranks' experts are added, each to those at its place.
Values sum_over_ep(const CaseTensor& tensor, int ep) {
  Values sum = values_of(tensor.want);
  const std::size_t share = sum.size() / static_cast<std::size_t>(ep);
  for (std::size_t i = 0; i < share; ++i) {
    double all = 0;
    for (int r = 0; r < ep; ++r) all += sum[static_cast<std::size_t>(r) * share + i];
    for (int r = 0; r < ep; ++r) sum[static_cast<std::size_t>(r) * share + i] = all;
  }
  return sum;
}

std::string list_text(const std::set<std::int64_t>& numbers) {
  std::string text;
  for (const auto n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return text;
}

}  // namespace

void expert_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseView::Entry& first = *view.first;
  const CaseTensor& tensor = *first.tensor;
  const Mesh& mesh = view.map.mesh();
  if (first.moment.phase != Phase::backward || first.moment.step != 1 || !tensor.wrong ||
      !tensor.invalid.empty() || !of_experts(first.moment.name))
    return;
  if (mesh.ep > 1 && tensor.want.shape[0] % mesh.ep == 0 &&
      explains(tensor, distance(values_of(tensor.got), sum_over_ep(tensor, mesh.ep))))
    causes.push_back(
        {"gradients of other experts added",
         "forward and loss are right; every expert's gradient is the sum of those of the experts "
         "at its place on all " +
             std::to_string(mesh.ep) + " ep ranks",
         0.97});
  const auto wrong = wrong_tokens(tensor);  // of dimension 0: experts
  if (view.map.flags().recompute && wrong.size() > 1 &&
      static_cast<std::int64_t>(wrong.size()) < tensor.want.shape[0]) {
    const std::string layer = first.moment.name.substr(13, first.moment.name.find('.', 13) - 13);
    causes.push_back({"tokens routed to other experts in the backward pass of layer " + layer,
                      "forward is right, layers run again in backward, and of " +
                          std::to_string(tensor.want.shape[0]) + " experts only " + list_text(wrong) +
                          " have a wrong gradient",
                      0.7});
  }
}

}  // namespace meshparity::diagnose
