// The rank program on meshes against itself on one rank: a mesh changes nothing but the order of sums. And on
// one rank against what can be said without another model: directional derivatives, the loss policies'
// definitions, AdamW's formula.
#include "impl/train/program.h"

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>
#include <mutex>
#include <set>

#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "impl/blocks/context_tables.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/data.h"
#include "impl/parallel/pipeline.h"
#include "impl/parallel/plan.h"
#include "impl/parallel/token_layout.h"
#include "impl/train/loss.h"
#include "impl/train/optimizer.h"

namespace meshparity::impl {
namespace {

using Records = std::map<std::string, at::Tensor>;
using Weights = std::map<std::string, at::Tensor>;

ModelConfig dense_config() {
  ModelConfig c;
  c.vocab_size = 13, c.hidden_size = 8, c.num_hidden_layers = 3, c.full_attention = {false, true, false};
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 6, c.rotary_dim = 4,
  c.mrope_section = {1, 1, 0};
  c.linear_num_key_heads = 4, c.linear_num_value_heads = 8, c.linear_key_head_dim = 3,
  c.linear_value_head_dim = 2;
  c.intermediate_size = 7;
  return c;
}

ModelConfig moe_config() {
  ModelConfig c = dense_config();
  c.num_attention_heads = 6, c.num_key_value_heads = 1, c.linear_num_key_heads = 6,
  c.linear_num_value_heads = 6;
  c.intermediate_size = 0;
  c.num_experts = 5, c.num_experts_per_tok = 2, c.moe_intermediate_size = 4,
  c.shared_expert_intermediate_size = 5;
  return c;
}

Weights random_weights(const ModelConfig& config) {
  Weights weights;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(23);
  for (const auto& p : parameters_of(config)) {
    const double scale = p.name.ends_with("proj.weight")     ? 0.4
                         : p.name.ends_with("conv1d.weight") ? 0.6
                                                             : 0.5;
    weights[p.name] = at::randn(p.shape, generator, at::kDouble).mul_(scale);
  }
  return weights;
}

// Rows of unequal length, micro-batches of unequal rows, a stretch without labels; more data ranks than rows
// in the second.
Batch uneven_batch() {
  Batch b;
  const std::vector<std::vector<std::int64_t>> rows = {{5, 2}, {1}, {3, 1, 9}, {2}, {4}};
  b.document_offsets = {0};
  b.row_offsets = {0};
  for (const auto& row : rows) {
    for (const auto length : row) b.document_offsets.push_back(b.document_offsets.back() + length);
    b.row_offsets.push_back(b.row_offsets.back() + static_cast<std::int64_t>(row.size()));
  }
  b.micro_batch_offsets = {0, 3, 4, 5};
  const std::int64_t n = b.document_offsets.back();
  for (std::int64_t t = 0; t < n; ++t) b.token_ids.push_back((t * 7 + t * t % 5) % 13);
  for (std::int64_t d = 0; d < b.documents(); ++d)
    for (std::int64_t t = b.document(d).begin; t < b.document(d).end; ++t)
      b.labels.push_back(t + 1 == b.document(d).end || (t > 8 && t < 13) ? kIgnoreLabel : b.token_ids[t + 1]);
  b.validate("test", 13);
  return b;
}

struct Run {
  ModelConfig config = dense_config();
  Batch batch = uneven_batch();
  TrainSpec train;
  std::string loss = "token_mean", loss_form = "sharded";
  int steps = 2;
  Flags flags;  // but sp
  Seams seams;

