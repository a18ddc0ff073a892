// Losses and their gradients: every term on meshes against one rank, and on one rank against what can be said
// without another model: directional derivatives and the definitions of the policies.
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "impl/train/program_fixture.h"

namespace meshparity::impl {

using namespace program_testing;

TEST_CASE("a loss that every Ulysses rank evaluates is the same loss with the same gradients") {
  for (const char* mesh : {"uly2", "ring2.uly2", "dp2.uly4"})
    for (const char* policy : kLossPolicies) {
      CAPTURE(policy);
      Run run;
      run.loss_form = "replicated", run.loss = policy, run.steps = 1;
      check_same(run, mesh, false);
    }
}

namespace {

const std::string kEveryTerm = "token_mean+policy_gradient+0.3*lm_z+0.5*mtp+2*router_z+5*aux";

Run run_of_every_term() {
  Run run;
  run.config = moe_config();
  run.config.num_experts = 6, run.config.mtp_num_hidden_layers = 1;
  run.loss = kEveryTerm, run.steps = 1;
  return run;
}

}  // namespace

TEST_CASE("every term of a loss is what one rank computes, on every mesh") {
  const Run run = run_of_every_term();
  for (const char* mesh : {"dp2", "fsdp3", "tp2", "tp3", "ring2", "uly3", "dp2.ring2", "fsdp2.ep2",
                           "tp3.etp1", "tp3.ep3", "fsdp2.tp3.ep2.etp3", "ring2.tp3.ep2"})
    check_same(run, mesh, false);
  for (const char* mesh : {"tp3", "tp3.etp1", "tp3.ep3", "fsdp2.tp2"}) check_same(run, mesh, true);
}

TEST_CASE("every term of a loss is what one rank computes, with padding that never counts") {
  for (const char* pad : {"left", "right", "document"})
    for (const bool sp : {false, true}) {
      CAPTURE(pad);
      Run run = run_of_every_term();
      run.flags.pad = pad;
      for (const char* mesh : {"tp3", "tp3.etp1", "ring2.tp2"}) check_same(run, mesh, sp);
    }
}

TEST_CASE("every term of a loss is what one rank computes, recomputed and over any pipeline") {
  Run run = run_of_every_term();
  run.config.num_hidden_layers = 4, run.config.full_attention = {false, true, false, false};
  for (const char* schedule : {"1f1b", "gpipe", "interleaved"})
    for (const bool recompute : {false, true}) {
      CAPTURE(schedule, recompute);
      run.flags.schedule = schedule, run.flags.recompute = recompute;
      for (const char* mesh : {"pp2", "pp2.fsdp2.ep2", "pp2.tp3.etp1"}) check_same(run, mesh, false);
      check_same(run, "pp2.tp2", true);
      if (std::string(schedule) != "interleaved") check_same(run, "pp3.ring2", false);
    }
  run.flags = {}, run.flags.recompute = true;
  check_same(run, "fsdp2.tp2", true);
}

TEST_CASE("every term of a loss is what one rank computes, where every Ulysses rank evaluates the loss") {
  Run run = run_of_every_term();
  run.loss_form = "replicated";
  for (const char* mesh : {"uly2", "ring2.uly2", "uly2.tp3"}) check_same(run, mesh, false);
  run.flags.pad = "right";
  check_same(run, "uly3", false);
}

TEST_CASE("multi-token prediction of a dense model is what one rank computes, its embeddings tied or not") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    Run run;
    run.config.mtp_num_hidden_layers = 1, run.config.tie_word_embeddings = tied;
    run.loss = "token_mean+0.5*mtp";
    for (const char* mesh : {"tp2", "tp4", "ring3", "uly2", "ring2.uly2", "fsdp3", "pp3", "pp2.ring2.tp2"})
      check_same(run, mesh, false);
    for (const char* mesh : {"tp2", "pp2.ring2.tp2"}) check_same(run, mesh, true);
  }
}

TEST_CASE("the last tokens of documents predict nothing, and every other predicts the label after its own") {
  Run run;
  run.config.mtp_num_hidden_layers = 1;
  run.loss = "mtp", run.steps = 0;
  const Records got = by_key(run.on("ring2.uly2", false)[3]);
  double labels = 0;
  const Batch& b = run.batch;
  for (std::int64_t d = 0; d < b.documents(); ++d)
    for (std::int64_t t = b.document(d).begin; t + 1 < b.document(d).end; ++t) labels += b.labels[t + 1] >= 0;
  CHECK(got.at("denominators/mtp").item<double>() == labels);
  CHECK(labels < got.at("denominators/token_mean").item<double>());
  run.config.mtp_num_hidden_layers = 0;
  CHECK_THROWS_AS(run.on("dp1", false), InputError);
}

TEST_CASE("gradients are the directional derivatives of every sum of terms") {
  for (const char* loss :
       {"policy_gradient", "lm_z", "mtp", "router_z", "aux", "0.5*sum+0.1*policy_gradient+3*aux+mtp"}) {
    CAPTURE(loss);
    Run run = run_of_every_term();
    run.loss = loss, run.steps = 0;
    const Weights weights = random_weights(run.config);
    const LossSum sum = parse_loss(loss);
    const auto value_at = [&](const Weights& at_weights) {
      const Records got = by_key(run.on("dp1", false, at_weights)[0]);
      double value = 0;
      for (const auto& term : sum.terms) value += term.weight * got.at("loss/" + term.name).item<double>();
      return value;
    };
    const Records at_weights = by_key(run.on("dp1", false, weights)[0]);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(37);
    const double h = 1e-7;
    Weights above = weights, below = weights;
    double want = 0;
    for (const auto& [name, value] : weights) {
      const at::Tensor direction = at::randn(value.sizes(), generator, at::kDouble);
      above[name] = value + direction * h, below[name] = value - direction * h;
      want += (at_weights.at("grads/" + name) * direction).sum().item<double>();
    }
    CHECK((value_at(above) - value_at(below)) / (2 * h) == Approx(want).epsilon(1e-5));
  }
}

