// Case expansion: counts, aliases, skips and the errors of impossible requests.
#include <catch2/catch.hpp>

#include "harness/run/case_fixture.h"
#include "harness/run/case_options.h"
#include "harness/types/error.h"

namespace meshparity::run {
namespace {

using fixture::config_of;

}  // namespace

TEST_CASE("world <= 8 with sp all and three batches is the 258 cases of the design") {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"single", "packed-odd", "rows"};
  o.mesh = {"world<=8"}, o.axes = {"dp", "fsdp", "tp"}, o.sp = {"all"};
  const auto expansion = expand(o, config_of);
  CHECK(expansion.cases.size() == 258);
  CHECK(expansion.skipped.empty());
}

TEST_CASE("every distinct value of mesh, sp, gdn, attn and layout is the 1,395 cases of the design") {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"rows"}, o.mesh = {"world<=8"};
  o.axes = {"dp", "fsdp", "ring", "uly", "tp"};
  o.sp = o.gdn = o.attn = o.layout = {"all"};
  CHECK(expand(o, config_of).cases.size() == 1395);
}

TEST_CASE("the whole product has the design's 427, 1,557, 5,335 and 25,058 cases") {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"rows"}, o.mesh = {"world<=8"};
  CHECK(expand(o, config_of).cases.size() == 427);
  o.sp = o.gdn = o.attn = o.layout = o.schedule = {"all"};
  CHECK(expand(o, config_of).cases.size() == 5335);
  o.mesh = {"world<=16"};
  CHECK(expand(o, config_of).cases.size() == 25058);
  o.sp = o.gdn = o.attn = o.layout = o.schedule = {};
  CHECK(expand(o, config_of).cases.size() == 1557);
}

TEST_CASE("a value that changes nothing on a mesh is one case with its default") {
  CaseOptions o;
  o.mesh = {"fsdp2", "tp2"}, o.sp = {"all"}, o.layout = {"all"}, o.gdn = {"state"};
  const auto expansion = expand(o, config_of);
  CHECK(expansion.cases.size() == 3);
  CHECK(expansion.skipped.empty());
}

TEST_CASE(
    "an impossible value is skipped with its reason where another mesh can take it, else it is an error") {
  CaseOptions o;
  o.mesh = {"fsdp2", "tp2"}, o.sp = {"on"};
  const auto expansion = expand(o, config_of);
  CHECK(expansion.cases.size() == 1);
  REQUIRE(expansion.skipped.size() == 1);
  CHECK(expansion.skipped[0].reason == "fsdp2: sp=on needs tp > 1");
  o.mesh = {"fsdp2"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
  o.mesh = {"tp8"}, o.sp = {};
  CHECK_THROWS_WITH(expand(o, config_of), "tp8: tp must divide linear_num_key_heads=4");
}

TEST_CASE("a sum of terms is one case, and a model without routers is skipped where another has them") {
  CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.mesh = {"dp1", "tp2"};
  o.loss = {"token_mean", "token_mean+0.001*aux"};
  const auto expansion = expand(o, config_of);
  CHECK(expansion.cases.size() == 6);
  REQUIRE(expansion.skipped.size() == 2);
  for (const auto& skip : expansion.skipped) {
    CHECK(skip.spec.model == "tiny-dense");
    CHECK(skip.reason == "loss term aux needs a mixture-of-experts model");
  }
  o.model = {"tiny-dense"}, o.loss = {"token_mean+0.001*aux"};
  CHECK_THROWS_WITH(expand(o, config_of), "loss term aux needs a mixture-of-experts model");
}

TEST_CASE("how a vision tower is spread varies only where a model has one and tp or cp is more than 1") {
  const auto with_tower = [](const std::string& model, const std::string& golden) {
    ModelConfig c = config_of(model, golden);
    if (model == "tiny-vl") c.vision.depth = 2, c.vision.hidden_size = 24, c.vision.num_heads = 6;
    return c;
  };
  CaseOptions o;
  o.model = {"tiny-vl"}, o.mesh = {"dp2", "tp2", "ring2"}, o.vision = {"all"};
  CHECK(expand(o, with_tower).cases.size() == 5);
  o.model = {"tiny-dense"};
  CHECK(expand(o, with_tower).cases.size() == 3);
  o.model = {"tiny-vl"}, o.mesh = {"world=4"}, o.axes = {"tp"}, o.vision = {"images"};
  CHECK(expand(o, with_tower).cases.size() == 1);
  o.vision = {};
  CHECK_THROWS_AS(expand(o, with_tower), InputError);
  o.mesh = {"tp4"};
  CHECK_THROWS_WITH(expand(o, with_tower),
                    "tp4: vision=tensor needs tp to divide vision_config.num_heads=6; vision=images works");
}

TEST_CASE("unknown words in options are errors that list what is known") {
  CaseOptions o;
  o.loss = {"token_mean+2*mean"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
  o = {};
  o.sp = {"maybe"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
  o = {}, o.check = {"logit"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
  o = {}, o.mesh = {"world<=x"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
  o = {}, o.dtype = {"float8"};
  CHECK_THROWS_AS(expand(o, config_of), InputError);
}

}  // namespace meshparity::run
