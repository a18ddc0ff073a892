// Rollout against the training forward of the same weights on one rank: in float64 nothing but rounding may
// differ, whatever mesh, cut of the prompts, batch, padding or sharing of prefixes.
#include <cmath>
#include <set>

#include "harness/types/error.h"
#include "impl/blocks/primitives.h"
#include "impl/rollout/rollout_fixture.h"

namespace meshparity::impl::rollout_test {
namespace {

using namespace rollout_testing;

constexpr double kRounding = 1e-12;

std::vector<ModelConfig> text_configs() {
  ModelConfig tied = dense_config();
  tied.tie_word_embeddings = true, tied.num_hidden_layers = 4;
  tied.full_attention = {true, false, false, true}, tied.linear_conv_kernel_dim = 3;
  return {dense_config(), tied, moe_config()};
}

void check_same(const std::vector<Records>& a, const std::vector<Records>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t rank = 0; rank < a.size(); ++rank) {
    REQUIRE(a[rank].size() == b[rank].size());
    for (const auto& [key, value] : a[rank]) {
      CAPTURE(key, rank);
      CHECK(at::equal(value, b[rank].at(key)));
    }
  }
}

// Sequences of which some begin with the same tokens: 0, 2 and 4 share six, 1 none, 3 three.
Batch sharing_batch(const ModelConfig& config) {
  Batch batch = BatchShape::parse("tokens:9/5/12/4/6").batch(config);
  for (const std::int64_t d : {2, 3, 4})
    for (std::int64_t i = 0; i < (d == 3 ? 3 : 6); ++i)
      batch.token_ids[batch.document_offsets[d] + i] = batch.token_ids[i];
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    for (std::int64_t t = batch.document(d).begin; t + 1 < batch.document(d).end; ++t)
      batch.labels[t] = batch.token_ids[t + 1];
  batch.validate("test", config);
  return batch;
}

}  // namespace

TEST_CASE("rollout says what training says, for any cut of the prompts, batch and padding") {
  for (const ModelConfig& config : text_configs())
    for (const char* spec : {"plain", "prompt=1", "prompt=1:chunk=1", "prompt=100", "prompt=100:chunk=1",
                             "prompt=100:chunk=4", "chunk=2:batch=2", "prompt=3:batch=1", "pad=left",
                             "prompt=4:chunk=3:pad=left", "prompt=7:chunk=1:pad=left:batch=3",
                             "prompt=2:prefix=2", "prompt=5:prefix=3:pad=left:chunk=2", "temperature=0.6"}) {
      Rollout rollout;
      rollout.config = config, rollout.spec = spec;
      CAPTURE(spec, config.is_moe(), config.tie_word_embeddings);
      CHECK(drift(rollout) <= kRounding);
    }
}

TEST_CASE(
    "rollout on meshes says what training says, with idle ranks, empty data ranks and empty stages of tp") {
  for (const auto& [train, mesh] : {std::pair("fsdp2.tp2", "tp2"),
                                    {"dp1", "dp3"},
                                    {"fsdp3", "dp8"},
                                    {"tp4", "dp2.tp2"},
                                    {"ring2", "tp4"},
                                    {"pp3", "pp2.tp2"},
                                    {"dp4", "pp3"},
                                    {"pp2.fsdp2", "pp2.dp2"},
                                    {"tp2.uly2", "dp1"}})
    for (const char* spec : {"plain", "chunk=2:pad=left:batch=2", "prompt=3:prefix=2"}) {
      Rollout rollout;
      rollout.train = train, rollout.mesh = mesh, rollout.spec = spec;
      CAPTURE(train, mesh, spec);
      CHECK(drift(rollout) <= kRounding);
      rollout.config.tie_word_embeddings = true;
      CHECK(drift(rollout) <= kRounding);
    }
}

TEST_CASE(
    "rollout over experts says what training says, with decode passes that leave ranks without tokens") {
  for (const auto& [train, mesh] : {std::pair("fsdp2.ep2", "tp3.ep3"),
                                    {"tp6", "tp6.ep6"},
                                    {"dp1", "tp6.ep3"},
                                    {"tp3.etp1", "tp2.ep2"},
                                    {"fsdp6.ep6", "tp6.etp1"},
                                    {"tp2", "tp6"},
                                    {"fsdp3.ep3", "pp3.tp2.ep2"},
                                    {"ring3", "pp2.dp2.tp2"}})
    for (const char* spec : {"plain", "chunk=2:pad=left:batch=1", "prompt=3:prefix=2"}) {
      Rollout rollout;
      rollout.config = moe_config(), rollout.train = train, rollout.mesh = mesh, rollout.spec = spec;
      CAPTURE(train, mesh, spec);
      CHECK(drift(rollout) <= kRounding);
    }
}

