#include "harness/cli/gradient_scale.h"

#include "harness/cli/bounds.h"

namespace meshparity::cli {

std::string gradient_scale_key(const std::string& loss) {
  return "loss/gradient_scale/" + loss;
}

void GradientScale::add(const TensorView& got, const TensorView& want) {
  projection.add(got, want);
  ++gradients;
}

void GradientScale::judge(const tolerance::Policy& policy, const tolerance::Context& context,
                          const std::string& loss, std::vector<CheckResult>& results) const {
  const std::string key = gradient_scale_key(loss);
  if (!missing.empty()) {
    CheckResult result;
    result.check = "loss", result.tensor = key, result.state = State::invalid, result.reason = missing;
    results.push_back(std::move(result));
    return;
  }
  if (gradients == 0 || (projection.want_want == 0 && projection.got_got == 0)) return;
  const HostTensor got = HostTensor::scalar(projection.factor()), want = HostTensor::scalar(1);
  // Where the gradients cancel as a whole, their direction is that of roundings and has no factor.
  if (bound_of(policy, context, key, want.view(), nullptr).norm >= 1) return;
  CheckResult result = judge_tensor(policy, context, key, got.view(), want.view(), nullptr);
  result.against = against;
  if (result.state == State::fail) result.reason = compare::scale_words(projection);
  results.push_back(std::move(result));
}

}  // namespace meshparity::cli
