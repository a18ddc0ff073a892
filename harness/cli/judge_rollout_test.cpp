// The judge of rollout cases on outputs made by hand: the reference's rollout cut by the layouts is green,
// and every single thing that can be wrong with it is found and named.
#include "harness/cli/judge_rollout.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "harness/cli/case_arguments.h"
#include "harness/cli/rollout_tokens.h"
#include "harness/cli/torch_bridge.h"
#include "harness/layout/layout.h"

namespace meshparity::cli::judge_rollout_test {
namespace {

// A case with what correct ranks of both meshes would emit, to be damaged.
struct Made {
  CaseSpec spec;
  std::shared_ptr<const Scenario> scenario;
  std::shared_ptr<const ExpectedRollout> expected;
  std::vector<impl::RankOutput> trained, rolled;

  explicit Made(const std::string& line) : spec(single_case(line)), scenario(load_scenario(spec)) {
    expected = expected_rollout(scenario, spec);
    const layout::LayoutMap train(scenario->config, spec.mesh, spec.flags, scenario->batch,
                                  scenario->placements);
    cut(train, "logits", expected->tensors.at("rollout/logits").view(), trained);
    const layout::LayoutMap map(scenario->config, *spec.rollout_mesh, Flags{}, rollout_batch(scenario->batch),
                                scenario->placements);
    for (const auto& [name, tensor] : scenario->weights)
      cut(map, "rollout/weights/" + name, to_host(tensor).view(), rolled);
    for (const auto& [key, tensor] : expected->tensors) cut(map, key, tensor.view(), rolled);
  }

  // The local tensor of a rank, to be written to.
  at::Tensor of(std::vector<impl::RankOutput>& outputs, int rank, const std::string& key) {
    auto& records = outputs.at(rank).records;
    const auto found =
        std::find_if(records.begin(), records.end(), [&](const auto& record) { return record.key == key; });
    REQUIRE(found != records.end());
    found->value = found->value.clone();
    return found->value;
  }

  std::vector<CheckResult> judge() const {
    return judge_rollout(
        spec, *scenario, *expected,
        {std::make_shared<const std::vector<impl::RankOutput>>(trained), rolled, again ? *again : rolled});
  }
  std::optional<std::vector<impl::RankOutput>> again;

