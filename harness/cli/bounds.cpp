#include "harness/cli/bounds.h"

#include "harness/types/loss_sum.h"

namespace meshparity::cli {

KeyName name_of(const std::string& key) {
  const auto slash = key.find('/');
  const std::string head = key.substr(0, slash);
  const std::string rest = slash == std::string::npos ? "" : key.substr(slash + 1);
  if (head == "trace") return {"trace", rest, 0};
  if (head == "grads" || head == "grads_mtp" || head == "activations") return {head, rest, 0};
  if (head == "loss" || head == "denominators") return {"loss", key, 0};
  if (head.rfind("step", 0) == 0) {
    const std::string name = rest.substr(rest.find('/') + 1);  // "weights/<name>"
    return {"weights", head + "/" + name, std::stoi(head.substr(4))};
  }
  return {head, head, 0};
}

void set_backward_size(tolerance::Context& context, const std::string& loss,
                       const std::function<std::optional<double>(const std::string& key)>& expected) {
  context.grad_norm = expected("grad_norm").value_or(0);
  context.loss_size =
      parse_loss(loss).size([&](const std::string& term) { return expected("loss/" + term).value_or(0); });
}

compare::Bound bound_of(const tolerance::Policy& policy, tolerance::Context context, const std::string& key,
                        const TensorView& want, const TensorView* want_grad) {
  if (key.rfind("trace/weights/", 0) == 0) return {0, 0, "", "loaded, not computed", {}};
  if (key.rfind("trace/step", 0) == 0)
    return bound_of(policy, context, key.substr(key.find('/', 6) + 1), want, want_grad);
  const KeyName name = name_of(key);
  context.step = name.step;
  context.tensor = name.check == "weights" ? name.tensor.substr(name.tensor.find('/') + 1) : name.tensor;
  tolerance::Limits limits;
  if (name.check == "weights")
    limits = tolerance::weight_limits(policy, context, want, want_grad);
  else
    limits = tolerance::limits(policy,
                               key.rfind("denominators/", 0) == 0          ? "denominators"
                               : key.rfind("loss/gradient_scale/", 0) == 0 ? "gradient_scale"
                               : name.check == "grads_mtp"                 ? "grads"
                                                                           : name.check,
                               context, want);
  return {limits.norm, limits.element, limits.row, limits.why, limits.exact_zero_slices};
}

CheckResult judge_tensor(const tolerance::Policy& policy, tolerance::Context context, const std::string& key,
                         const TensorView& got, const TensorView& want, const TensorView* want_grad) {
  const KeyName name = name_of(key);
  return compare::judge(name.check, name.tensor, compare::measure(got, want),
                        bound_of(policy, std::move(context), key, want, want_grad), got, want);
}

}  // namespace meshparity::cli
