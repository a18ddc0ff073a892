// Random cases: every draw is valid and repeatable, and the first 500 meet every flag value, axis and world
// size.
#include "harness/run/random_cases.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "harness/run/cover.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::run::random_cases_test {

// What mesh.h's refusal reads of a shape; harness/run never sees the loader.
ModelConfig config_of(const std::string& model, const std::string&) {
  const ModelShape s = ModelShape::parse(model);
  ModelConfig c;
  c.hidden_size = s.hidden, c.vocab_size = s.vocab,
  c.num_hidden_layers = static_cast<std::int64_t>(s.layers.size());
  c.num_attention_heads = s.heads, c.num_key_value_heads = s.kv_heads;
  c.linear_num_key_heads = s.gdn_key_heads, c.linear_num_value_heads = s.gdn_value_heads;
  c.num_experts = s.experts;
  c.mtp_num_hidden_layers = s.mtp;
  c.vision.depth = s.vision_depth, c.vision.num_heads = s.vision_heads;
  return c;
}

const std::vector<CaseSpec>& first_cases() {
  static const std::vector<CaseSpec> cases = [] {
    std::vector<CaseSpec> list;
    for (std::uint64_t i = 0; i < 500; ++i) list.push_back(random_case({}, 1, i, config_of));
    return list;
  }();
  return cases;
}

TEST_CASE("every random case is valid and says what it is") {
  for (const auto& spec : first_cases()) {
    INFO(spec.line());
    REQUIRE(refusal(spec.mesh, spec.flags, config_of(spec.model, "")).empty());
    REQUIRE(canonical_flags(spec.mesh, spec.flags, nullptr) == spec.flags);
    REQUIRE(ModelShape::parse(spec.model).text() == spec.model);
    REQUIRE(BatchShape::parse(spec.batch).text() == spec.batch);
    REQUIRE((spec.mesh.world() <= 8 && spec.steps >= 0 && spec.steps <= 3 && spec.seed > 0));
  }
}

TEST_CASE("the first 500 random cases meet every value that this version takes") {
  std::map<std::string, int> seen;
  for (const auto& spec : first_cases()) {
    for (const auto& [factor, value] : factors_of(spec))
      if (factor != "model" && factor != "batch") ++seen[factor + "=" + value];
    ++seen["world=" + std::to_string(spec.mesh.world())], ++seen["cp=" + std::to_string(spec.mesh.cp())];
    ++seen["steps=" + std::to_string(spec.steps)];
    for (const auto& term : parse_loss(spec.loss).terms) ++seen["loss=" + term.name];
  }
  for (int size = 2; size <= 8; ++size)
    for (const char* axis : {"world", "cp", "dp", "fsdp", "ring", "uly", "tp"}) {
      const std::string value = axis + ("=" + std::to_string(size));
      INFO(value << " occurs " << seen[value] << " times");
      CHECK(seen[value] >= 1);
      if (axis == std::string("world") || axis == std::string("cp")) CHECK(seen[value] >= 5);
    }
  for (const char* value : {

           "pp=2",
           "ep=2",
           "etp=1",
           "schedule=gpipe",
           "schedule=interleaved",
           "recompute=on",
           "sp=on",
           "sp=off",
           "gdn=state",
           "gdn=heads",
           "gdn=gather",
           "gdn=hybrid",
           "attn=ring",
           "attn=gather",
           "layout=contiguous",
           "layout=zigzag",
           "layout=zigzag-document",
           "pad=none",
           "pad=left",
           "pad=right",
           "pad=document",
           "loss-form=sharded",
           "loss-form=replicated",
           "steps=0",
           "steps=1",
           "steps=2",
           "steps=3",
           "loss=token_mean",
           "loss=sum",
           "loss=sequence_mean",
           "loss=micro_batch_mean",
           "loss=num_tokens",
           "loss=policy_gradient",
           "loss=lm_z",
           "loss=router_z",
           "loss=aux",
           "loss=mtp",
           "vision=tensor",
           "vision=images"}) {
    INFO(value << " occurs " << seen[value] << " times");
    CHECK(seen[value] >= 5);
  }
}

