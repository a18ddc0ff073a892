// The loss that is logged and the loss that is differentiated are judged apart: a factor on one of them is
// reported as exactly that, for both forms of the loss and every way to cut tokens over context ranks, also
// where a rank holds no valid label.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "harness/cli/case_arguments.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_inputs.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/token_layout.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::cli::loss_forms_test {
namespace {

using Plant = std::function<void(impl::Seams&)>;

// The worst state of every check of a case that runs with `plant`; the scale of the gradients, which the loss
// check judges as well, has a test of its own (loss_scale_test.cpp).
std::map<std::string, State> states_of(const CaseSpec& spec, const Plant& plant) {
  const auto scenario = load_scenario(spec);
  const Expected expected(scenario, spec, 0);
  impl::Seams seams;
  plant(seams);
  const auto outputs = run_threads(rank_inputs(spec, *scenario), seams);
  std::map<std::string, State> states;
  for (const auto& check : judge_case(spec, *scenario, expected, 0, outputs)) {
    if (check.tensor.rfind("loss/gradient_scale/", 0) == 0) continue;
    const auto [at, first] = states.emplace(check.check, check.state);
    if (!first && worse(check.state, at->second)) at->second = check.state;
  }
  return states;
}

// Twice the metric: what is summed over ranks for the log.
void double_metric(impl::Seams& seams) {
  faults::damaged("loss.values", [](const at::Tensor& x, const impl::Group&) { return 2 * x; })(seams);
}

// Twice the gradient: what reaches the logprobs in backward.
void double_gradient(impl::Seams& seams) {
  seams.primitives = [](impl::Primitives& p) {
    p.logit_gradient = [right = p.logit_gradient](const at::Tensor& logits, const at::Tensor& lse,
                                                  const at::Tensor& labels, std::int64_t begin,
                                                  const at::Tensor& dlogprob) {
      return right(logits, lse, labels, begin, 2 * dlogprob);
    };
  };
}

bool a_rank_without_labels(const CaseSpec& spec) {
  const auto scenario = load_scenario(spec);
  for (int rank = 0; rank < spec.mesh.world(); ++rank) {
    const auto layout = impl::make_token_layout(scenario->batch, spec.mesh, spec.flags, rank);
    if (std::all_of(layout.micro_batches.begin(), layout.micro_batches.end(), [](const auto& m) {
          return std::all_of(m.labels.begin(), m.labels.end(), [](auto label) { return label < 0; });
        }))
      return true;
  }
  return false;
}

}  // namespace

TEST_CASE("a factor on the metric or on the gradient of the loss is reported as exactly that") {
  const char* const form = GENERATE("sharded", "replicated");
  const char* const mesh = GENERATE(
      "--batch rows --mesh ring2", "--batch rows --mesh uly2", "--batch rows --mesh ring2.uly2 --gdn hybrid",
      "--batch single --mesh ring8", "--batch single --mesh uly8", "--batch single --mesh ring2.uly4");
  const std::string line = std::string("--model tiny-dense --steps 0 ") + mesh + " --loss-form " + form;
  const CaseSpec spec = single_case(line);
  INFO(line);
  CHECK(a_rank_without_labels(spec) == (spec.batch == "single"));

  const auto right = states_of(spec, [](impl::Seams&) {});
  for (const auto& [check, state] : right) {
    INFO(check);
    CHECK(state == State::pass);
  }
  for (const bool metric : {true, false}) {
    const auto states = states_of(spec, metric ? double_metric : double_gradient);
    INFO((metric ? "metric" : "gradient") << " doubled");
    CHECK(states.size() == right.size());
    for (const auto& [check, state] : states) {
      const bool of_gradient = check == "grads" || check == "grad_norm";
      INFO(check);
      CHECK(state == ((metric ? check == "loss" : of_gradient) ? State::fail : State::pass));
    }
    CHECK(states.count("loss") + states.count("grads") + states.count("grad_norm") == 3);
  }
}

}  // namespace meshparity::cli::loss_forms_test
