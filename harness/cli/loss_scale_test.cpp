// --check loss as a gate of its own: the metric of every term, its denominator, and the factor that all
// gradients together carry are judged apart, and each mistake turns exactly its own line red. And every term
// under the least even batches: ranks without a label, with one token, micro-batches of different counts.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "harness/cli/case_arguments.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_inputs.h"
#include "harness/types/batch_shape.h"
#include "harness/types/loss_sum.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/token_layout.h"
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::cli::loss_scale_test {
namespace {

using Plant = std::function<void(impl::Seams&)>;
using Names = std::set<std::string>;

std::vector<CheckResult> results_of(const CaseSpec& spec, const Plant& plant) {
  const auto scenario = load_scenario(spec);
  const Expected expected(scenario, spec, 0);
  impl::Seams seams;
  if (plant) plant(seams);
  return judge_case(spec, *scenario, expected, 0, run_threads(rank_inputs(spec, *scenario), seams));
}

// The lines that are not PASS.
Names red(const std::vector<CheckResult>& results) {
  Names names;
  for (const auto& r : results)
    if (r.state != State::pass) names.insert(r.tensor);
  return names;
}

Names judged(const std::vector<CheckResult>& results) {
  Names names;
  for (const auto& r : results) names.insert(r.tensor);
  return names;
}

// The metrics alone: what is summed over ranks for the log.
Plant metrics_times(double factor) {
  return faults::damaged("loss.values",
                         [factor](const at::Tensor& x, const impl::Group&) { return factor * x; });
}

Plant one_metric_times(std::int64_t place, double factor) {
  return faults::damaged("loss.values", [=](const at::Tensor& x, const impl::Group&) {
    at::Tensor out = x.clone();
    out.select(0, place).mul_(factor);
    return out;
  });
}

// The gradient alone: what reaches the logits in backward.
Plant gradient_times(double factor) {
  return [factor](impl::Seams& seams) {
    seams.primitives = [factor](impl::Primitives& p) {
      p.logit_gradient = [factor, right = p.logit_gradient](const at::Tensor& logits, const at::Tensor& lse,
                                                            const at::Tensor& labels, std::int64_t begin,
                                                            const at::Tensor& dlogprob) {
        return right(logits, lse, labels, begin, factor * dlogprob);
      };
    };
  };
}

// Both: the weight of every token.
Plant weight_times(double factor) {
  return [factor](impl::Seams& seams) {
    seams.normaliser = [factor](impl::Normaliser& normaliser) {
      normaliser.weight = [factor, right = normaliser.weight](
                              const impl::Normaliser& n, const std::string& policy, std::int64_t m,
                              std::int64_t d) { return factor * right(n, policy, m, d); };
    };
  };
}

// The gradient of the router's terms alone.
Plant share_times(double factor) {
  return [factor](impl::Seams& seams) {
    seams.normaliser = [factor](impl::Normaliser& normaliser) {
      normaliser.router_share = [factor, right = normaliser.router_share](
                                    const impl::Normaliser& n, const std::string& term, int copies) {
        return factor * right(n, term, copies);
      };
    };
  };
}

CaseSpec loss_case(const std::string& options) {
  return single_case("--steps 0 --check loss " + options);
}

const CheckResult& line_of(const std::vector<CheckResult>& results, const std::string& name) {
  for (const auto& r : results)
    if (r.tensor == name) return r;
  FAIL(name << " was not judged");
  throw std::logic_error("unreachable");
}

}  // namespace

TEST_CASE("gradients of which one is missing have no scale, also where nothing but the loss is judged") {
  const CaseSpec spec = single_case("--model tiny-dense --batch rows --mesh dp2 --steps 0 --check loss");
  const auto scenario = load_scenario(spec);
  const Expected expected(scenario, spec, 0);
  auto outputs = run_threads(rank_inputs(spec, *scenario), {});
  CHECK(red(judge_case(spec, *scenario, expected, 0, outputs)) == Names{});
  for (auto& output : outputs)
    std::erase_if(output.records, [](const auto& r) { return r.key == "grads/model.norm.weight"; });
  CHECK(red(judge_case(spec, *scenario, expected, 0, outputs)) == Names{"loss/gradient_scale/token_mean"});
}

TEST_CASE("under ring, uly and both, a factor on the metric and one on the gradient each redden their line") {
  const std::string form = GENERATE("sharded", "replicated");
  const std::string mesh = GENERATE("ring2", "uly2", "ring2.uly2 --gdn hybrid", "ring4 --layout zigzag");
  const std::string loss = GENERATE("token_mean", "sequence_mean", "token_mean+0.1*lm_z");
  const CaseSpec spec = loss_case("--model tiny-dense --batch rows --mesh " + mesh + " --loss " + loss +
                                  " --loss-form " + form);
  INFO(spec.line());
  const std::string scale = "loss/gradient_scale/" + loss;
  Names metrics, all = {scale};
  for (const auto& term : parse_loss(loss).reported())
    metrics.insert("loss/" + term), all.insert("loss/" + term), all.insert("denominators/" + term);

  const auto right = results_of(spec, nullptr);
  CHECK(red(right).empty());
  CHECK(judged(right) == all);
  CHECK(red(results_of(spec, metrics_times(2))) == metrics);
  CHECK(red(results_of(spec, one_metric_times(1, 1 + 1e-9))) == Names{"loss/sum"});
  const auto scaled = results_of(spec, gradient_times(2));
  CHECK(red(scaled) == Names{scale});
  CHECK(line_of(scaled, scale).got == Approx(2).epsilon(1e-12));
  CHECK(line_of(scaled, scale).reason == "all gradients together are 2 times the expected ones");
  CHECK(red(results_of(spec, gradient_times(1 + 1e-9))) == Names{scale});
  CHECK(red(results_of(spec, gradient_times(-1))) == Names{scale});
  Names both = metrics;
  both.insert(scale);
  CHECK(red(results_of(spec, weight_times(2))) == both);
}

TEST_CASE("a factor on the gradient of the aux loss alone shows in the scale, and its value stays right") {
  const std::string mesh = GENERATE("tp2", "ring2", "fsdp2.ep2", "pp2", "tp3.etp1");
  const std::string loss = "token_mean+0.001*aux";
  const CaseSpec spec = loss_case("--model tiny-moe --batch rows --mesh " + mesh + " --loss '" + loss + "'");
  INFO(spec.line());
  const auto weight_of_rows_times = [](double factor) -> Plant {
    return [factor](impl::Seams& seams) {
      seams.normaliser = [factor](impl::Normaliser& normaliser) {
        normaliser.router_weight = [factor, right = normaliser.router_weight](
                                       const impl::Normaliser& n, const std::string& term, std::int64_t m) {
          return factor * right(n, term, m);
        };
      };
    };
  };
  CHECK(red(results_of(spec, nullptr)).empty());
  CHECK(red(results_of(spec, share_times(0.5))) == Names{"loss/gradient_scale/" + loss});
  CHECK(red(results_of(spec, weight_of_rows_times(0.5))) == Names{"loss/aux", "loss/gradient_scale/" + loss});
}

TEST_CASE("counts of a rank's own turn denominators red wherever tokens are cut") {
  const std::string mesh = GENERATE("dp2", "fsdp2", "ring2", "uly2", "pp2.dp2");
  const CaseSpec spec =
      loss_case("--model tiny-moe --batch rows --mesh " + mesh + " --loss token_mean+0.001*aux");
  INFO(spec.line());
  const auto names = red(results_of(spec, [](impl::Seams& seams) {
    seams.normaliser = [](impl::Normaliser& normaliser) {
      normaliser.sum_over_data_ranks = [](const at::Tensor& own) { return own; };
    };
  }));
  for (const char* term : {"token_mean", "sequence_mean", "micro_batch_mean", "aux"}) {
    INFO(term);
    CHECK(names.count("denominators/" + std::string(term)) == 1);
  }
  CHECK(names.count("denominators/sum") == 0);
  CHECK(names.count("denominators/num_tokens") == 0);
}

TEST_CASE("a loss whose gradient cancels as a whole is judged on the scale of its terms") {
  // As many experts per token as there are: the auxiliary loss is the constant 2.
  const std::string words =
      "--steps 0 --model shape:layers=ga:experts=2/2/1 --batch tokens:9+3/5 --loss aux --mesh ";
  for (const char* mesh : {"dp1", "dp2", "tp2 --sp on", "ring2", "pp2", "fsdp2.ep2"}) {
    const CaseSpec spec = single_case(words + mesh);
    INFO(spec.line());
    const auto results = results_of(spec, nullptr);
    CHECK(red(results).empty());
    // Noise has no factor.
    CHECK(judged(results).count("loss/gradient_scale/aux") == 0);
    CHECK(judged(results).count("loss/aux") == 1);
  }
  // What exceeds the roundings of such terms is no noise.
  CHECK(red(results_of(single_case(words + "dp2"), share_times(1e6))).size() > 1);
}

TEST_CASE("every term is right on every mesh where labels and tokens are as uneven as can be") {
  const std::string loss =
      GENERATE("token_mean", "sum", "sequence_mean", "micro_batch_mean", "num_tokens", "policy_gradient",
               "lm_z", "router_z", "aux", "token_mean+policy_gradient+0.1*lm_z+router_z+aux");
  // Micro-batches of 7, 1 and 4 rows. The second's only label is masked or not, its other ranks hold nothing;
  // rows of one token; documents without labels, so that data ranks and context shards hold none.
  const std::string batch = "tokens:1/9u+2/1/3/2u/1u/5+1//6//4u+1/1/7/2:mask=40:seed=3";
  const std::string model = "shape:layers=gag:hidden=6:heads=6/1:gdn=6/6:experts=6/2/4:vocab=11";
  const BatchShape shape = BatchShape::parse(batch);
  const auto run_on = [&](const std::string& mesh) {
    const CaseSpec spec = single_case("--steps 0 --check loss,grads,grad_norm,replicas --model " + model +
                                      " --batch " + batch + " --mesh " + mesh + " --loss " + loss);
    INFO(spec.line());
    const auto results = results_of(spec, nullptr);
    CHECK(red(results).empty());
    CHECK(judged(results).count("loss/gradient_scale/" + loss) == 1);
    return spec;
  };
  for (const char* mesh :
       {"dp4", "fsdp3", "ring4 --layout zigzag", "uly3 --loss-form replicated", "tp3 --sp on",
        "tp2.etp1 --sp on", "pp3", "pp2.fsdp2.ep2 --schedule gpipe", "fsdp2.tp3.ep3",
        "ring2.uly2 --pad document --recompute on", "dp2.ring2.uly2 --loss-form replicated"})
    run_on(mesh);

  // It is as uneven as it says.
  const CaseSpec spec = run_on("dp2.ring2");
  const auto scenario = load_scenario(spec);
  bool no_label = false, no_token = false, one_token = false;
  std::set<double> counts;
  for (std::int64_t m = 0; m < scenario->batch.micro_batches(); ++m) {
    double all = 0;
    for (int rank = 0; rank < spec.mesh.world(); ++rank) {
      const auto layout = impl::make_token_layout(scenario->batch, spec.mesh, spec.flags, rank);
      const auto& labels = layout.micro_batches[static_cast<std::size_t>(m)].labels;
      const auto valid = std::count_if(labels.begin(), labels.end(), [](auto label) { return label >= 0; });
      no_label |= !labels.empty() && valid == 0, no_token |= labels.empty(), one_token |= labels.size() == 1;
      all += static_cast<double>(valid);
    }
    counts.insert(all);
  }
  CHECK(no_label);
  CHECK(no_token);
  CHECK(one_token);
  CHECK(static_cast<std::int64_t>(counts.size()) == scenario->batch.micro_batches());
  CHECK(static_cast<std::int64_t>(shape.micro_batches.size()) == scenario->batch.micro_batches());
}

}  // namespace meshparity::cli::loss_scale_test