TEST_CASE("the first 500 random cases meet the shapes that are odd") {
  std::map<std::string, int> seen;
  for (const auto& spec : first_cases()) {
    const ModelShape s = ModelShape::parse(spec.model);
    const BatchShape b = BatchShape::parse(spec.batch);
    ++seen["layers " + std::to_string(s.layers.size())], ++seen[s.is_moe() ? "experts" : "dense"];
    ++seen[s.tied ? "tied" : "untied"],
        ++seen["ratio " + std::to_string(s.gdn_value_heads / s.gdn_key_heads)];
    ++seen["conv " + std::to_string(s.conv)], seen["one kv head"] += s.kv_heads == 1 && s.heads > 1;
    seen["half rotary"] += s.rope < s.head_dim, seen["odd width"] += s.hidden % 2;
    seen["all attention"] += s.layers.find('g') == std::string::npos;
    seen["no attention"] += s.layers.find('a') == std::string::npos;
    ++seen["micro-batches " + std::to_string(b.micro_batches.size())];
    seen["masked"] += b.mask > 0;
    seen["multi-token prediction"] += s.mtp;
    std::int64_t images = 0, videos = 0, nothing_else = 0;
    for (const auto& rows : b.micro_batches)
      for (const auto& row : rows)
        for (const auto& d : row) {
          for (const auto& image : d.images) ++(image.video ? videos : images);
          nothing_else += !d.images.empty() && d.image_tokens() == d.tokens;
        }
    seen["images"] += images > 0, seen["videos"] += videos > 0;
    seen["tower without an image"] += s.has_vision() && images + videos == 0;
    seen["document of an image alone"] += nothing_else > 0;
    for (const auto& rows : b.micro_batches) {
      bool silent = true, one = false;
      for (const auto& row : rows)
        for (const auto& d : row) silent &= d.unlabelled, one |= d.tokens == 1;
      seen["silent micro-batch"] += silent, seen["document of one token"] += one;
    }
  }
  for (const char* what : {"layers 1",
                           "layers 2",
                           "layers 3",
                           "layers 4",
                           "layers 5",
                           "layers 6",
                           "experts",
                           "dense",
                           "tied",
                           "untied",
                           "ratio 1",
                           "ratio 2",
                           "ratio 3",
                           "conv 1",
                           "conv 2",
                           "conv 3",
                           "conv 4",
                           "conv 5",
                           "one kv head",
                           "half rotary",
                           "odd width",
                           "all attention",
                           "no attention",
                           "micro-batches 1",
                           "micro-batches 2",
                           "micro-batches 3",
                           "masked",
                           "silent micro-batch",
                           "document of one token",
                           "multi-token prediction",
                           "images",
                           "videos",
                           "tower without an image",
                           "document of an image alone"}) {
    INFO(what);
    CHECK(seen[what] >= 20);
  }
}

TEST_CASE("a random case depends on its seed and number alone") {
  for (std::uint64_t i : {0u, 7u, 499u}) CHECK(random_case({}, 1, i, config_of) == first_cases()[i]);
  CHECK(random_case({}, 2, 0, config_of).line() != first_cases()[0].line());
  std::set<std::string> lines;
  for (const auto& spec : first_cases()) CHECK(lines.insert(spec.line()).second);
}

TEST_CASE("what the options say restricts the draw") {
  CaseOptions o;
  o.mesh = {"ring2.tp2", "uly3"}, o.gdn = {"heads", "gather"}, o.fault = "some-fault", o.check = {"grads"};
  o.steps = 0, o.dtype = {"float32"};
  std::set<std::string> meshes, gdn;
  for (std::uint64_t i = 0; i < 40; ++i) {
    const CaseSpec spec = random_case(o, 1, i, config_of);
    meshes.insert(spec.mesh.text()), gdn.insert(spec.flags.gdn);
    CHECK((spec.fault == "some-fault" && spec.steps == 0 && spec.dtype == DType::float32));
    CHECK(spec.checks == std::vector<std::string>{"grads"});
  }
  CHECK(meshes == std::set<std::string>{"ring2.tp2", "uly3"});
  CHECK(gdn == std::set<std::string>{"heads", "gather"});
  o = {}, o.model = {"shape:"}, o.axes = {"tp"};
  for (std::uint64_t i = 0; i < 10; ++i) {
    const CaseSpec spec = random_case(o, 1, i, config_of);
    CHECK(spec.model == "shape:");
    CHECK((spec.mesh.text() == "dp1" || spec.mesh.text() == "tp2"));
  }
}

TEST_CASE("options that no draw can meet are refused with a reason") {
  const auto refused = [](const CaseOptions& o) {
    try {
      return random_case(o, 1, 0, config_of).line();
    } catch (const InputError& error) {
      return std::string(error.what());
    }
  };
  CaseOptions o;
  o.mesh = {"xp2"};
  CHECK(refused(o).find("unknown axis 'xp'") != std::string::npos);
  o = {}, o.gdn = {"head"};
  CHECK(refused(o).find("--gdn 'head' is unknown") != std::string::npos);
  o = {}, o.loss = {"median"};
  CHECK(refused(o).find("--loss 'median': term 'median' is unknown") != std::string::npos);
  o = {}, o.mesh = {"dp2"}, o.sp = {"on"};
  CHECK(refused(o).find("no mesh takes these flags") != std::string::npos);
  o = {}, o.golden = {"a.h5"};
  CHECK(refused(o).find("--random draws its batches") != std::string::npos);
}

}  // namespace meshparity::run::random_cases_test
