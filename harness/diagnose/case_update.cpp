// Rules for weights that are wrong after an optimizer step, and for gradients that are wrong from the second
// step on only.
#include <algorithm>
#include <cmath>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {
namespace {

std::string weights_key(int step, const std::string& name) {
  return step == 0 ? "trace/weights/" + name : "step" + std::to_string(step) + "/weights/" + name;
}

// A mistake that predicts what all wrong tensors of one phase hold.
struct Prediction {
  std::string name;
  std::string evidence;
  double confidence;
  // What `tensor` would hold; empty where this mistake says nothing about it.
  std::function<Values(const std::string& name, const CaseTensor& tensor)> values;
};

Values combined(const TensorView& a, double x, const TensorView& b, double y) {
  Values out = values_of(a);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = x * out[i] + y * b.at(static_cast<std::int64_t>(i));
  return out;
}

// `want` with a left-over added once, or as often as a sum over ranks has added it since: a replicated
// parameter's old gradient is summed again with the new one.
Values with_left_over(const CaseView& view, const CaseTensor& tensor, const TensorView& left_over) {
  double dot = 0, squares = 0;
  for (std::int64_t i = 0; i < tensor.want.numel(); ++i) {
    dot += (tensor.got.at(i) - tensor.want.at(i)) * left_over.at(i);
    squares += left_over.at(i) * left_over.at(i);
  }
  const auto most = static_cast<double>(view.map.world());
  const double times = squares > 0 ? std::clamp(std::round(dot / squares), 1.0, most) : 1;
  return combined(tensor.want, 1, left_over, times);
}

// Tries every prediction on every wrong tensor of a phase; keeps those that explain all of them.
void predict(const CaseView& view, Phase phase, int step, const std::vector<Prediction>& predictions,
             std::vector<Cause>& causes) {
  for (const auto& prediction : predictions) {
    int explained = 0, wrong = 0;
    for (const auto& entry : view.order) {
      if (entry.moment.phase != phase || entry.moment.step != step || !entry.tensor->wrong) continue;
      ++wrong;
      if (!entry.tensor->invalid.empty()) continue;
      const Values values = prediction.values(entry.moment.name, *entry.tensor);
      if (values.empty()) continue;
      const double residual = distance(values_of(entry.tensor->got), values);
      // Rounding passes through AdamW's division, so less than a hundred-thousandth may be left over.
      explained += residual <= std::max(entry.tensor->norm_bound, 1e-5 * difference_of(*entry.tensor));
    }
    if (wrong > 0 && explained == wrong)
      causes.push_back({prediction.name,
                        prediction.evidence + ", in all " + std::to_string(wrong) +
                            " wrong tensors; what came before is right",
                        prediction.confidence});
  }
}

// The factor by which every update of the first step is too large, from the wrong tensors' elements; 0 if
// they do not share one. Later steps have moments of several gradients, whose updates share none.
double update_factor(const CaseView& view) {
  const int step = 1;
  const TrainSpec& train = view.evidence.train;
  std::vector<double> ratios;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::update || entry.moment.step != step || !entry.tensor->wrong) continue;
    const CaseTensor* before = view.find(weights_key(step - 1, entry.moment.name));
    if (!before || !entry.tensor->invalid.empty()) return 0;
    const double keep = decays(entry.tensor->want.shape) ? 1 - train.lr * train.weight_decay : 1;
    for (std::int64_t i = 0; i < entry.tensor->want.numel(); ++i) {
      const double want = entry.tensor->want.at(i) - keep * before->want.at(i);
      // Where eps matters the update is no longer scale-free: |u| = lr |g| / (|g| + eps).
      if (std::fabs(want) < 0.999 * train.lr) continue;
      ratios.push_back((entry.tensor->got.at(i) - keep * before->want.at(i)) / want);
    }
  }
  if (ratios.size() < 16) return 0;
  std::sort(ratios.begin(), ratios.end());
  const double low = ratios[ratios.size() / 20], high = ratios[ratios.size() - 1 - ratios.size() / 20];
  const double middle = ratios[ratios.size() / 2];
  return std::fabs(high - low) <= 1e-3 * std::fabs(middle) ? middle : 0;
}

// One step of AdamW from zero moments with the gradients times `scale`.
Values first_step(const TrainSpec& train, const TensorView& weight, const TensorView& gradient,
                  double scale) {
  Values out = values_of(weight);
  const double keep = decays(weight.shape) ? 1 - train.lr * train.weight_decay : 1;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double g = scale * gradient.at(static_cast<std::int64_t>(i));
    out[i] = keep * out[i] - train.lr * g / (std::fabs(g) + train.eps);
  }
  return out;
}