TEST_CASE("images are seen by every cut of a prompt, positions go on behind them") {
  for (const auto& [train, mesh] : {std::pair("dp1", "dp1"), {"fsdp2.tp3", "tp2"}, {"pp2", "pp3.dp2"}})
    for (const char* spec : {"plain", "prompt=3:chunk=2", "chunk=1", "prompt=100:pad=left:chunk=3",
                             "prompt=8:prefix=4:batch=2", "pad=left:prefix=5"}) {
      Rollout rollout;
      rollout.config = vision_config(), rollout.train = train, rollout.mesh = mesh, rollout.spec = spec;
      rollout.tokens = "tokens:16i4x4i2x2+9//7+17v2x2x4+14i4x2:mask=20";
      CAPTURE(train, mesh, spec);
      CHECK(drift(rollout) <= kRounding);
    }
}

TEST_CASE("rollout on ATen operators says what the fused functions say, in float32 too") {
  for (const ModelConfig& config : text_configs()) {
    Rollout rollout;
    rollout.config = config, rollout.mesh = "tp2", rollout.spec = "prompt=6:chunk=4:pad=left";
    rollout.seams.primitives = [](Primitives& p) { p = aten_primitives(); };
    CHECK(drift(rollout) <= kRounding);
    const Batch batch = rollout.batch();
    const at::Tensor want = trained(config, batch, random_weights(config)).at("logits");
    rollout.dtype = at::kFloat;
    const at::Tensor got = gathered(rollout.run(), "rollout/logits", batch, Mesh::parse("tp2"));
    REQUIRE(got.scalar_type() == at::kFloat);
    CHECK((got.to(at::kDouble) - want).norm().item<double>() <= 1e-5 * want.norm().item<double>());
  }
}

TEST_CASE("the same rollout twice is the same bits") {
  Rollout rollout;
  rollout.config = moe_config(), rollout.mesh = "dp2.tp2.ep2", rollout.spec = "chunk=2:pad=left:top_p=0.7";
  check_same(rollout.run(), rollout.run());
}

TEST_CASE("a shared prefix is computed once and gives the bits of computing it again") {
  for (const ModelConfig& config : text_configs())
    for (const char* batch : {"batch=1", "batch=5"}) {
      Rollout rollout;
      rollout.config = config, rollout.spec = std::string("prompt=6:chunk=3:") + batch;
      const Batch sharing = sharing_batch(config);
      const Weights weights = random_weights(config);
      const auto plain = rollout.run(sharing, weights);
      rollout.spec += ":prefix=3";
      int passes = 0;
      std::int64_t prefilled = 0;
      rollout.seams.rollout = [&](RolloutEdit& edit) {
        edit.positions = [&](const RolloutPass& pass, std::vector<std::int64_t> positions) {
          ++passes;
          if (!pass.decode) prefilled += pass.size();
          return positions;
        };
      };
      const auto shared = rollout.run(sharing, weights);
      // Prompts of 6, 5, 6, 4 and 6 tokens, three of which three sequences need not compute.
      CHECK(prefilled == 27 - 9);
      // One sequence at a time, every product has the same shape either way.
      if (std::string(batch) == "batch=1") check_same(plain, shared);
      const Mesh mesh;
      const at::Tensor want = trained(config, sharing, weights).at("logits");
      CHECK((gathered(shared, "rollout/logits", sharing, mesh) - want).norm().item<double>() <=
            kRounding * want.norm().item<double>());
    }
}

TEST_CASE("the same placeholders before other pixels are no shared prefix") {
  Rollout rollout;
  rollout.config = vision_config(), rollout.spec = "prompt=8:prefix=6";
  rollout.tokens = "tokens:9i4x2/9i4x2";
  Batch batch = rollout.batch();
  for (std::int64_t i = 0; i < 9; ++i) batch.token_ids[9 + i] = batch.token_ids[i];
  for (std::int64_t t = 0; t < 18; ++t)
    if (batch.labels[t] != kIgnoreLabel) batch.labels[t] = batch.token_ids[t + 1];
  const Weights weights = random_weights(rollout.config);
  const at::Tensor want = trained(rollout.config, batch, weights).at("logits");
  const at::Tensor got = gathered(rollout.run(batch, weights), "rollout/logits", batch, Mesh{});
  CHECK(largest(got - want) <= 1e-11);
  // The tokens alone would not tell.
  rollout.seams.rollout = [](RolloutEdit& edit) {
    edit.same_prefix = [](const PrefixKey& a, const PrefixKey& b) { return a.tokens == b.tokens; };
  };
  CHECK(largest(gathered(rollout.run(batch, weights), "rollout/logits", batch, Mesh{}) - want) > 1e-3);
}