  std::vector<RankOutput> on(const std::string& mesh, bool sp) const {
    const Weights weights = random_weights(config);
    return on(mesh, sp, weights);
  }
  std::vector<RankOutput> on(const std::string& mesh, bool sp, const Weights& weights) const {
    RankInputs in;
    in.config = config, in.mesh = Mesh::parse(mesh), in.flags = flags, in.flags.sp = sp, in.batch = batch,
    in.train = train;
    in.loss = loss, in.loss_form = loss_form, in.steps = steps, in.activations = true, in.weights = &weights;
    std::vector<RankOutput> out(in.mesh.world());
    run_in_process(in.mesh.world(), {},
                   [&](Engine& engine) { out[engine.rank()] = run_rank(in, engine, seams); });
    return out;
  }
};

Records by_key(const RankOutput& out) {
  Records records;
  for (const auto& r : out.records) {
    REQUIRE(records.emplace(r.key, r.value).second);
    REQUIRE(r.value.is_contiguous());
  }
  return records;
}

// What this rank should hold of a record of the one-rank run.
at::Tensor expected(const std::string& key, const at::Tensor& full, const Plan& plan,
                    const TokenLayout& layout, bool sp) {
  std::vector<std::int64_t> tokens, residual;
  for (const auto& part : layout.micro_batches) {
    const Range own = sp ? cut(part.tokens(), plan.mesh.tp, plan.at.tp) : Range{0, part.tokens()};
    for (const std::int64_t i : part.real()) {
      tokens.push_back(part.global[i]);
      if (i >= own.begin && i < own.end) residual.push_back(part.global[i]);
    }
  }
  if (key == "logits") {
    const Range columns = cut(full.size(1), plan.mesh.tp, plan.at.tp);
    return full.index_select(0, at::tensor(tokens, at::kLong)).slice(1, columns.begin, columns.end);
  }
  if (key == "logprobs") return full.index_select(0, at::tensor(tokens, at::kLong));
  if (key.starts_with("activations/")) return full.index_select(0, at::tensor(residual, at::kLong));
  for (const char* kind : {"grads/", "weights/"}) {
    const auto at = key.find(kind);
    if (at != std::string::npos) return plan.shard(plan.row(key.substr(at + std::string(kind).size())), full);
  }
  return full;
}

void check_same(const Run& run, const std::string& mesh_text, bool sp) {
  Run alone = run;
  alone.flags = {};
  const Records want = by_key(alone.on("dp1", false)[0]);
  const double norm = want.at("grad_norm").item<double>();
  const Mesh mesh = Mesh::parse(mesh_text);
  const auto outputs = run.on(mesh_text, sp);
  std::set<std::string> emitted;  // by any rank: a stage emits what it holds
  for (int rank = 0; rank < mesh.world(); ++rank) {
    Flags flags = run.flags;
    flags.sp = sp;
    const Plan plan = make_plan(run.config, mesh, flags, rank);
    const TokenLayout layout = make_token_layout(run.batch, mesh, flags, rank);
    const Records got = by_key(outputs[rank]);
    if (mesh.pp == 1) REQUIRE(got.size() == want.size());
    for (const auto& [key, g] : got) {
      CAPTURE(key, mesh_text, sp, rank);
      emitted.insert(key);
      REQUIRE(want.count(key) == 1);
      const at::Tensor full = want.at(key), w = expected(key, full, plan, layout, sp);
      REQUIRE(g.sizes() == w.sizes());
      if (g.numel() == 0) continue;
      const double floor = key.starts_with("grads/") ? 1e-3 * norm : 1e-3;
      // Weights move by lr whatever the gradient's size: rounding in a tiny gradient is magnified up to lr /
      // eps times.
      const double bound =
          (key.starts_with("step") ? 1e-11 : 1e-12) * std::max(floor, full.abs().max().item<double>());
      CHECK((g - w).abs().max().item<double>() <= bound);
    }
  }
  REQUIRE(emitted.size() == want.size());
}

}  // namespace

TEST_CASE("every dense mesh computes what one rank computes, steps included") {
  const Run run;
  for (const char* mesh : {"tp2", "fsdp2", "dp2", "fsdp3", "dp2.fsdp2.tp2", "tp4", "dp5"})
    check_same(run, mesh, false);
  for (const char* mesh : {"tp2", "tp4", "fsdp2.tp2"}) check_same(run, mesh, true);
}

TEST_CASE("every pipeline computes what one rank computes, tied embeddings on both its ends included") {
  for (const bool tied : {false, true})
    for (const char* schedule : {"1f1b", "gpipe", "interleaved"}) {
      Run run;
      run.config.tie_word_embeddings = tied;
      run.config.num_hidden_layers = 4, run.config.full_attention = {false, true, false, false};
      run.flags.schedule = schedule;
      for (const char* mesh : {"pp2", "pp2.fsdp2", "pp2.tp2"}) check_same(run, mesh, false);
      if (std::string(schedule) != "interleaved")
        check_same(run, "pp4", false), check_same(run, "pp3.dp2", false);
    }
}

TEST_CASE("experts over any inner ranks compute what one rank computes, inside a pipeline too") {
  Run run;
  run.config = moe_config();
  run.config.num_experts = 6;
  for (const char* mesh :
       {"fsdp2.ep2", "fsdp3.ep3", "tp3.etp1", "tp3.ep3", "fsdp2.tp3.ep2.etp3", "pp2.fsdp2.ep2"})
    check_same(run, mesh, false);
  check_same(run, "tp3.ep3", true);
}

TEST_CASE("recomputed layers give the same bits") {
  for (const bool moe : {false, true})
    for (const char* mesh : {"dp1", "fsdp2", "pp2"}) {
      Run run;
      if (moe) run.config = moe_config();
      const auto kept = run.on(mesh, false);
      run.flags.recompute = true;
      const auto again = run.on(mesh, false);
      for (std::size_t rank = 0; rank < kept.size(); ++rank) {
        REQUIRE(kept[rank].records.size() == again[rank].records.size());
        for (std::size_t i = 0; i < kept[rank].records.size(); ++i) {
          CAPTURE(kept[rank].records[i].key, mesh);
          CHECK(at::equal(kept[rank].records[i].value, again[rank].records[i].value));
        }
      }
      // Its collectives run twice in what backward repeats: that is how one sees that it was repeated.
      if (std::string(mesh) == "fsdp2") CHECK(again[0].communication.size() > kept[0].communication.size());
    }
}

TEST_CASE(
    "every mixture-of-experts mesh computes what one rank computes, with shards narrower than the group") {
  Run run;
  run.config = moe_config();
  for (const char* mesh : {"tp3", "fsdp2", "dp2.tp2"}) check_same(run, mesh, false);
  for (const char* mesh : {"tp6", "tp3", "fsdp2.tp2"}) check_same(run, mesh, true);
}

TEST_CASE("context parallelism computes what one rank computes, whatever mixes and in whatever order") {
  const auto check = [](const ModelConfig& config, const char* mesh, const char* gdn, const char* attn,
                        const char* layout, bool sp) {
    CAPTURE(gdn, attn, layout);
    Run run;
    run.config = config, run.steps = 1;
    run.flags.gdn = gdn, run.flags.attn = attn, run.flags.layout = layout;
    check_same(run, mesh, sp);
  };
  const ModelConfig dense = dense_config(), moe = moe_config();
  for (const char* gdn : {"state", "heads", "gather"})
    for (const char* mesh : {"uly2", "uly4", "ring2", "ring4", "ring2.uly2"})
      check(dense, mesh, gdn, "ring", "contiguous", false);
  for (const char* layout : {"contiguous", "zigzag", "zigzag-document"})
    for (const char* attn : {"ring", "gather"})
      for (const char* mesh : {"ring3", "ring2.uly2", "ring5", "ring7"})
        check(dense, mesh, "state", attn, layout, false);
  for (const char* layout : {"contiguous", "zigzag", "zigzag-document"}) {
    check(dense, "ring2.uly2", "hybrid", "ring", layout, false);
    check(dense, "ring2.uly2", "gather", "gather", layout, false);
    check(dense, "ring4", "heads", "ring", layout, false);
  }
  check(dense, "ring2.uly2.tp2", "state", "ring", "zigzag", true);
  check(dense, "dp2.ring2.tp2", "heads", "gather", "contiguous", true);
  check(dense, "fsdp2.ring2.uly2", "hybrid", "ring", "zigzag-document", false);
  check(moe, "uly6", "heads", "ring", "contiguous", false);
  check(moe, "ring3.uly2", "state", "ring", "zigzag", false);
  check(moe, "dp2.uly3", "state", "ring", "contiguous", false);
  check(moe, "fsdp2.ring3", "gather", "gather", "zigzag-document", false);
}

TEST_CASE("changing a token changes no logit before it, and some behind it, on every way to mix over cp") {
  const std::int64_t changed = 14;  // inside the longest document, tokens 12 to 20
  // The largest change of a logit that no token of the document before the changed one may see.
  const auto leak_of = [&](const char* mesh_text, const char* gdn, const char* attn, const char* layout,
                           const Seams& seams) {
    CAPTURE(mesh_text, gdn, attn, layout);
    Run run;
    run.steps = 0, run.seams = seams;
    run.flags.gdn = gdn, run.flags.attn = attn, run.flags.layout = layout;
    Run other = run;
    other.batch.token_ids[changed] = (run.batch.token_ids[changed] + 1) % run.config.vocab_size;
    other.batch.labels[changed - 1] = kIgnoreLabel;
    const auto before = run.on(mesh_text, false), after = other.on(mesh_text, false);
    double behind = 0, leaked = 0;
    for (std::size_t rank = 0; rank < before.size(); ++rank) {
      const TokenLayout layout_of =
          make_token_layout(run.batch, Mesh::parse(mesh_text), run.flags, static_cast<int>(rank));
      std::vector<std::int64_t> tokens;
      for (const auto& part : layout_of.micro_batches)
        tokens.insert(tokens.end(), part.global.begin(), part.global.end());
      const at::Tensor difference =
          (by_key(before[rank]).at("logits") - by_key(after[rank]).at("logits")).abs();
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const double d = difference[static_cast<std::int64_t>(i)].max().item<double>();
        if (tokens[i] < changed || tokens[i] > 20)
          leaked = std::max(leaked, d);
        else
          behind = std::max(behind, d);
      }
    }
    CHECK(behind > 1e-3);
    return leaked;
  };
  const auto probe = [&](const char* mesh_text, const char* gdn, const char* attn, const char* layout) {
    CHECK(leak_of(mesh_text, gdn, attn, layout, {}) <= 1e-13);
  };
  REQUIRE(uneven_batch().document(5).begin == 12);
  REQUIRE(uneven_batch().document(5).end == 21);
  for (const char* mesh : {"ring2", "ring3", "uly2", "ring2.uly2"})
    for (const char* gdn : {"state", "heads", "gather"}) {
      if (std::string(mesh) == "ring3" && std::string(gdn) == "heads")
        continue;  // 3 does not divide the heads
      probe(mesh, gdn, "ring", "contiguous");
    }
  for (const char* layout : {"zigzag", "zigzag-document"})
    for (const char* attn : {"ring", "gather"}) probe("ring3", "state", attn, layout);
  probe("ring2.uly2", "hybrid", "ring", "zigzag");
  // The probe sees a mask that is gone.
  Seams unmasked;
  unmasked.context = [](ContextEdit& edit) {
    for (auto& step : edit.tables.ring.steps) step.bias = at::Tensor();
  };
  CHECK(leak_of("ring3", "state", "ring", "contiguous", unmasked) > 1e-3);
}