// By what the gradients of the first step were multiplied before it, read from how far eps holds back every
// update: u = lr g / (g + eps). 0 where the weights are too coarse to show it.
double gradient_scale(const CaseView& view) {
  const TrainSpec& train = view.evidence.train;
  std::vector<double> scales;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::update || entry.moment.step != 1 || !entry.tensor->invalid.empty())
      continue;
    const CaseTensor *before = view.find(weights_key(0, entry.moment.name)),
                     *gradient = view.find("grads/" + entry.moment.name);
    if (!before || !gradient) continue;
    const double keep = decays(entry.tensor->want.shape) ? 1 - train.lr * train.weight_decay : 1;
    for (std::int64_t i = 0; i < entry.tensor->want.numel(); ++i) {
      const double g = std::fabs(gradient->want.at(i)), w = before->want.at(i);
      const double missing = 1 - std::fabs(keep * w - entry.tensor->got.at(i)) / train.lr;
      // Rounding of the weight must not decide what is missing to a whole step.
      if (g == 0 || missing >= 0.999 ||
          missing * train.lr < 1e6 * unit_roundoff(DType::float64) * std::fabs(w))
        continue;
      scales.push_back(train.eps * (1 / missing - 1) / g);
    }
  }
  if (scales.size() < 16) return 0;
  std::nth_element(scales.begin(), scales.begin() + static_cast<std::ptrdiff_t>(scales.size() / 2),
                   scales.end());
  return scales[scales.size() / 2];
}

// Another clipping coefficient than the right one explains every wrong weight of the first step.
void clipping(const CaseView& view, std::vector<Cause>& causes) {
  const TrainSpec& train = view.evidence.train;
  const CaseTensor* norm = view.find("grad_norm");
  const double scale = gradient_scale(view);
  if (!norm || scale == 0) return;
  const double limit = train.max_grad_norm / (norm->want.at(0) + 1e-6), right = std::min(1.0, limit);
  const auto is = [scale](double value) { return std::fabs(scale - value) <= 1e-3 * std::fabs(value); };
  if (is(right)) return;
  const std::string name = limit > 1 && is(limit) ? "clipping coefficient not held at 1"
                           : limit < 1 && is(1)   ? "gradients not clipped"
                           : limit < 1 && is(limit * limit)
                               ? "gradients clipped twice"
                               : "gradients multiplied by another clipping coefficient";
  int explained = 0, wrong = 0;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::update || entry.moment.step != 1 || !entry.tensor->wrong) continue;
    ++wrong;
    const CaseTensor *before = view.find(weights_key(0, entry.moment.name)),
                     *gradient = view.find("grads/" + entry.moment.name);
    if (!before || !gradient || !entry.tensor->invalid.empty()) continue;
    const double residual =
        distance(values_of(entry.tensor->got), first_step(train, before->want, gradient->want, scale));
    explained += residual <= std::max(entry.tensor->norm_bound, 0.01 * difference_of(*entry.tensor));
  }
  if (wrong == 0 || explained < wrong) return;
  causes.push_back({name,
                    "gradients and norm are right, and all " + std::to_string(wrong) +
                        " wrong weights are those of gradients times " + short_number(scale) +
                        " instead of " + short_number(right),
                    0.95});
}

// Every wrong element equals its value before the step.
bool not_updated(const CaseView& view, int step) {
  bool any = false;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::update || entry.moment.step != step || !entry.tensor->wrong) continue;
    const CaseTensor* before = view.find(weights_key(step - 1, entry.moment.name));
    if (!before || !entry.tensor->invalid.empty()) return false;
    for (std::int64_t i = 0; i < entry.tensor->want.numel(); ++i) {
      if (std::fabs(entry.tensor->got.at(i) - entry.tensor->want.at(i)) <= entry.tensor->element_bound)
        continue;
      if (entry.tensor->got.at(i) != before->want.at(i)) return false;
      any = true;
    }
  }
  return any;
}

