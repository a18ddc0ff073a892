// Layouts: hand-checked index lists, and that cutting and putting together loses nothing, hides nothing and
// invents nothing.
#include "harness/layout/layout.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <limits>

#include "harness/layout/layout_fixture.h"
#include "harness/layout/runs.h"
#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

using fixture::parts_of;
using Indices = std::vector<std::int64_t>;

std::vector<std::string> all_keys() {
  std::vector<std::string> keys = {"logits",
                                   "logprobs",
                                   "loss/token_mean",
                                   "grad_norm",
                                   "denominators/token_mean",
                                   "denominators/sequence_mean",
                                   "denominators/micro_batch_mean",
                                   "activations/embed",
                                   "activations/layers.1.mixer",
                                   "activations/layers.0.ffn",
                                   "activations/norm",
                                   "rollout/logits",
                                   "rollout/logprobs",
                                   "rollout/sampling_logprobs",
                                   "rollout/in_support",
                                   "rollout/routes/layers.1"};
  for (const auto& p : parameters_of(fixture::model())) {
    keys.push_back("grads/" + p.name);
    keys.push_back("weights/" + p.name);
    keys.push_back("step12/weights/" + p.name);
    keys.push_back("rollout/weights/" + p.name);
  }
  return keys;
}

std::vector<Mesh> small_meshes() {
  std::vector<Mesh> meshes;
  for (int world = 1; world <= 8; ++world)
    for (const auto& mesh : enumerate_meshes(world))
      if (refusal(mesh, {}, fixture::model()).empty()) meshes.push_back(mesh);
  return meshes;
}

}  // namespace

TEST_CASE("q, k and v rows of a fused projection are cut section by section") {
  const auto map = fixture::map("tp2");
  const std::string key = "grads/model.layers.0.linear_attn.in_proj_qkv.weight";  // 8 + 8 + 8 rows
  CHECK(map.local(key, 0).indices[0] == Indices{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19});
  CHECK(map.local(key, 1).indices[0] == Indices{4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23});
  CHECK(map.local("grads/model.layers.0.linear_attn.conv1d.weight", 1).local_shape() == Shape{12, 1, 4});
}

TEST_CASE(
    "a stage holds its layers, the first the embedding, the last norm, head, logits and a tied embedding") {
  ModelConfig config = fixture::model();
  config.num_hidden_layers = 4, config.full_attention = {false, true, false, true};
  const auto holders = [&](const char* schedule, const std::string& key, bool tied) {
    config.tie_word_embeddings = tied;
    Flags flags;
    flags.schedule = schedule;
    const LayoutMap map(config, Mesh::parse("pp2"), flags, fixture::batch(), fixture::placements(config));
    std::string ranks;
    for (int rank = 0; rank < 2; ++rank)
      if (shape_numel(map.local(key, rank).local_shape()) > 0) ranks += std::to_string(rank);
    return ranks;
  };
  CHECK(holders("1f1b", "weights/model.embed_tokens.weight", false) == "0");
  CHECK(holders("1f1b", "grads/model.embed_tokens.weight", true) == "01");
  CHECK(holders("1f1b", "step2/weights/model.norm.weight", false) == "1");
  CHECK(holders("1f1b", "grads/lm_head.weight", false) == "1");
  CHECK(holders("1f1b", "logits", false) == "1");
  CHECK(holders("1f1b", "activations/embed", true) == "0");
  CHECK(holders("1f1b", "activations/norm", false) == "1");
  CHECK(holders("1f1b", "loss/token_mean", false) == "01");
  std::string plain, interleaved;
  for (int layer = 0; layer < 4; ++layer) {
    const std::string key = "trace/step2/activations/layers." + std::to_string(layer) + ".mixer";
    plain += holders("gpipe", key, false), interleaved += holders("interleaved", key, false);
  }
  CHECK(plain == "0011");
  CHECK(interleaved == "0101");
}