TEST_CASE("padding changes nothing that is emitted") {
  for (const char* pad : {"left", "right", "document"}) {
    CAPTURE(pad);
    Run run;
    run.flags.pad = pad, run.steps = 1;
    for (const char* mesh : {"dp1", "fsdp2.tp2", "ring3", "ring2.uly2"}) check_same(run, mesh, false);
    check_same(run, "ring2.tp2", true);
    run.flags.layout = "zigzag-document", run.flags.gdn = "heads";
    check_same(run, "ring4", false);
    run.config = moe_config(), run.flags.gdn = "state";
    check_same(run, "ring3.uly2", false);
  }
}

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

const std::string kEveryTerm = "token_mean+policy_gradient+0.3*lm_z+2*router_z+5*aux";

Run run_of_every_term() {
  Run run;
  run.config = moe_config();
  run.config.num_experts = 6;
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

TEST_CASE("gradients are the directional derivatives of every sum of terms") {
  for (const char* loss :
       {"policy_gradient", "lm_z", "router_z", "aux", "0.5*sum+0.1*policy_gradient+3*aux"}) {
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

TEST_CASE("tied embeddings are one parameter with both gradients on every mesh") {
  Run run;
  run.config.tie_word_embeddings = true;
  for (const char* mesh : {"tp2", "fsdp2.tp2", "dp2.fsdp2"}) check_same(run, mesh, false);
  check_same(run, "tp2", true);
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

TEST_CASE("steps follow AdamW's formula with clipping by the global norm and decay of matrices only") {
  Run run;
  run.steps = 1;
  run.train.max_grad_norm = 0.25;
  const Weights weights = random_weights(run.config);
  const Records got = by_key(run.on("dp1", false, weights)[0]);
  double squares = 0;
  for (const auto& [name, value] : weights) squares += got.at("grads/" + name).square().sum().item<double>();
  const double norm = std::sqrt(squares);
  CHECK(got.at("grad_norm").item<double>() == Approx(norm).epsilon(1e-13));
  REQUIRE(norm > run.train.max_grad_norm);
  for (const auto& [name, value] : weights) {
    // In step 1 both moments, bias-corrected, are the gradient and its square.
    const at::Tensor g = got.at("grads/" + name) * (run.train.max_grad_norm / (norm + 1e-6));
    const double keep = value.dim() >= 2 ? 1 - run.train.lr * run.train.weight_decay : 1;
    const at::Tensor want = value * keep - g / (g.abs() + run.train.eps) * run.train.lr;
    CHECK((got.at("step1/weights/" + name) - want).abs().max().item<double>() <= 1e-13);
  }
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

TEST_CASE("the same mesh twice gives the same bits, and replicas are equal bit by bit") {
  const Run run;
  const auto first = run.on("dp2.tp2", false), second = run.on("dp2.tp2", false);
  for (std::size_t rank = 0; rank < first.size(); ++rank)
    for (std::size_t i = 0; i < first[rank].records.size(); ++i) {
      REQUIRE(first[rank].records[i].key == second[rank].records[i].key);
      CHECK(at::equal(first[rank].records[i].value, second[rank].records[i].value));
    }
  const Records zero = by_key(first[0]), tp = by_key(first[1]), dp = by_key(first[2]);
  for (const auto& [key, value] : zero) {
    if (!key.starts_with("grads/") && !key.starts_with("step")) continue;
    CHECK(at::equal(value, dp.at(key)));
    if (key.ends_with("norm.weight")) CHECK(at::equal(value, tp.at(key)));
  }
}

TEST_CASE("each block costs one collective to enter and one to leave") {
  Run run;
  run.config = moe_config();
  run.steps = 0;
  run.batch.micro_batch_offsets = {0, 5};
  for (const bool sp : {false, true}) {
    std::map<std::string, int> calls;
    const auto outputs = run.on("tp2", sp);
    for (const auto& event : outputs[0].communication) ++calls[event.site];
    for (const auto& [site, count] : calls) {
      CAPTURE(site);
      CHECK(count == 1);
    }
    CHECK(calls.size() == std::size_t((sp ? 2 + 3 * 8 + 2 : 1 + 3 * 4 + 1) + 5));
  }
}

TEST_CASE("seams reach what they name") {
  Run run;
  run.steps = 0;
  std::mutex lock;
  int seen = 0;
  run.seams.plan = [&](Plan& plan, const Mesh&) { plan.row("model.norm.weight").counts_in_norm = true; };
  run.seams.primitives = [&](Primitives& p) {
    p.rms_norm = [&, inner = p.rms_norm](const at::Tensor& x, const at::Tensor& w, double eps) {
      const std::lock_guard guard(lock);
      ++seen;
      return inner(x, w, eps);
    };
  };
  const Records got = by_key(run.on("tp2", false)[0]);
  CHECK(seen == 2 * 3 * 7);
  run.seams = {};
  CHECK(got.at("grad_norm").item<double>() > by_key(run.on("tp2", false)[0]).at("grad_norm").item<double>());
}

TEST_CASE("seams of packing, schedule, recomputation, routes and gradient sums reach what they name") {
  Run run;
  run.config = moe_config(), run.config.num_experts = 6;
  run.steps = 1, run.flags.recompute = true;
  std::mutex lock;
  int packings = 0, actions = 0, layers = 0, routes = 0, groups = 0;
  const auto count = [&lock](int& n) {
    const std::lock_guard guard(lock);
    ++n;
  };
  run.seams.packing = [&](PackingEdit& edit) {
    count(packings);
    // The same positions again: nothing may change.
    edit.packed = with_positions(edit.packed, edit.tokens.positions, edit.config);
  };
  run.seams.pipeline = [&](PipelineRunner& runner) {
    runner.run = [&, inner = runner.run](const PipelineAction& action) {
      count(actions);
      inner(action);
    };
  };
  run.seams.gradient_groups = [&](GradientGroups&) { count(groups); };
  run.seams.primitives = [&](Primitives& p) {
    p.recomputed = [&, inner = p.recomputed](const at::Tensor& x,
                                             const std::function<at::Tensor(const at::Tensor&)>& first,
                                             std::function<at::Tensor(const at::Tensor&)> again) {
      count(layers);
      return inner(x, first, again);
    };
    p.expert_routes = [&, inner = p.expert_routes](const ExpertParallel& ep, const at::Tensor& experts,
                                                   std::int64_t expert_count, const Site& site) {
      count(routes);
      return inner(ep, experts, expert_count, site);
    };
  };
  check_same(run, "pp2.uly2.ep2", false);
  // check_same runs one rank as well, which has no pipeline groups: four ranks and one, three micro-batches.
  CHECK(packings == 5 * 3);
  CHECK(groups == 5);
  CHECK(actions == 5 * 3 * 2);
  CHECK(layers == 2 * 3 * 3);   // three layers over two stages, on two ranks each
  CHECK(routes == 2 * layers);  // and once more in backward
}

TEST_CASE("wrong inputs are named") {
  Run run;
  CHECK_THROWS_AS(run.on("tp3", false), InputError);
  Weights weights = random_weights(run.config);
  weights.erase("model.norm.weight");
  CHECK_THROWS_WITH(run.on("tp2", false, weights), Catch::Contains("model.norm.weight"));
  run.loss = "mean_of_means";
  CHECK_THROWS_AS(run.on("dp1", false), InputError);
}

}  // namespace meshparity::impl
