// Shrinking finds the smallest case that still fails, for predicates whose smallest case is known, and keeps
// to its limits.
#include "harness/run/shrink.h"

#include <catch2/catch.hpp>
#include <set>

#include "harness/run/random_cases.h"
#include "harness/types/error.h"

namespace meshparity::run::shrink_test {

ModelConfig config_of(const std::string& model, const std::string&) {
  ModelConfig c;
  c.num_hidden_layers = 5;
  c.num_attention_heads = 8, c.num_key_value_heads = 2, c.linear_num_key_heads = 4,
  c.linear_num_value_heads = 12;
  if (!is_shape(model)) return c;
  const ModelShape s = ModelShape::parse(model);
  c.num_hidden_layers = static_cast<std::int64_t>(s.layers.size());
  c.num_attention_heads = s.heads, c.num_key_value_heads = s.kv_heads;
  c.linear_num_key_heads = s.gdn_key_heads, c.linear_num_value_heads = s.gdn_value_heads;
  c.num_experts = s.experts;
  c.mtp_num_hidden_layers = s.mtp;
  c.vision.depth = s.vision_depth, c.vision.num_heads = s.vision_heads;
  return c;
}

CaseSpec big_case() {
  CaseSpec spec;
  spec.model =
      "shape:layers=gagaga:hidden=17:heads=8/2:head_dim=8:rope=4:gdn=4/12:key=5:value=6:conv=3:vocab=31:"
      "experts=9/3/5:shared=7:tied=1";
  spec.batch = "tokens:3+1u+17/5//2+2/9//4:mask=25:seed=8";
  spec.mesh = Mesh::parse("fsdp2.ring2.tp2");
  spec.flags.gdn = "heads", spec.flags.layout = "zigzag", spec.flags.sp = true, spec.flags.pad = "left";
  spec.loss = "sum", spec.steps = 3, spec.seed = 12;
  return spec;
}

Shrunk shrunk_while(const CaseSpec& spec, const std::function<bool(const CaseSpec&)>& fails,
                    const ShrinkLimits& limits = {}) {
  return shrink(
      spec, config_of,
      [&](const std::vector<CaseSpec>& cases) {
        std::vector<bool> answers;
        for (const auto& one : cases) answers.push_back(fails(one));
        return answers;
      },
      limits);
}

TEST_CASE("what always fails shrinks to the smallest case there is") {
  const Shrunk smallest = shrunk_while(big_case(), [](const CaseSpec&) { return true; });
  INFO(smallest.trials);
  CHECK(smallest.minimal);
  INFO(smallest.spec.line());
  CHECK((smallest.spec.line() == "--model shape:layers=g --batch tokens:1 --mesh dp1 --steps 0" ||
         smallest.spec.line() == "--model shape:layers=a --batch tokens:1 --mesh dp1 --steps 0"));
}

TEST_CASE("the two conditions that fail together are what is left") {
  const Shrunk smallest = shrunk_while(big_case(), [](const CaseSpec& spec) {
    const BatchShape batch = BatchShape::parse(spec.batch);
    bool long_document = false;
    for (const auto& rows : batch.micro_batches)
      for (const auto& row : rows)
        for (const auto& document : row) long_document |= document.tokens >= 5;
    return spec.mesh.ring == 2 && long_document;
  });
  CHECK(smallest.minimal);
  INFO(smallest.spec.line());
  CHECK((smallest.spec.line() == "--model shape:layers=g --batch tokens:5 --mesh ring2 --steps 0" ||
         smallest.spec.line() == "--model shape:layers=a --batch tokens:5 --mesh ring2 --steps 0"));
}

TEST_CASE("flags, steps and sizes that matter stay, all others go") {
  const Shrunk smallest = shrunk_while(big_case(), [](const CaseSpec& spec) {
    const ModelShape model = ModelShape::parse(spec.model);
    return spec.flags.sp && spec.steps >= 2 && model.gdn_value_heads > model.gdn_key_heads &&
           model.is_moe() && model.layers.find("ag") != std::string::npos;
  });
  CHECK(smallest.minimal);
  const ModelShape model = ModelShape::parse(smallest.spec.model);
  CHECK(smallest.spec.mesh.text() == "tp2");
  CHECK((smallest.spec.flags.sp && smallest.spec.steps == 2 && smallest.spec.batch == "tokens:1"));
  INFO(smallest.spec.line());
  CHECK(model.layers == "ag");
  CHECK((model.gdn_key_heads == 2 && model.gdn_value_heads == 4 && model.heads == 2 && model.kv_heads == 1));
  CHECK((model.experts == 1 && model.top_k == 1 && model.expert_width == 1 && !model.tied &&
         model.hidden == 4));
}

TEST_CASE("a tower, its images and multi-token prediction go unless they matter") {
  CaseSpec spec = big_case();
  spec.model += ":mtp=1:vision=2/6/8/5:grid=3";
  spec.batch = "tokens:3+1u+23i4x2v2x2x4/5//12i6x4+9/9//4:mask=25:seed=8";
  spec.loss = "sum+0.1*mtp", spec.flags.vision = "images";
  const Shrunk text = shrunk_while(spec, [](const CaseSpec& s) { return s.mesh.ring == 2; });
  INFO(text.spec.line());
  CHECK(text.minimal);
  CHECK((text.spec.line() == "--model shape:layers=g --batch tokens:1 --mesh ring2 --steps 0" ||
         text.spec.line() == "--model shape:layers=a --batch tokens:1 --mesh ring2 --steps 0"));
  const Shrunk image = shrunk_while(spec, [](const CaseSpec& s) {
    if (!ModelShape::parse(s.model).has_vision()) return false;
    for (const auto& rows : BatchShape::parse(s.batch).micro_batches)
      for (const auto& row : rows)
        for (const auto& document : row)
          for (const auto& one : document.images)
            if (one.video) return true;
    return false;
  });
  INFO(image.spec.line());
  CHECK(image.minimal);
  const ModelShape model = ModelShape::parse(image.spec.model);
  CHECK((model.vision_depth == 1 && model.vision_heads == 1 && model.vision_head_dim == 4 && !model.mtp));
  CHECK(image.spec.batch == "tokens:7v2x2x2");
  const Shrunk predicted =
      shrunk_while(spec, [](const CaseSpec& s) { return ModelShape::parse(s.model).mtp; });
  INFO(predicted.spec.line());
  CHECK((ModelShape::parse(predicted.spec.model).mtp && predicted.spec.batch == "tokens:1"));
}

TEST_CASE("a named model and batch stay, their mesh and flags shrink") {
  CaseSpec spec;
  spec.mesh = Mesh::parse("dp2.ring2.tp2"), spec.flags.layout = "zigzag";
  const Shrunk smallest = shrunk_while(spec, [](const CaseSpec& s) { return s.mesh.tp > 1; });
  CHECK(smallest.spec.line() == "--model tiny-dense --batch rows --mesh tp2");
}

TEST_CASE("every smaller case is valid, smaller and different from the others") {
  for (std::uint64_t i = 0; i < 50; ++i) {
    const CaseSpec spec = random_case({}, 5, i, config_of);
    std::set<std::string> lines;
    for (const auto& smaller : smaller_cases(spec, config_of)) {
      INFO(spec.line() << "\n" << smaller.line());
      REQUIRE(size_of(smaller) < size_of(spec));
      REQUIRE(refusal(smaller.mesh, smaller.flags, config_of(smaller.model, "")).empty());
      REQUIRE(canonical_flags(smaller.mesh, smaller.flags, nullptr) == smaller.flags);
      REQUIRE(lines.insert(smaller.line()).second);
    }
    REQUIRE(lines.size() > 5);
  }
}

TEST_CASE("the search keeps to its limits and says so") {
  ShrinkLimits limits;
  limits.trials = 30, limits.together = 10;
  const Shrunk stopped = shrunk_while(
      big_case(), [](const CaseSpec& spec) { return spec.mesh.ring == 2; }, limits);
  CHECK(!stopped.minimal);
  CHECK(stopped.trials >= 30);
  CHECK(stopped.trials < 60);
  CHECK(stopped.spec.mesh.ring == 2);
  limits = {}, limits.seconds = 0;
  const Shrunk none = shrunk_while(
      big_case(), [](const CaseSpec&) { return true; }, limits);
  CHECK((none.spec == big_case() && none.trials == 0 && !none.minimal));
  const Shrunk alone = shrunk_while(big_case(), [](const CaseSpec&) { return false; });
  CHECK((alone.spec == big_case() && alone.minimal));
}

}  // namespace meshparity::run::shrink_test