TEST_CASE(
    "what a rollout emits lies where training's tensors of the same kind do, routes on their layer's stage") {
  const auto map = fixture::map("pp2.tp2");
  const auto held = [&](const std::string& key, int rank) { return map.local(key, rank).local_shape(); };
  const std::int64_t n = fixture::batch().tokens();
  CHECK(held("rollout/logits", 1) == Shape{0, 7});
  CHECK(held("rollout/logits", 3) == Shape{n, 7});
  CHECK(held("rollout/in_support", 0) == Shape{0});
  CHECK(held("rollout/sampling_logprobs", 2) == Shape{n});
  CHECK(held("rollout/routes/layers.0", 1) == Shape{n, 2});
  CHECK(held("rollout/routes/layers.0", 2) == Shape{0, 2});
  CHECK(held("rollout/routes/layers.1", 2) == Shape{n, 2});
  CHECK(held("rollout/weights/lm_head.weight", 3) == Shape{7, 6});
  for (const char* key : {"rollout/routes/layers.2", "rollout/routes/norm", "rollout/grads/lm_head.weight"})
    CHECK_THROWS_AS(map.local(key, 0), InputError);
}

TEST_CASE("whole experts go over ep, their width over etp, what remains over edp where anything is sharded") {
  ModelConfig config = fixture::model();
  config.num_experts = 6;
  const auto held = [&](const char* mesh, int rank) {
    const LayoutMap map(config, Mesh::parse(mesh), {}, fixture::batch(), fixture::placements(config));
    return map.local("weights/model.layers.0.mlp.experts.gate_up_proj", rank).indices;
  };
  CHECK(held("fsdp2.ep2", 1)[0] == Indices{3, 4, 5});
  CHECK(held("ring2.tp2.ep2", 2)[0] == Indices{0, 1, 2});  // inner rank 2: edp 1, ep 0
  CHECK(held("ring2.tp2.ep2.etp2", 2)[0] == Indices{3, 4, 5});
  CHECK(held("ring2.tp2.ep2.etp2", 3)[1] == Indices{3, 4, 5, 6, 10, 11, 12, 13});
  CHECK(held("fsdp4.ep2", 2)[0] == Indices{1, 2});  // ep 0 holds 0, 1, 2; edp 1 the rest of them
  CHECK(held("tp2.etp1", 1)[1].size() == 14);
}

TEST_CASE("fsdp cuts rows of what tp left, at floor") {
  const auto map = fixture::map("fsdp3.tp2");
  const std::string key =
      "weights/model.layers.0.linear_attn.A_log";  // 8 heads: 4 per tp rank, cut in 1, 1, 2
  CHECK(map.local(key, 0).indices[0] == Indices{0});
  CHECK(map.local(key, 1).indices[0] == Indices{4});
  CHECK(map.local(key, 2).indices[0] == Indices{1});
  CHECK(map.local(key, 5).indices[0] == Indices{6, 7});
}

TEST_CASE("a rank may hold no row of a parameter") {
  const auto map = fixture::map("fsdp2");
  const std::string key = "weights/model.layers.0.mlp.shared_expert_gate.weight";  // [1, 6]
  CHECK(map.local(key, 0).local_shape() == Shape{0, 6});
  CHECK(map.local(key, 1).local_shape() == Shape{1, 6});
}

TEST_CASE("key-value heads are replicated where tp exceeds them") {
  const auto map = fixture::map("tp4");
  const std::string key = "grads/model.layers.1.self_attn.k_proj.weight";  // 2 heads of 3 rows
  CHECK(map.local(key, 0).indices[0] == Indices{0, 1, 2});
  CHECK(map.local(key, 1).indices[0] == Indices{0, 1, 2});
  CHECK(map.local(key, 2).indices[0] == Indices{3, 4, 5});
  CHECK(map.local(key, 3).indices[0] == Indices{3, 4, 5});
  const HostTensor global = fixture::counting({6, 6});
  const auto gathered = unshard(map, key, parts_of(map, key, global.view()).views);
  CHECK(gathered.replica_elements == 36);
  CHECK(gathered.replica_differ == 0);
}

