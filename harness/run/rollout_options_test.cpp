// Rollout cases: which pairs of meshes and rollouts an option line stands for, and what it must not say.
#include <catch2/catch.hpp>

#include "harness/run/case_fixture.h"
#include "harness/run/case_options.h"
#include "harness/types/error.h"

namespace meshparity::run::rollout_options_test {
namespace {

using fixture::config_of;

CaseOptions rollout(std::vector<std::string> mesh, std::vector<std::string> rollout_mesh,
                    std::vector<std::string> specs = {}) {
  CaseOptions o;
  o.mesh = std::move(mesh), o.rollout_mesh = std::move(rollout_mesh), o.rollout = std::move(specs);
  return o;
}

}  // namespace

TEST_CASE("every training mesh meets every rollout mesh in every rollout") {
  const auto expansion =
      expand(rollout({"fsdp2", "ring2"}, {"tp2", "pp2", "dp1"}, {"plain", "chunk=2"}), config_of);
  CHECK(expansion.cases.size() == 2 * 3 * 2);
  CHECK(expansion.skipped.empty());
  CHECK(expansion.cases[0].line() == "--model tiny-dense --batch rows --mesh fsdp2 --rollout-mesh tp2");
  CHECK(expansion.cases[1].rollout.chunk == 2);
  CHECK(expansion.cases[11].rollout_mesh->text() == "dp1");
}

TEST_CASE("world sizes list the meshes that rollout and model take") {
  std::string meshes;
  for (const auto& spec : expand(rollout({"dp1"}, {"world<=4"}), config_of).cases)
    meshes += spec.rollout_mesh->text() + " ";
  CHECK(meshes == "dp1 tp2 dp2 pp2 dp3 pp3 tp4 dp2.tp2 dp4 pp2.tp2 pp2.dp2 pp4 ");
}

TEST_CASE("a rollout that a mesh or a model cannot take is skipped with its reason, alone it is an error") {
  const auto expansion = expand(rollout({"dp1"}, {"tp2", "ring2", "tp3"}, {"plain", "replay=on"}), config_of);
  CHECK(expansion.cases.size() == 1);
  std::vector<std::string> reasons;
  for (const auto& skip : expansion.skipped) reasons.push_back(skip.reason);
  REQUIRE(reasons.size() == 5);
  CHECK(reasons[0] == "replay=on: the model has no experts to replay");
  CHECK(reasons[1] == "ring2: rollout has the axes pp, dp, tp, ep, etp");
  CHECK(reasons[3].find("tp3") == 0);
  CHECK_THROWS_WITH(expand(rollout({"dp1"}, {"ring2"}), config_of),
                    "ring2: rollout has the axes pp, dp, tp, ep, etp");
}

TEST_CASE("what says nothing about a rollout is refused by its option") {
  const auto refused = [](CaseOptions o, const std::string& why) {
    CHECK_THROWS_WITH(expand(o, config_of), why);
  };
  CaseOptions alone;
  alone.rollout = {"chunk=2"};
  refused(alone, "--rollout chunk=2: needs --rollout-mesh");
  alone.rollout = {}, alone.check = {"rollout"};
  refused(alone, "--check rollout: needs --rollout-mesh");
  const auto with = [](const auto& change) {
    CaseOptions o = rollout({"dp1"}, {"tp2"});
    change(o);
    return o;
  };
  refused(with([](auto& o) { o.steps = 2; }),
          "--steps with --rollout-mesh: a rollout case takes no optimizer step");
  refused(with([](auto& o) { o.apart = true; }),
          "--apart with --rollout-mesh: a rollout case runs no reference process of its own");
  refused(with([](auto& o) { o.loss = {"sum"}; }),
          "--loss with --rollout-mesh: a rollout case evaluates no loss");
  refused(with([](auto& o) { o.loss_form = {"replicated"}; }),
          "--loss-form with --rollout-mesh: a rollout case evaluates no loss");
  refused(with([](auto& o) { o.recompute = {"all"}; }),
          "--recompute with --rollout-mesh: a rollout case has no backward pass");
  refused(with([](auto& o) { o.device = "cuda"; }), "--device with --rollout-mesh: rollout runs on the CPU");
  refused(with([](auto& o) { o.check = {"grads"}; }),
          "--check grads with --rollout-mesh: a rollout case has the check rollout");
  refused(with([](auto& o) { o.rollout = {"speed=3"}; }),
          "--rollout 'speed': unknown; prompt, chunk, batch, pad, prefix, replay, temperature, top_p");
  refused(with([](auto& o) { o.rollout_mesh = {"world<=65"}; }),
          "--rollout-mesh 'world<=65': needs a world size from 1 to 64");
  CHECK(expand(with([](auto& o) { o.check = {"rollout"}; }), config_of).cases.size() == 1);
}

TEST_CASE("ranks of a spawned rollout case are those of the larger mesh") {
  CaseOptions o = rollout({"fsdp2"}, {"tp4"});
  o.engine = {"gloo"}, o.spawn = 4;
  CHECK(expand(o, config_of).cases.size() == 1);
  o.spawn = 2;
  CHECK_THROWS_WITH(expand(o, config_of), "fsdp2 and tp4 have 4 ranks, --spawn is 2");
}

}  // namespace meshparity::run::rollout_options_test
