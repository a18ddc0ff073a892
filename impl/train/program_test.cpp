// The rank program on meshes against itself on one rank: a mesh changes nothing but the order of sums. What
// the loss is made of: losses_test.cpp; the seams: seams_test.cpp.
#include "impl/train/program.h"

#include "harness/types/error.h"
#include "impl/blocks/context_tables.h"
#include "impl/train/program_fixture.h"

namespace meshparity::impl {

using namespace program_testing;

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
    for (auto& step : edit.tables.ring.steps)
      for (auto& block : step.blocks) block.bias = at::Tensor();
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

TEST_CASE("tied embeddings are one parameter with both gradients on every mesh") {
  Run run;
  run.config.tie_word_embeddings = true;
  for (const char* mesh : {"tp2", "fsdp2.tp2", "dp2.fsdp2"}) check_same(run, mesh, false);
  check_same(run, "tp2", true);
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
