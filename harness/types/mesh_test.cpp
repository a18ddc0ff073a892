// Mesh text, rank order and validity: the vocabulary must round-trip and refuse clearly.
#include "harness/types/mesh.h"

#include <catch2/catch.hpp>

#include "harness/types/batch.h"
#include "harness/types/case.h"
#include "harness/types/error.h"
#include "harness/types/glob.h"

namespace meshparity {
namespace {

ModelConfig tiny_dense() {
  ModelConfig c;
  c.num_hidden_layers = 5, c.num_attention_heads = 8, c.num_key_value_heads = 2;
  c.linear_num_key_heads = 4, c.linear_num_value_heads = 12;
  return c;
}
ModelConfig tiny_moe() {
  ModelConfig c = tiny_dense();
  c.num_attention_heads = 6, c.num_key_value_heads = 1, c.linear_num_key_heads = 6, c.num_experts = 12;
  return c;
}

}  // namespace

TEST_CASE("a mesh reads its axes in any order and prints them in one") {
  CHECK(Mesh::parse("tp2.fsdp3").text() == "fsdp3.tp2");
  CHECK(Mesh::parse("dp1").text() == "dp1");
  CHECK(Mesh::parse("tp1").text() == "dp1");
  CHECK(Mesh::parse("ep4.pp2.uly2.ring2.tp2.fsdp2").text() == "pp2.fsdp2.ring2.uly2.tp2.ep4");
  CHECK(Mesh::parse("tp2.etp2").text() == "tp2");
  CHECK(Mesh::parse("tp2.etp1").text() == "tp2.etp1");
  CHECK(Mesh::parse("tp2.ep2.etp2").text() == "tp2.ep2.etp2");
}

TEST_CASE("a mesh that cannot be read says which axis is wrong") {
  for (const char* bad :
       {"", "xp2", "tp", "tp0", "tp-1", "tp2.tp2", "tp2.", "tp2x", ".tp2", "2", "tp99999999999"})
    CHECK_THROWS_AS(Mesh::parse(bad), InputError);
}

TEST_CASE("rank order is pp, dp, fsdp, ring, uly, tp with tp fastest") {
  const Mesh mesh = Mesh::parse("pp2.dp3.fsdp2.ring2.uly2.tp2");
  for (int rank = 0; rank < mesh.world(); ++rank) CHECK(rank_of(mesh, coordinate_of(mesh, rank)) == rank);
  CHECK(coordinate_of(mesh, 1).tp == 1);
  CHECK(coordinate_of(mesh, 2).uly == 1);
  CHECK(coordinate_of(mesh, 8).fsdp == 1);
  CHECK(data_rank(mesh, 8) == 1);
}

TEST_CASE("world <= 8 has 155 valid meshes for the two tiny models, 63 of them without a context axis") {
  int valid = 0, without = 0, experts = 0, stages = 0;
  for (int world = 1; world <= 8; ++world)
    for (const auto& mesh : enumerate_meshes(world)) {
      const int models = refusal(mesh, {}, tiny_dense()).empty() + refusal(mesh, {}, tiny_moe()).empty();
      if (mesh.pp > 1) stages += models;
      if (mesh.pp == 1 && (mesh.ep > 1 || mesh.etp)) experts += models;
      if (mesh.pp > 1 || mesh.ep > 1 || mesh.etp) continue;
      valid += models;
      if (mesh.cp() == 1) without += models;
    }
  CHECK(valid == 155);
  CHECK(without == 63);
  CHECK(experts == 156);
  CHECK(valid + experts + stages == 427);
}

TEST_CASE("experts re-read the ranks of a stage and a dp replica as edp x ep x etp, etp fastest") {
  const Mesh mesh = Mesh::parse("pp2.dp2.fsdp2.ring2.uly2.tp2.ep4.etp2");
  CHECK(mesh.edp() == 2);
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const ExpertCoordinate e = expert_coordinate_of(mesh, coordinate_of(mesh, rank));
    CHECK((e.edp * 4 + e.ep) * 2 + e.etp == rank % 16);
  }
  CHECK(Mesh::parse("tp2.ep2").expert_tokens_cut());
  CHECK(Mesh::parse("tp2.etp1").expert_tokens_cut());
  CHECK_FALSE(Mesh::parse("fsdp2.tp2.ep2.etp2").expert_tokens_cut());
}

