// Rules for counts that are wrong because the tokens are, and for losses of other policies than token_mean.
#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {

void input_rules(const CaseView& view, std::vector<Cause>& causes) {
  // Counts come before the first activation, but wrong tokens make both wrong.
  const CaseTensor* embedded = view.find("activations/embed");
  if (view.first->moment.phase != Phase::counts || !embedded || !embedded->wrong) return;
  for (auto cause : shape_causes(view, *embedded)) {
    if (!cause.name.starts_with("rows ")) continue;
    cause.name += " in the output of the embedding";
    cause.evidence = "the counts of labels are those of other tokens: " + cause.evidence;
    causes.push_back(std::move(cause));
  }
}

void policy_rules(const CaseView& view, std::vector<Cause>& causes) {
  const Moment& moment = view.first->moment;
  if (moment.phase != Phase::loss || view.first->tensor->invalid.size() || view.wrong_of(Phase::counts).first)
    return;
  // token_mean has rules of its own.
  const std::string policy = moment.name.substr(moment.name.find('/') + 1);
  if (policy == "token_mean" || !view.first->tensor->wrong) return;
  for (auto cause : shape_causes(view, *view.first->tensor)) {
    cause.name = "loss " + policy + " " + cause.name;
    cause.evidence = "logprobs, counts and token_mean are right: " + cause.evidence;
    causes.push_back(std::move(cause));
  }
}

}  // namespace meshparity::diagnose
