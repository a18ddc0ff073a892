// The rollout engine on its own against the goldens' logits, which Hugging Face transformers computed: over
// pairs of meshes, cuts of the prompts, padding and shared prefixes.
#include <catch2/catch.hpp>

#include "harness/cli/case_arguments.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/scenario.h"
#include "harness/cli/torch_bridge.h"

namespace meshparity::cli {
namespace {

// |got - want| / |want| over the logits that the ranks of the last stage hold.
double distance(const Scenario& scenario, const std::string& train, const std::string& mesh,
                const std::string& spec) {
  impl::RolloutInputs in;
  in.train.config = scenario.config, in.train.mesh = Mesh::parse(train), in.train.batch = scenario.batch;
  in.train.weights = &scenario.weights, in.mesh = Mesh::parse(mesh), in.spec = RolloutSpec::parse(spec);
  const auto outputs = run_threads(in, {});
  const at::Tensor golden = alias_of(scenario.golden.at("logits"));
  double squared = 0;
  std::int64_t elements = 0;
  for (int rank = 0; rank < in.mesh.world(); ++rank) {
    std::vector<std::int64_t> tokens;
    for (std::int64_t d = data_rank(in.mesh, rank); d < scenario.batch.documents(); d += in.mesh.dp)
      for (std::int64_t t = scenario.batch.document(d).begin; t < scenario.batch.document(d).end; ++t)
        tokens.push_back(t);
    const Range columns = cut(golden.size(1), in.mesh.tp, coordinate_of(in.mesh, rank).tp);
    for (const auto& record : outputs[rank].records) {
      if (record.key != "rollout/logits") continue;
      const at::Tensor want =
          golden.index_select(0, at::tensor(tokens, at::kLong)).slice(1, columns.begin, columns.end);
      REQUIRE(record.value.sizes() == want.sizes());
      squared += (record.value - want).square().sum().item<double>();
      elements += want.numel();
    }
  }
  REQUIRE(elements == golden.numel());
  return std::sqrt(squared) / golden.norm().item<double>();
}

}  // namespace

TEST_CASE("the rollout engine gives the goldens' logits from any training mesh on any rollout mesh") {
  struct Pair {
    const char *model, *train, *mesh;
  };
  for (const Pair& pair : {Pair{"tiny-dense --batch rows", "fsdp2.tp2", "tp4"},
                           {"tiny-dense --batch packed-odd", "ring2.uly2", "pp2.dp2"},
                           {"tiny-dense --batch single", "dp1", "dp3"},
                           {"tiny-tied --batch rows", "pp2.fsdp2", "pp3.tp2"},
                           {"tiny-moe --batch rows", "fsdp2.ep2", "tp6.ep3"},
                           {"tiny-moe --batch packed-odd", "tp3.ep3", "dp2.tp2.ep2"},
                           {"tiny-vl --batch rows", "ring3", "tp2"},
                           {"tiny-vl-moe --batch rows", "fsdp2", "pp2.dp2"}})
    for (const char* spec :
         {"plain", "prompt=9:chunk=1", "prompt=5:chunk=3:pad=left:batch=2", "prompt=4:prefix=2:pad=left"}) {
      CAPTURE(pair.model, pair.train, pair.mesh, spec);
      const auto scenario = load_scenario(single_case("--model " + std::string(pair.model) + " --mesh dp1"));
      CHECK(distance(*scenario, pair.train, pair.mesh, spec) <= 1e-12);
    }
}

}  // namespace meshparity::cli
