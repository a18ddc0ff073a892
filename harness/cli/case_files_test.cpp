// The packaged case files hold what they say.
#include <catch2/catch.hpp>
#include <set>

#include "harness/cli/case_arguments.h"
#include "harness/run/cover.h"

namespace meshparity::cli {
namespace {

// The product that ci.cases covers.
std::vector<CaseSpec> product() {
  return expand_cases(
             parse_case_line("--model tiny-dense,tiny-moe --batch single,packed-odd,rows,boundaries "
                             "--mesh 'world<=8' --sp all --gdn all --attn all --layout all --pad all "
                             "--schedule all --recompute all"))
      .cases;
}

// The losses that ci.cases covers, on one and two ranks.
std::vector<CaseSpec> losses() {
  return expand_cases(
             parse_case_line("--model tiny-dense,tiny-moe --batch boundaries,rows --mesh 'world<=2' --sp all "
                             "--schedule all --recompute all --pad all --loss-form sharded,replicated --loss "
                             "token_mean,sum,sequence_mean,micro_batch_mean,num_tokens,policy_gradient,"
                             "token_mean+0.0001*lm_z,token_mean+0.001*aux+0.01*router_z+0.0001*lm_z"))
      .cases;
}

}  // namespace

TEST_CASE("ci.cases meets every loss with every axis, flag, model and form of the loss") {
  const auto all = losses(), ci = expand_case_file("ci").cases;
  for (const auto& pair : run::missing_pairs(all, ci)) {
    INFO(pair.first << " with " << pair.second << " never meet in ci.cases");
    CHECK(false);
  }
  CHECK_FALSE(run::impossible_pairs(all, config_of).empty());
}

TEST_CASE("basic.cases is the 258 cases of dp, fsdp, tp and sp, and ci.cases holds them") {
  const auto basic = expand_case_file("basic"), ci = expand_case_file("ci");
  CHECK(basic.cases.size() == 258);
  std::set<std::string> lines;
  for (const auto& spec : ci.cases) lines.insert(spec.line());
  for (const auto& spec : basic.cases) CHECK(lines.count(spec.line()) == 1);
}

TEST_CASE("ci.cases runs every valid mesh up to 8 ranks and every possible pair of values") {
  const auto all = product(), ci = expand_case_file("ci").cases;
  for (const auto& pair : run::missing_pairs(all, ci)) {
    INFO(pair.first << " with " << pair.second << " never meet in ci.cases");
    CHECK(false);
  }
  std::set<std::string> meshes, covered;
  for (const auto& spec : all) meshes.insert(spec.model + " " + spec.mesh.text());
  for (const auto& spec : ci)
    if (spec.model == "tiny-dense" || spec.model == "tiny-moe")
      covered.insert(spec.model + " " + spec.mesh.text());
  CHECK(meshes == covered);
  CHECK(meshes.size() == 427);
  // Every pair that is missing from the product has a reason; throws where one has none.
  CHECK_FALSE(run::impossible_pairs(all, config_of).empty());
}

TEST_CASE("nightly.cases is the product without padding with every batch, and more") {
  std::set<std::string> lines;
  for (const auto& spec : expand_case_file("nightly").cases) lines.insert(spec.line());
  std::size_t unpadded = 0;
  for (const auto& spec : product()) {
    if (spec.flags.pad != "none" || spec.flags.recompute || spec.mesh.pp > 1 || spec.mesh.ep > 1 ||
        spec.mesh.etp)
      continue;
    ++unpadded;
    CHECK(lines.count(spec.line()) == 1);
  }
  CHECK(unpadded == 5580);
}

}  // namespace meshparity::cli