TEST_CASE("resharded weights are training's, bit by bit") {
  for (const auto& [train, mesh] :
       {std::pair("fsdp2.tp2", "dp3.tp2"), {"pp2.dp2", "tp3"}, {"ring3", "pp2"}}) {
    Rollout rollout;
    rollout.config = vision_config(), rollout.train = train, rollout.mesh = mesh;
    const Weights weights = random_weights(rollout.config);
    const auto got = rollout.run(rollout.batch(), weights);
    const Mesh to = Mesh::parse(rollout.mesh);
    std::set<std::string> names;
    for (int rank = 0; rank < to.world(); ++rank) {
      const Plan plan = make_plan(rollout.config, to, {}, rank);
      for (const PlanRow& row : plan.rows) {
        CAPTURE(row.name, rank);
        names.insert(row.name);
        CHECK(at::equal(got[rank].at("rollout/weights/" + row.name), plan.shard(row, weights.at(row.name))));
      }
    }
    CHECK(names.size() == parameters_of(rollout.config).size());
  }
}

TEST_CASE("routes are emitted, and replayed ones are taken with the weights of the given experts") {
  for (const char* mesh : {"dp1", "tp3", "tp6.ep3", "pp2.dp2.tp2.ep2"}) {
    Rollout rollout;
    rollout.config = moe_config(), rollout.mesh = mesh;
    const Batch batch = rollout.batch();
    const Weights weights = random_weights(rollout.config);
    const auto free = rollout.run(batch, weights);
    const Mesh on = Mesh::parse(mesh);
    std::map<std::string, at::Tensor> routes;
    for (const char* layer : {"layers.0", "layers.1", "layers.2"})
      routes[layer] = gathered(free, std::string("rollout/routes/") + layer, batch, on);
    rollout.spec = "replay=on:pad=left", rollout.routes = &routes;
    const auto again = rollout.run(batch, weights);
    const auto logits = [&](const std::vector<Records>& of) {
      return gathered(of, "rollout/logits", batch, on);
    };
    CHECK(largest(logits(again) - logits(free)) <= 1e-11);
    // Other experts than the router would take.
    for (auto& [layer, experts] : routes) experts = (experts + 1).remainder(6);
    const auto other = rollout.run(batch, weights);
    for (const auto& [layer, experts] : routes)
      CHECK(at::equal(gathered(other, "rollout/routes/" + layer, batch, on), experts));
    CHECK(largest(logits(other) - logits(free)) > 1e-2);
  }
}

TEST_CASE("top-p logprobs are renormalised over the smallest set that holds the probability") {
  for (const char* mesh : {"dp1", "tp4", "dp2.tp2", "pp2"}) {
    Rollout rollout;
    rollout.mesh = mesh, rollout.spec = "temperature=0.8:top_p=0.6";
    const Batch batch = rollout.batch();
    const Weights weights = random_weights(rollout.config);
    const auto got = rollout.run(batch, weights);
    const Mesh on = Mesh::parse(mesh);
    const at::Tensor p = at::softmax(trained(rollout.config, batch, weights).at("logits") / 0.8, 1);
    const at::Tensor sampling = gathered(got, "rollout/sampling_logprobs", batch, on),
                     in = gathered(got, "rollout/in_support", batch, on);
    REQUIRE(in.scalar_type() == at::kLong);
    int inside = 0, outside = 0;
    for (std::int64_t t = 0; t < batch.tokens(); ++t) {
      const std::int64_t label = batch.labels[t];
      CAPTURE(t, label, mesh);
      double want = 0;
      bool member = false;
      if (label >= 0) {
        std::vector<std::pair<double, std::int64_t>> order;
        for (std::int64_t v = 0; v < p.size(1); ++v) order.emplace_back(-p[t][v].item<double>(), v);
        std::sort(order.begin(), order.end());
        double mass = 0;
        for (const auto& [negative, v] : order) {
          if (mass >= 0.6) break;
          mass -= negative, member = member || v == label;
        }
        if (member) want = std::log(p[t][label].item<double>() / mass);
        ++(member ? inside : outside);
      }
      CHECK(in[t].item<std::int64_t>() == member);
      CHECK(std::abs(sampling[t].item<double>() - want) <= kRounding);
    }
    CHECK(inside > 2);
    CHECK(outside > 2);
  }
}

TEST_CASE("rollout refuses what it cannot run") {
  Rollout rollout;
  rollout.mesh = "fsdp2";
  REQUIRE_THROWS_WITH(rollout.run(), Catch::Contains("fsdp2: rollout has the axes"));
  rollout.mesh = "tp8";
  REQUIRE_THROWS_AS(rollout.run(), InputError);
  rollout.mesh = "dp1", rollout.config = moe_config(), rollout.spec = "replay=on";
  REQUIRE_THROWS_WITH(rollout.run(), Catch::Contains("no routes are given"));
}

}  // namespace meshparity::impl::rollout_test
