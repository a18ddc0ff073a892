// The placement check must pass what a mesh says and fail every way of being no mesh.
#include "harness/layout/placement_check.h"

#include <catch2/catch.hpp>

#include "harness/layout/layout_fixture.h"

namespace meshparity::layout {
namespace {

// What a right implementation holds and emits on every rank of `by`.
std::vector<RankHoldings> holdings(const LayoutMap& by) {
  std::vector<RankHoldings> ranks;
  for (int rank = 0; rank < by.world(); ++rank) {
    RankHoldings r;
    r.rank = rank;
    for (const auto& p : by.placements()) {
      r.stored[p.name] = by.local("weights/" + p.name, rank).local_shape();
      r.gathered[p.name] = by.local("gathered/" + p.name, rank).local_shape();
      r.parameter_bytes += 8 * shape_numel(r.stored[p.name]);
    }
    for (const char* key :
         {"logits", "logprobs", "activations/embed", "activations/layers.0.mixer", "activations/norm"})
      r.emitted[key] = by.local(key, rank).local_shape();
    r.emitted["grad_norm"] = {};
    ranks.push_back(std::move(r));
  }
  return ranks;
}

const CheckResult* find(const std::vector<CheckResult>& results, const std::string& tensor) {
  for (const auto& r : results)
    if (r.tensor == tensor) return &r;
  return nullptr;
}

std::vector<std::string> failing(const std::vector<CheckResult>& results) {
  std::vector<std::string> names;
  for (const auto& r : results)
    if (r.state != State::pass) names.push_back(r.tensor);
  return names;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a run that holds its parts passes on every mesh") {
  for (const char* mesh : {"dp1", "dp2", "dp3", "fsdp2", "fsdp5", "tp2", "tp4", "dp2.fsdp2.tp2", "fsdp3.tp2"})
    for (const bool sp : {false, true}) {
      const auto map = fixture::map(mesh, sp && Mesh::parse(mesh).tp > 1);
      INFO(mesh);
      CHECK(failing(check_placement(map, holdings(map), DType::float64)) == Names{});
    }
}

TEST_CASE("every axis larger than one gets its own line") {
  const auto map = fixture::map("dp2.fsdp2.tp2", true);
  const auto results = check_placement(map, holdings(map), DType::float64);
  for (const char* name : {"axis dp", "axis fsdp", "axis tp", "sp", "parameter bytes", "logits",
                           "activations/norm", "model.norm.weight"}) {
    INFO(name);
    REQUIRE(find(results, name));
    CHECK(find(results, name)->check == "placement");
    CHECK(find(results, name)->elements > 0);
  }
  CHECK(
      !find(check_placement(fixture::map("tp2"), holdings(fixture::map("tp2")), DType::float64), "axis dp"));
}

TEST_CASE("an axis that changes nothing is no axis") {
  const auto says = fixture::map("fsdp2.tp2");
  SECTION("everything gathered everywhere") {
    const auto does = fixture::map("dp1");
    std::vector<RankHoldings> ranks;
    for (int rank = 0; rank < 4; ++rank) {
      ranks.push_back(holdings(does)[0]);
      ranks.back().rank = rank;
    }
    const auto results = check_placement(says, ranks, DType::float64);
    CHECK(find(results, "axis tp")->state == State::fail);
    CHECK(find(results, "axis fsdp")->state == State::fail);
    CHECK(find(results, "parameter bytes")->state == State::fail);
    CHECK(find(results, "logits")->state == State::fail);
  }
  SECTION("fsdp only replicates, tp is real") {
    const auto does = fixture::map("tp2");
    std::vector<RankHoldings> ranks;
    for (int rank = 0; rank < 4; ++rank) {
      ranks.push_back(holdings(does)[rank % 2]);
      ranks.back().rank = rank;
    }
    const auto results = check_placement(says, ranks, DType::float64);
    CHECK(find(results, "axis tp")->state == State::pass);
    CHECK(find(results, "axis fsdp")->state == State::fail);
  }
}

TEST_CASE("expert parallelism that computes every expert everywhere stores the same shapes and is found") {
  const auto says = fixture::map("fsdp5.ep5"), does = fixture::map("fsdp5");
  CHECK(failing(check_placement(says, holdings(says), DType::float64)) == Names{});
  const auto results = check_placement(says, holdings(does), DType::float64);
  CHECK(find(results, "axis ep")->state == State::fail);
  CHECK(find(results, "axis fsdp")->state == State::pass);
  const CheckResult* experts = find(results, "model.layers.1.mlp.experts.down_proj");
  REQUIRE(experts);
  CHECK(experts->state == State::fail);
  CHECK(experts->reason == "rank 0 computes with [5,6,7], its part is [1,6,7]");
}

TEST_CASE("dp that computes the whole batch everywhere is found by its rows") {
  const auto says = fixture::map("dp2"), does = fixture::map("dp1");
  std::vector<RankHoldings> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.push_back(holdings(does)[0]);
    ranks.back().rank = rank;
  }
  CHECK(find(check_placement(says, ranks, DType::float64), "axis dp")->state == State::fail);
}

TEST_CASE("a sequence-parallel flag without effect is found, and is not trusted unseen") {
  const auto says = fixture::map("tp2", true), does = fixture::map("tp2", false);
  auto ranks = holdings(does);
  CHECK(find(check_placement(says, ranks, DType::float64), "sp")->state == State::fail);
  for (auto& r : ranks)
    for (const char* key : {"activations/embed", "activations/layers.0.mixer", "activations/norm"})
      r.emitted.erase(key);
  CHECK(find(check_placement(says, ranks, DType::float64), "sp")->state == State::untrusted);
}

TEST_CASE("one wrong shape, byte or name is named") {
  const auto map = fixture::map("fsdp2.tp2");
  auto ranks = holdings(map);
  SECTION("a shape") {
    ranks[2].stored["model.norm.weight"] = {6};
    const auto results = check_placement(map, ranks, DType::float64);
    CHECK(failing(results) == Names{"model.norm.weight"});
    CHECK(find(results, "model.norm.weight")->reason == "rank 2 stores [6], its part is [3]");
  }
  SECTION("bytes") {
    ranks[1].parameter_bytes += 8;
    const auto results = check_placement(map, ranks, DType::float64);
    CHECK(failing(results) == Names{"parameter bytes"});
    CHECK(find(results, "parameter bytes")->where == "rank 1");
  }
  SECTION("half the bytes: another dtype") {
    CHECK(find(check_placement(map, ranks, DType::float32), "parameter bytes")->outside == 4);
  }
  SECTION("a parameter missing") {
    ranks[0].stored.erase("lm_head.weight");
    CHECK(find(check_placement(map, ranks, DType::float64), "lm_head.weight")->state == State::invalid);
  }
  SECTION("a parameter nobody placed") {
    ranks[3].stored["model.extra"] = {1};
    CHECK(find(check_placement(map, ranks, DType::float64), "model.extra")->state == State::invalid);
  }
  SECTION("an activation nobody knows") {
    ranks[0].emitted["activations/layers.9.ffn"] = {1, 6};
    CHECK(find(check_placement(map, ranks, DType::float64), "activations/layers.9.ffn")->state ==
          State::invalid);
  }
  SECTION("a rank missing") {
    ranks.pop_back();
    const auto results = check_placement(map, ranks, DType::float64);
    REQUIRE(results.size() == 1);
    CHECK(results[0].state == State::invalid);
    CHECK(results[0].reason == "rank 3 reported nothing");
  }
  SECTION("a rank twice") {
    ranks[3].rank = 0;
    CHECK(check_placement(map, ranks, DType::float64)[0].state == State::invalid);
  }
}

}  // namespace meshparity::layout