TEST_CASE("stages that cannot be are refused by name") {
  CHECK(refusal(Mesh::parse("pp6"), {}, tiny_dense()) == "pp6: pp must not exceed num_hidden_layers=5");
  Flags flags;
  flags.schedule = "interleaved";
  CHECK(refusal(Mesh::parse("pp3"), flags, tiny_dense()) ==
        "pp3: schedule=interleaved needs 2*pp not to exceed num_hidden_layers=5");
  CHECK(refusal(Mesh::parse("pp2"), flags, tiny_dense()).empty());
}

TEST_CASE("expert axes that cannot be are refused by name") {
  const auto why = [](const char* mesh) { return refusal(Mesh::parse(mesh), {}, tiny_moe()); };
  CHECK(why("fsdp2.ep4") == "fsdp2.ep4: ep*etp must divide fsdp*ring*uly*tp");
  CHECK(why("fsdp8.ep8") == "fsdp8.ep8: ep must divide num_experts=12");
  CHECK(why("tp6.etp3") == "tp6.etp3: etp must be 1 or tp");
  CHECK(why("dp2.ep2") == "dp2.ep2: ep*etp must divide fsdp*ring*uly*tp");
  CHECK(refusal(Mesh::parse("fsdp2.ep2"), {}, tiny_dense()) ==
        "fsdp2.ep2: ep and etp need a mixture-of-experts model");
}

TEST_CASE("a refusal names the mesh and the field") {
  CHECK(refusal(Mesh::parse("tp8"), {}, tiny_dense()) == "tp8: tp must divide linear_num_key_heads=4");
  CHECK(refusal(Mesh::parse("tp4"), {}, tiny_dense()).empty());
}

TEST_CASE("tp that splits the query heads of a key-value head is refused") {
  ModelConfig c = tiny_moe();
  c.num_attention_heads = 12, c.num_key_value_heads = 2;
  CHECK(refusal(Mesh::parse("uly2.tp3"), {}, c) ==
        "uly2.tp3: tp must divide num_key_value_heads=2 or be a multiple of it");
  CHECK(refusal(Mesh::parse("uly3.tp2"), {}, c).empty());
  CHECK(refusal(Mesh::parse("tp6"), {}, c).empty());
  c.num_key_value_heads = 6;
  CHECK(refusal(Mesh::parse("uly2.tp3"), {}, c).empty());
  c.num_key_value_heads = 4;
  for (const char* mesh : {"uly4.tp3", "uly2.tp6"})
    CHECK(refusal(Mesh::parse(mesh), {}, c).find("tp must divide num_key_value_heads=4") !=
          std::string::npos);
}

TEST_CASE("cut loses no element for any length and width") {
  for (std::int64_t n : {0, 1, 2, 5, 7, 64})
    for (std::int64_t w : {1, 2, 3, 5, 8}) {
      std::int64_t end = 0;
      for (std::int64_t i = 0; i < w; ++i) {
        CHECK(cut(n, w, i).begin == end);
        end = cut(n, w, i).end;
      }
      CHECK(end == n);
    }
}

TEST_CASE("a glob matches tensor names") {
  CHECK(glob_match("*", "a.b"));
  CHECK(glob_match("model.layers.*.norm.weight", "model.layers.3.linear_attn.norm.weight"));
  CHECK(!glob_match("*.bias", "a.weight"));
  CHECK(glob_match("layers.?.x", "layers.3.x"));
}

TEST_CASE("a case line leaves defaults out and quotes what a shell would expand") {
  CaseSpec spec;
  spec.mesh = Mesh::parse("tp2");
  spec.flags.sp = true;
  spec.tensor = "*norm*";
  CHECK(spec.line() == "--model tiny-dense --batch rows --mesh tp2 --sp on --tensor '*norm*'");
  spec.apart = true;
  CHECK(spec.line() == "--model tiny-dense --batch rows --mesh tp2 --sp on --tensor '*norm*' --apart");
  spec.apart = false, spec.tensor = "*", spec.rollout_mesh = Mesh::parse("pp2.tp2");
  CHECK(spec.line() == "--model tiny-dense --batch rows --mesh tp2 --sp on --rollout-mesh pp2.tp2");
  spec.rollout = RolloutSpec::parse("chunk=3:temperature=0.7");
  CHECK(spec.line() ==
        "--model tiny-dense --batch rows --mesh tp2 --sp on --rollout-mesh pp2.tp2 --rollout "
        "chunk=3:temperature=0.7");
}

}  // namespace meshparity