void updates(const CaseView& view, int step, std::vector<Cause>& causes) {
  const TrainSpec& train = view.evidence.train;
  const auto before = [&view](int k, const std::string& name) { return view.find(weights_key(k, name)); };
  const auto is = [](const CaseTensor& t) { return decays(t.want.shape); };
  std::vector<Prediction> predictions = {
      {"weight decay not applied", "got = want + lr * decay * weight", 0.97,
       [&](const std::string& name, const CaseTensor& t) {
         const CaseTensor* w = before(step - 1, name);
         return w && is(t) ? combined(t.want, 1, w->want, train.lr * train.weight_decay) : Values{};
       }},
      {"weight decay applied to norms and other vectors", "got = want - lr * decay * weight", 0.97,
       [&](const std::string& name, const CaseTensor& t) {
         const CaseTensor* w = before(step - 1, name);
         return w && !is(t) ? combined(t.want, 1, w->want, -train.lr * train.weight_decay) : Values{};
       }},
      {"weights not updated in step " + std::to_string(step), "got equals the weights before the step", 0.95,
       [&](const std::string& name, const CaseTensor&) {
         const CaseTensor* w = before(step - 1, name);
         return w ? values_of(w->want) : Values{};
       }},
  };
  if (step > 1)
    predictions.push_back({"update applied to the weights of an earlier step",
                           "got = want + what the step before had changed, taken back", 0.95,
                           [&](const std::string& name, const CaseTensor& t) {
                             const CaseTensor *w = before(step - 1, name), *old = before(step - 2, name);
                             if (!w || !old) return Values{};
                             const double keep = is(t) ? 1 - train.lr * train.weight_decay : 1;
                             Values out = combined(old->want, keep, w->want, -keep);
                             for (std::size_t i = 0; i < out.size(); ++i)
                               out[i] += t.want.at(static_cast<std::int64_t>(i));
                             return out;
                           }});
  const std::size_t found = causes.size();
  predict(view, Phase::update, step, predictions, causes);
  if (causes.size() == found && not_updated(view, step))
    causes.push_back({"part of the weights not updated in step " + std::to_string(step),
                      "every wrong element equals its value before the step: neither decay nor momentum",
                      0.95});
  if (step == 1) clipping(view, causes);
  const double factor = step == 1 ? update_factor(view) : 0;
  if (factor != 0) {
    std::string name =
        "all updates of step " + std::to_string(step) + " multiplied by " + short_number(factor);
    double confidence = 0.8;
    const auto correction = [&](double n) {
      return std::sqrt(1 - std::pow(train.beta2, n)) / (1 - std::pow(train.beta1, n));
    };
    for (int n = 1; n <= 64; ++n)
      if (n != step && std::fabs(correction(n) / correction(step) - factor) <= 2e-3 * std::fabs(factor)) {
        name = "bias correction of step " + std::to_string(n) + " in step " + std::to_string(step);
        confidence = 0.9;
        break;
      }
    causes.push_back(
        {name,
         "gradients and norm are right, every update is " + short_number(factor) + " times the right one",
         confidence});
  }
  const CaseView::Entry& first = *view.first;
  for (auto cause : shape_causes(view, *first.tensor)) causes.push_back(std::move(cause));
  const auto wrong = view.wrong_of(Phase::update, step);
  causes.push_back({"optimizer step " + std::to_string(step) + " wrong on right gradients",
                    std::to_string(wrong.first) + " of " + std::to_string(wrong.second) + " weights", 0.6});
}

void later_gradients(const CaseView& view, int step, std::vector<Cause>& causes) {
  const std::string path = "trace/step" + std::to_string(step) + "/grads/";
  predict(
      view, Phase::backward, step,
      {{"gradients not cleared between steps", "got = want + the gradient of the step before", 0.97,
        [&](const std::string& name, const CaseTensor& t) {
          const CaseTensor* g = view.find(
              step == 2 ? "grads/" + name : "trace/step" + std::to_string(step - 1) + "/grads/" + name);
          return g ? with_left_over(view, t, g->want) : Values{};
        }},
       {"gradient buffer not cleared: it still holds parameters", "got = want + the parameter itself", 0.97,
        [&](const std::string& name, const CaseTensor& t) {
          const CaseTensor* w = view.find(weights_key(step - 1, name));
          return w ? with_left_over(view, t, w->want) : Values{};
        }}},
      causes);
  const auto wrong = view.wrong_of(Phase::backward, step);
  causes.push_back(
      {"gradients wrong from step " + std::to_string(step) + " on only",
       std::to_string(wrong.first) + " of " + std::to_string(wrong.second) +
           " gradients; step 1 and the forward pass of this step are right: " + view.first->moment.name,
       0.5});
}

}  // namespace

void update_rules(const CaseView& view, std::vector<Cause>& causes) {
  const Moment& first = view.first->moment;
  // A wrong norm reaches the weights through clipping and is named there.
  if (!view.first->tensor->wrong) return;
  if (first.phase == Phase::update) updates(view, first.step, causes);
  if (first.phase == Phase::backward && first.step > 1) later_gradients(view, first.step, causes);
}

}  // namespace meshparity::diagnose