 private:
  static void cut(const layout::LayoutMap& map, const std::string& key, const TensorView& global,
                  std::vector<impl::RankOutput>& outputs) {
    outputs.resize(map.world());
    for (int rank = 0; rank < map.world(); ++rank) {
      const HostTensor local = layout::shard(map.local(key, rank), global);
      if (local.numel() > 0) outputs[rank].records.push_back({key, alias_of(local).clone()});
    }
  }
};

const std::string kMoe =
    "--model tiny-moe --batch packed-odd --mesh fsdp2 --rollout-mesh dp2.tp2 --rollout "
    "prompt=6:temperature=0.7:top_p=0.9";

// The failing tensors by name; everything else must be PASS.
std::map<std::string, CheckResult> failures(const Made& made) {
  std::map<std::string, CheckResult> failing;
  for (const auto& result : made.judge())
    if (result.state != State::pass) failing.emplace(result.tensor, result);
  return failing;
}

std::string names(const std::map<std::string, CheckResult>& failing) {
  std::string text;
  for (const auto& [name, result] : failing)
    text += (text.empty() ? "" : " ") + std::string(state_name(result.state)) + ":" + name.substr(8);
  return text;
}

bool mentions(const CheckResult& result, const std::string& text) {
  return std::any_of(result.detail.begin(), result.detail.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

// Local number of a global token on a rank.
std::int64_t local_token(const Made& made, int rank, std::int64_t token) {
  const layout::LayoutMap map(made.scenario->config, *made.spec.rollout_mesh, Flags{},
                              rollout_batch(made.scenario->batch), made.scenario->placements);
  const auto tokens = map.tokens(rank, false);
  const auto found = std::find(tokens.begin(), tokens.end(), token);
  REQUIRE(found != tokens.end());
  return found - tokens.begin();
}

}  // namespace

TEST_CASE("correct ranks of both meshes are green, tensor by tensor") {
  for (const std::string& line :
       {kMoe,
        std::string("--model tiny-dense --batch boundaries --mesh ring2 --layout zigzag --rollout-mesh pp2"),
        std::string("--model tiny-vl --batch rows --mesh tp2 --rollout-mesh dp3")}) {
    INFO(line);
    const Made made(line);
    CHECK(names(failures(made)) == "");
    const auto results = made.judge();
    const std::size_t routes = made.scenario->config.is_moe() ? made.scenario->config.num_hidden_layers : 0;
    const bool replicas = made.spec.rollout_mesh->tp > 1 || made.spec.rollout_mesh->dp > 1;
    CHECK(results.size() == made.scenario->weights.size() + routes + 4 + 2 + replicas);
    for (const auto& result : results) CHECK(result.check == "rollout");
  }
}

TEST_CASE("a weight that is off by a bit, or by the sign of zero, is not training's") {
  Made made(kMoe);
  const std::string name = "model.layers.3.self_attn.o_proj.weight";
  at::Tensor weight = made.of(made.rolled, 1, "rollout/weights/" + name);
  SECTION("a bit") {
    weight[2][1] = std::nextafter(weight[2][1].item<double>(), 9.0);
    const auto failing = failures(made);
    CHECK(names(failing) == "FAIL:replicas FAIL:weights/" + name);
    CHECK(failing.at("rollout/replicas").where.find(name) != std::string::npos);
  }
  SECTION("every copy of it") {
    made.of(made.rolled, 3, "rollout/weights/" + name)[2][1] = 7, weight[2][1] = 7;
    const auto failing = failures(made);
    CHECK(names(failing) == "FAIL:weights/" + name);
    CHECK(failing.begin()->second.where.find("on dp0.tp1 local [2,1]") != std::string::npos);
    CHECK(failing.begin()->second.against == "training");
  }
  SECTION("zero's sign") {
    // The scenario itself must hold a zero for that.
    auto scenario = std::make_shared<Scenario>(*made.scenario);
    scenario->weights[name] = scenario->weights.at(name).clone();
    scenario->weights[name].zero_();
    made.scenario = scenario;
    for (int rank : {0, 1, 2, 3}) made.of(made.rolled, rank, "rollout/weights/" + name).zero_();
    CHECK(names(failures(made)) == "");
    for (int rank : {1, 3}) made.of(made.rolled, rank, "rollout/weights/" + name)[0][0] = -0.0;
    const auto failing = failures(made);
    CHECK(names(failing) == "FAIL:weights/" + name);
    CHECK(failing.begin()->second.reason == "1 elements are equal and not bitwise equal");
  }
}

TEST_CASE("a wrong decoded token is named by document, position and step, and so is a prefilled one") {
  Made made(kMoe);  // documents of 37, 1, 2, 51, 40, 1 and 13 tokens, prompts of 6
  const auto spoil = [&](std::int64_t token) {
    // Document 0 is data rank 0's: ranks 0 and 1 hold a half of the vocabulary each.
    made.of(made.rolled, 1, "rollout/logits")[local_token(made, 1, token)][4] += 1e-6;
    const auto failing = failures(made);
    CHECK(names(failing) == "FAIL:logits");
    return failing.at("rollout/logits");
  };
  SECTION("decoded") {
    const CheckResult result = spoil(6);
    CHECK(result.where.find(
              "document 0 position 6, the first decoded token (prompt of 6) on dp0.tp1 local [6,4]") !=
          std::string::npos);
    CHECK(mentions(result,
                   "tokens  outside: 0 of 28 prefilled, 1 of 117 decoded; earliest document 0 position 6"));
  }
  SECTION("prefilled") {
    CHECK(spoil(5).where.find("document 0 position 5, prefilled on dp0.tp1") != std::string::npos);
  }
}

TEST_CASE("sampled logprobs are judged token by token in nats") {
  Made made(kMoe);
  const double bound = 1e-12 / 0.7;
  const auto labels = made.scenario->batch.labels;
  const std::int64_t token =
      std::find_if(labels.begin(), labels.end(), [](std::int64_t label) { return label >= 0; }) -
      labels.begin();
  const auto off_by = [&](double nats) {
    for (int rank : {0, 1})
      made.of(made.rolled, rank, "rollout/logprobs")[local_token(made, rank, token)] += nats;
    return names(failures(made));
  };
  CHECK(off_by(0.8 * bound) == "");
  CHECK(off_by(0.8 * bound) == "FAIL:logprobs FAIL:train_difference");
}

TEST_CASE("a choice of another expert is the first line of everything that follows from it") {
  Made made(kMoe);
  for (int rank : {0, 1}) {
    at::Tensor routes = made.of(made.rolled, rank, "rollout/routes/layers.2");
    routes[local_token(made, rank, 8)][1] = (routes[local_token(made, rank, 8)][1] + 1) % 12;
    made.of(made.rolled, rank, "rollout/logits")[local_token(made, rank, 8)] += 0.1;
  }
  const auto results = made.judge();
  const auto first = std::find_if(results.begin(), results.end(),
                                  [](const auto& result) { return result.state != State::pass; });
  CHECK(first->tensor == "rollout/routes/layers.2");
  const auto failing = failures(made);
  CHECK(names(failing) == "FAIL:logits FAIL:routes/layers.2");
  CHECK(failing.at("rollout/logits")
            .detail.front()
            .find("first   rollout/routes/layers.2 [8,1] document 0 position 8") == 0);
}

TEST_CASE("weights that are not training's come before other experts") {
  Made made(kMoe);
  const std::string name = "rollout/weights/model.norm.weight";
  for (int rank : {0, 1, 2, 3}) made.of(made.rolled, rank, name) += 1;
  for (int rank : {0, 1}) {
    made.of(made.rolled, rank, "rollout/routes/layers.0")[0][0] = 11;
    made.of(made.rolled, rank, "rollout/in_support")[0] = 7;
  }
  const auto failing = failures(made);
  CHECK(names(failing) == "FAIL:in_support FAIL:routes/layers.0 FAIL:weights/model.norm.weight");
  CHECK(failing.at("rollout/in_support").detail.front().find("first   " + name + " (1 of the weights)") == 0);
}

TEST_CASE("what training itself computed is held against the rollout") {
  Made made(kMoe);
  at::Tensor logits = made.of(made.trained, 0, "logits");
  // The label's own logit of a token with one, moved; that top-p leaves it out hides nothing.
  const auto& batch = made.scenario->batch;
  REQUIRE(batch.labels[2] >= 0);
  REQUIRE(made.expected->tensors.at("rollout/in_support").as<std::int64_t>()[2] == 0);
  logits[2][batch.labels[2]] += 1e-9;
  const auto failing = failures(made);
  CHECK(names(failing) == "FAIL:train_difference");
  CHECK(failing.begin()->second.where == "[2,0] document 0 position 2, prefilled");
  CHECK(failing.begin()->second.against == "training ranks");
  made.trained[0].records.clear();
  CHECK(names(failures(made)) == "INVALID:train_difference");
}

TEST_CASE("missing, extra, ill-shaped and non-finite tensors are INVALID") {
  Made made(kMoe);
  SECTION("missing") {
    for (auto& output : made.rolled)
      std::erase_if(output.records, [](const auto& record) {
        return record.key == "rollout/logits" || record.key == "rollout/weights/model.norm.weight" ||
               record.key == "rollout/sampling_logprobs";
      });
    CHECK(names(failures(made)) ==
          "INVALID:logits INVALID:sampling_logprobs INVALID:train_difference "
          "INVALID:weights/model.norm.weight");
  }
  SECTION("extra") {
    made.rolled[0].records.push_back({"rollout/kv_cache", at::ones({3})});
    CHECK(names(failures(made)) == "INVALID:kv_cache");
  }
  SECTION("shape") {
    auto& records = made.rolled[2].records;
    for (auto& record : records)
      if (record.key == "rollout/logprobs") record.value = record.value.slice(0, 1).contiguous();
    CHECK(names(failures(made)) == "INVALID:logprobs INVALID:train_difference");
  }
  SECTION("not finite") {
    for (int rank : {0, 1}) made.of(made.rolled, rank, "rollout/logprobs")[7] = NAN;
    const auto failing = failures(made);
    CHECK(names(failing) == "INVALID:logprobs INVALID:train_difference");
    CHECK(mentions(failing.begin()->second, "tokens  outside: 0 of 28 prefilled, 1 of 117 decoded"));
  }
}

TEST_CASE("a second run must repeat the first bit by bit") {
  Made made(kMoe);
  made.again = made.rolled;
  at::Tensor logits = made.of(*made.again, 3, "rollout/logits");
  logits[0][0] = std::nextafter(logits[0][0].item<double>(), 9.0);
  auto failing = failures(made);
  CHECK(names(failing) == "FAIL:repeat");
  CHECK(failing.begin()->second.where == "rank 3 rollout/logits");
  made.again->at(1).records.pop_back();
  CHECK(failures(made).at("rollout/repeat").where == "rank 1: other records");
}

TEST_CASE("only what --tensor names is judged") {
  const Made made(kMoe + " --tensor 'rollout/train*'");
  const auto results = made.judge();
  REQUIRE(results.size() == 1);
  CHECK(results[0].tensor == "rollout/train_difference");
}

TEST_CASE("a token is described by the pass that computes it") {
  Batch batch;
  batch.token_ids.assign(20, 1);
  batch.document_offsets = {0, 2, 20};
  const auto text = [&](const char* spec, std::int64_t token) {
    return rollout_token_text(batch, RolloutSpec::parse(spec), token);
  };
  CHECK(text("plain", 0) == "document 0 position 0, prefilled");
  CHECK(text("plain", 1) == "document 0 position 1, the first decoded token (prompt of 1)");
  CHECK(text("prompt=8:chunk=3", 2 + 3) ==
        "document 1 position 3, prefilled in chunk 2 of 3, its first token");
  CHECK(text("prompt=8:chunk=3", 2 + 7) == "document 1 position 7, prefilled in chunk 3 of 3");
  CHECK(text("prompt=8:chunk=3", 2 + 10) == "document 1 position 10, decoded, step 3 (prompt of 8)");
  CHECK(text("prompt=8:chunk=2:prefix=4", 2 + 2) ==
        "document 1 position 2, prefilled in the prefix, chunk 2 of 2, its first token");
  CHECK(text("prompt=8:chunk=3:prefix=4", 2 + 4) ==
        "document 1 position 4, prefilled in chunk 1 of 2, its first token");
  CHECK(text("prompt=2:prefix=4", 2 + 1) == "document 1 position 1, prefilled");
}

}  // namespace meshparity::cli::judge_rollout_test