TEST_CASE("terms of the router have denominators of their own and need a router") {
  Run run = run_of_every_term();
  run.steps = 0;
  const Records got = by_key(run.on("fsdp2.tp3.ep3", false)[4]);
  for (std::int64_t m = 0; m < run.batch.micro_batches(); ++m) {
    const double rows = static_cast<double>(3 * run.batch.micro_batch_tokens(m).size());
    CHECK(got.at("denominators/aux")[m].item<double>() == rows);
    CHECK(got.at("denominators/router_z")[m].item<double>() == rows);
  }
  CHECK(at::equal(got.at("denominators/lm_z"), got.at("denominators/token_mean")));
  CHECK(at::equal(got.at("denominators/policy_gradient"), got.at("denominators/token_mean")));
  run.config = dense_config();
  CHECK_THROWS_AS(run.on("dp1", false), InputError);
}

TEST_CASE("without any label the router's terms are left, and only theirs have gradients") {
  Run run = run_of_every_term();
  run.batch.labels.assign(run.batch.labels.size(), kIgnoreLabel);
  check_same(run, "fsdp2.tp3.ep3", false);
  const Records got = by_key(run.on("dp1", false)[0]);
  for (const char* term : {"token_mean", "policy_gradient", "lm_z"})
    CHECK(got.at(std::string("loss/") + term).item<double>() == 0);
  CHECK(got.at("loss/aux").item<double>() > 0);
  CHECK(got.at("grads/lm_head.weight").count_nonzero().item<std::int64_t>() == 0);
  CHECK(got.at("grads/model.layers.2.mlp.gate.weight").abs().max().item<double>() > 0);
}

TEST_CASE("gradients are the directional derivatives of the loss, for every policy and model") {
  for (const bool moe : {false, true})
    for (const char* policy : kLossPolicies) {
      Run run;
      if (moe) run.config = moe_config();
      run.loss = policy, run.steps = 0;
      const Weights weights = random_weights(run.config);
      const Records at_weights = by_key(run.on("dp1", false, weights)[0]);
      auto generator = at::make_generator<at::CPUGeneratorImpl>(31);
      const double h = 1e-7;  // the third derivative is large: with 1e-6 it would show
      Weights above = weights, below = weights;
      double want = 0;
      for (const auto& [name, value] : weights) {
        const at::Tensor direction = at::randn(value.sizes(), generator, at::kDouble);
        above[name] = value + direction * h, below[name] = value - direction * h;
        want += (at_weights.at("grads/" + name) * direction).sum().item<double>();
      }
      const std::string key = std::string("loss/") + policy;
      const double slope = (by_key(run.on("dp1", false, above)[0]).at(key).item<double>() -
                            by_key(run.on("dp1", false, below)[0]).at(key).item<double>()) /
                           (2 * h);
      CHECK(slope == Approx(want).epsilon(1e-6));
    }
}

TEST_CASE("loss policies are the sums of logprobs they are defined as, on any mesh") {
  Run run;
  run.steps = 0;
  const Batch& b = run.batch;
  const Records got = by_key(run.on("dp2.fsdp2", false)[3]);
  const at::Tensor logprobs = by_key(run.on("dp1", false)[0]).at("logprobs");
  double sum = 0, valid = 0, of_documents = 0, documents = 0, of_micro = 0, micro = 0;
  for (std::int64_t m = 0; m < b.micro_batches(); ++m) {
    double micro_sum = 0, micro_valid = 0;
    for (std::int64_t d = b.row_offsets[b.micro_batch_rows(m).begin];
         d < b.row_offsets[b.micro_batch_rows(m).end]; ++d) {
      double ce = 0, n = 0;
      for (std::int64_t t = b.document(d).begin; t < b.document(d).end; ++t)
        if (b.labels[t] != kIgnoreLabel) ce -= logprobs[t].item<double>(), ++n;
      if (n > 0) of_documents += ce / n, ++documents;
      micro_sum += ce, micro_valid += n;
      CHECK(got.at("denominators/sequence_mean")[d].item<double>() == n);
    }
    CHECK(got.at("denominators/micro_batch_mean")[m].item<double>() == micro_valid);
    if (micro_valid > 0) of_micro += micro_sum / micro_valid, ++micro;
    sum += micro_sum, valid += micro_valid;
  }
  const auto loss = [&](const char* policy) { return got.at(std::string("loss/") + policy).item<double>(); };
  CHECK(loss("token_mean") == Approx(sum / valid).epsilon(1e-13));
  CHECK(loss("sum") == Approx(sum).epsilon(1e-13));
  CHECK(loss("sequence_mean") == Approx(of_documents / documents).epsilon(1e-13));
  CHECK(loss("micro_batch_mean") == Approx(of_micro / micro).epsilon(1e-13));
  CHECK(loss("num_tokens") == Approx(sum / run.train.num_tokens).epsilon(1e-13));
  CHECK(got.at("denominators/token_mean").item<double>() == valid);
}

TEST_CASE("a batch without any label has loss zero and gradients exactly zero") {
  Run run;
  run.steps = 0;
  std::fill(run.batch.labels.begin(), run.batch.labels.end(), kIgnoreLabel);
  for (const auto& out : run.on("fsdp2.tp2", true))
    for (const auto& [key, value] : by_key(out))
      if (key.starts_with("grads/") || key.starts_with("loss/") || key == "grad_norm")
        CHECK(value.eq(0).all().item<bool>());
}

}  // namespace meshparity::impl
