// Covers: complete, small, and honest about what cannot meet.
#include "harness/run/cover.h"

#include <catch2/catch.hpp>
#include <set>

#include "harness/run/case_fixture.h"

namespace meshparity::run::cover_test {
namespace {

using fixture::config_of;

std::vector<CaseSpec> product(const std::string& world) {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"single", "rows"}, o.mesh = {world};
  o.sp = o.gdn = o.attn = o.layout = o.pad = {"all"};
  return expand(o, config_of).cases;
}

}  // namespace

TEST_CASE("a cover meets every pair that the cases meet, with every mesh, and is far smaller") {
  const auto all = product("world<=6");
  const auto chosen = cover(all);
  CHECK(missing_pairs(all, chosen).empty());
  CHECK(chosen.size() * 20 < all.size());
  std::set<std::string> meshes, covered;
  for (const auto& spec : all) meshes.insert(spec.model + spec.mesh.text());
  for (const auto& spec : chosen) covered.insert(spec.model + spec.mesh.text());
  CHECK(meshes == covered);
}

TEST_CASE("a pair that a selection lost is named") {
  const auto all = product("world<=4");
  std::vector<CaseSpec> without;
  for (const auto& spec : all)
    if (!(spec.mesh.ring == 4 && spec.flags.layout == "zigzag")) without.push_back(spec);
  const auto missing = missing_pairs(all, without);
  REQUIRE(missing.size() == 1);
  CHECK(missing[0] == Pair{"ring=4", "layout=zigzag"});
}

TEST_CASE("a cover meets every loss with every axis, and says which model has no routers") {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"rows"}, o.mesh = {"world<=4"};
  o.sp = o.recompute = o.schedule = {"all"};
  o.loss = {"token_mean", "policy_gradient", "token_mean+0.001*aux"};
  const auto all = expand(o, config_of).cases, chosen = cover(all);
  CHECK(missing_pairs(all, chosen).empty());
  std::set<std::string> met;
  for (const auto& spec : chosen)
    for (const auto& [factor, value] : factors_of(spec)) met.insert(spec.loss + " " + factor + "=" + value);
  for (const auto& loss : o.loss)
    for (const char* value : {"pp=2", "dp=2", "fsdp=2", "ring=2", "uly=2", "tp=2", "ep=2", "etp=1", "sp=on",
                              "recompute=on", "schedule=gpipe", "schedule=interleaved"})
      CHECK(met.count(loss + " " + value) == 1);
  std::map<Pair, std::string> reasons;
  for (const auto& [pair, reason] : impossible_pairs(all, config_of)) reasons[pair] = reason;
  CHECK(reasons.at({"loss=token_mean+0.001*aux", "model=tiny-dense"}) ==
        "loss term aux needs a mixture-of-experts model");
}

TEST_CASE("pairs that cannot meet come with their reason") {
  const auto impossible = impossible_pairs(product("world<=4"), config_of);
  std::map<Pair, std::string> reasons;
  for (const auto& [pair, reason] : impossible) reasons[pair] = reason;
  CHECK(reasons.at({"ring=1", "layout=zigzag"}).find("needs ring > 1") != std::string::npos);
  CHECK(reasons.at({"dp=4", "tp=2"}) == "needs 8 ranks, the largest mesh has 4");
  CHECK(reasons.at({"tp=4", "model=tiny-moe"}).find("tp*uly must divide num_attention_heads=6") !=
        std::string::npos);
  for (const auto& [pair, reason] : reasons) CHECK_FALSE(reason.empty());
}

}  // namespace meshparity::run::cover_test