TEST_CASE("gate and up halves of fused experts are cut separately") {
  const auto map = fixture::map("fsdp2.tp2");
  const auto index = map.local("grads/model.layers.0.mlp.experts.gate_up_proj", 3);  // [5, 14, 6]
  CHECK(index.indices[0] == Indices{2, 3, 4});
  CHECK(index.indices[1] == Indices{3, 4, 5, 6, 10, 11, 12, 13});
  CHECK(index.indices[2] == Indices{0, 1, 2, 3, 4, 5});
  CHECK(map.local("grads/model.layers.0.mlp.experts.down_proj", 0).local_shape() == Shape{2, 6, 3});
}

TEST_CASE("row i of a micro-batch goes to data rank i mod (dp*fsdp)") {
  const auto map = fixture::map("dp2.tp2");
  // Micro-batches of rows {0..4 | 5}, {6..9}, {10..15 | 16..19}.
  CHECK(map.tokens(0, false) == Indices{0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  CHECK(map.tokens(1, false) == map.tokens(0, false));
  CHECK(map.tokens(2, false) == Indices{5, 16, 17, 18, 19});
  const auto three = fixture::map("dp3");
  CHECK(three.tokens(2, false).empty());
  CHECK(three.local("logits", 2).local_shape() == Shape{0, 13});
}

TEST_CASE("with sp every micro-batch's stream is cut over tp, the head's tokens are not") {
  const auto map = fixture::map("dp2.tp2", true);
  // The data rank's streams have 5, 4 and 6 tokens: cuts at 2, 2 and 3.
  CHECK(map.tokens(0, true) == Indices{0, 1, 6, 7, 10, 11, 12});
  CHECK(map.tokens(1, true) == Indices{2, 3, 4, 8, 9, 13, 14, 15});
  CHECK(map.tokens(2, true) == Indices{16, 17});
  CHECK(map.tokens(3, true) == Indices{5, 18, 19});
  CHECK(map.local("activations/norm", 1).local_shape() == Shape{8, 6});
  CHECK(map.local("logits", 1).local_shape() == Shape{15, 7});
  const auto plain = fixture::map("dp2.tp2");
  CHECK(plain.tokens(1, true) == plain.tokens(1, false));
}

TEST_CASE("runs follow one another as the local tensor does") {
  LocalIndex index{{3, 4, 2}, {{2, 0}, {1, 2}, {0, 1}}};
  const auto runs = runs_of(index);
  REQUIRE(runs.size() == 2);
  CHECK(runs[0].offset == 18);
  CHECK(runs[1].offset == 2);
  CHECK(runs[0].length == 4);
  const HostTensor local = shard(index, fixture::counting({3, 4, 2}).view());
  CHECK(std::vector<double>(local.as<double>(), local.as<double>() + 8) ==
        std::vector<double>{19, 20, 21, 22, 3, 4, 5, 6});
}

TEST_CASE("every tensor of every mesh survives being cut and put together") {
  for (const auto& mesh : small_meshes())
    for (const bool sp : {false, true}) {
      if (sp && mesh.tp == 1) continue;
      const auto map = fixture::map(mesh.text(), sp);
      for (const auto& key : all_keys()) {
        INFO(mesh.text() << " " << key);
        HostTensor global = fixture::counting(map.local(key, 0).global_shape);
        // A NaN with a payload: bits must survive, not values.
        const std::uint64_t payload = 0x7FF800000000BEEFull;
        std::memcpy(global.bytes.data() + 8 * (global.numel() / 2), &payload, 8);
        const auto parts = parts_of(map, key, global.view());
        const auto gathered = unshard(map, key, parts.views);
        CHECK(gathered.invalid.empty());
        CHECK(gathered.uncovered == 0);
        CHECK(gathered.replica_differ == 0);
        CHECK(gathered.global.shape == global.shape);
        CHECK(gathered.global.bytes == global.bytes);
        // What ranks hold beyond one copy shows as replicas.
        std::int64_t held = 0;
        for (const auto& t : parts.tensors) held += t.numel();
        CHECK((held > global.numel()) == (gathered.replica_elements > 0));
      }
    }
}

TEST_CASE("replicas are compared bit by bit and the first difference is placed") {
  const auto map = fixture::map("dp2.fsdp2");
  const std::string key = "grads/model.layers.1.self_attn.q_norm.weight";  // [3]: fsdp cuts 1 and 2
  const HostTensor global = fixture::counting({3});
  auto parts = parts_of(map, key, global.view());
  SECTION("a last bit") {
    parts.tensors[3].as<double>()[1] = std::nextafter(3.0, 4.0);
    const auto gathered = unshard(map, key, parts.views);
    CHECK(gathered.replica_elements == 3);
    CHECK(gathered.replica_differ == 1);
    CHECK(gathered.replica_max_abs == Approx(4.4e-16).epsilon(0.1));
    CHECK(gathered.replica_where == "[2] rank 1 against rank 3");
    CHECK(gathered.global.as<double>()[2] == 3.0);
  }
  SECTION("the sign of zero") {
    parts.tensors[0].as<double>()[0] = 0.0;
    parts.tensors[2].as<double>()[0] = -0.0;
    CHECK(unshard(map, key, parts.views).replica_differ == 1);
  }
  SECTION("not a number with equal payload is equal, with another it is not") {
    const std::uint64_t a = 0x7FF8000000000001ull, b = 0x7FF8000000000002ull;
    std::memcpy(parts.tensors[0].bytes.data(), &a, 8);
    std::memcpy(parts.tensors[2].bytes.data(), &a, 8);
    CHECK(unshard(map, key, parts.views).replica_differ == 0);
    std::memcpy(parts.tensors[2].bytes.data(), &b, 8);
    const auto gathered = unshard(map, key, parts.views);
    CHECK(gathered.replica_differ == 1);
    CHECK(std::isinf(gathered.replica_max_abs));
  }
}

TEST_CASE("a local tensor that is wrong is named and stays out") {
  const auto map = fixture::map("fsdp2.tp2");
  const std::string key = "grads/lm_head.weight";  // [13, 6]
  const HostTensor global = fixture::counting({13, 6});
  auto parts = parts_of(map, key, global.view());
  SECTION("a rank missing") {
    parts.views.erase(parts.views.begin() + 1);
    const auto gathered = unshard(map, key, parts.views);
    REQUIRE(gathered.invalid.size() == 1);
    CHECK(gathered.invalid[0] == "grads/lm_head.weight: rank 1 emitted nothing, its part is [3,6]");
    CHECK(gathered.uncovered == 18);
    CHECK(std::isnan(gathered.global.as<double>()[6 * 6]));
  }
  SECTION("a wrong shape of the right size") {
    parts.tensors[2].shape = {6, 3};
    parts.views[2] = {2, parts.tensors[2].view()};
    const auto gathered = unshard(map, key, parts.views);
    REQUIRE(gathered.invalid.size() == 1);
    CHECK(gathered.invalid[0] == "grads/lm_head.weight: rank 2 emitted local shape [6,3], its part is [3,6]");
    CHECK(gathered.uncovered == 18);
  }
  SECTION("another dtype") {
    parts.tensors[3] = HostTensor::zeros(DType::float32, parts.tensors[3].shape);
    parts.views[3] = {3, parts.tensors[3].view()};
    const auto gathered = unshard(map, key, parts.views);
    REQUIRE(gathered.invalid.size() == 1);
    CHECK(gathered.invalid[0] == "grads/lm_head.weight: rank 3 emitted float32, a lower rank float64");
  }
  SECTION("a rank twice, and one that is not on the mesh") {
    parts.views.push_back(parts.views[0]);
    parts.views.push_back({4, parts.views[0].view});
    parts.views.push_back({-1, parts.views[0].view});
    CHECK(unshard(map, key, parts.views).invalid.size() == 3);
    CHECK(unshard(map, key, parts.views).uncovered == 0);
  }
  SECTION("nothing at all") {
    const auto gathered = unshard(map, key, {});
    CHECK(gathered.invalid.size() == 4);
    CHECK(gathered.uncovered == 13 * 6);
  }
}

TEST_CASE("a rank whose part is empty may stay silent") {
  const auto map = fixture::map("fsdp2");
  const std::string key = "weights/model.layers.0.mlp.shared_expert_gate.weight";
  const HostTensor global = fixture::counting({1, 6});
  auto parts = parts_of(map, key, global.view());
  parts.views.erase(parts.views.begin());
  const auto gathered = unshard(map, key, parts.views);
  CHECK(gathered.invalid.empty());
  CHECK(gathered.uncovered == 0);
}

TEST_CASE("elements nobody holds are marked in every dtype") {
  const auto map = fixture::map("dp1");
  for (const auto dtype : {DType::float32, DType::float16, DType::bfloat16, DType::int64, DType::int32}) {
    HostTensor wrong = HostTensor::zeros(dtype, {19});
    HostTensor right = HostTensor::zeros(dtype, {0, 6});
    const auto two = fixture::map("fsdp2");
    const auto gathered = unshard(two, "weights/model.layers.0.mlp.shared_expert_gate.weight",
                                  {{0, right.view()}, {1, wrong.view()}});
    CHECK(gathered.global.dtype == dtype);
    CHECK(gathered.uncovered == 6);
    const double value = gathered.global.view().at(0);
    CHECK((is_floating(dtype) ? std::isnan(value) : value == -1));
  }
}

TEST_CASE("a key or rank without a rule is refused") {
  const auto map = fixture::map("dp1");
  for (const char* key : {"", "logit", "grads/", "grads/model.nothing", "step0/weights/model.norm.weight",
                          "step/weights/model.norm.weight", "step1x/weights/model.norm.weight",
                          "step1/model.norm.weight", "activations/layers.2.ffn", "activations/layers.0.gate"})
    CHECK_THROWS_AS(map.local(key, 0), InputError);
  CHECK_THROWS_AS(map.local("logits", 1), InputError);
  auto table = fixture::placements(fixture::model());
  table[0].tp_blocks[0].count -= 1;
  CHECK_THROWS_WITH(
      LayoutMap(fixture::model(), Mesh{}, Flags{}, fixture::batch(), table),
      "placements.toml: model.embed_tokens.weight: tp_blocks cover 12 of 13 indices of dimension 0");
}

TEST_CASE("putting a case of 8 ranks together takes milliseconds", "[.speed]") {
  ModelConfig c = fixture::model();
  c.vocab_size = 61, c.hidden_size = 24, c.num_hidden_layers = 5, c.head_dim = 24, c.num_experts = 12;
  c.full_attention = {false, false, false, true, false};
  for (const char* text : {"dp8", "fsdp8", "dp2.fsdp2.tp2", "fsdp2.tp4"}) {
    const LayoutMap map(c, Mesh::parse(text), {}, fixture::batch(), fixture::placements(c));
    std::vector<std::pair<std::string, fixture::Parts>> emitted;
    for (const auto& p : parameters_of(c))
      for (const char* head : {"grads/", "step1/weights/", "step2/weights/", "step3/weights/"})
        emitted.emplace_back(head + p.name, parts_of(map, head + p.name, fixture::counting(p.shape).view()));
    const auto begin = std::chrono::steady_clock::now();
    std::int64_t elements = 0;
    for (const auto& [key, parts] : emitted) elements += unshard(map, key, parts.views).global.numel();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    WARN(text << ": " << emitted.size() << " tensors, " << elements << " elements: " << took.count()
              << " ms");
  }
}

}  // namespace meshparity::layout
