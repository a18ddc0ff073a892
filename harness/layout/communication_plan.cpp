// The run from its first collective to its last: counts, then passes over the micro-batches, unit by unit,
// then what closes a pass.
#include "harness/layout/communication_plan.h"

#include <algorithm>

#include "harness/layout/communication_sites.h"
#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

class Planner {
 public:
  Planner(const LayoutMap& map, const CommunicationRun& run)
      : map_(map), run_(run), parameters_(map), ledger_(map.world()) {
    if (run.loss_form != "sharded" && run.loss_form != "replicated")
      throw InputError("loss form '" + run.loss_form + "' is unknown");
    const std::int64_t micro_batches = map.batch().micro_batches();
    for (int data = 0; data < data_ranks(map.mesh()); ++data)
      for (std::int64_t m = 0; m < micro_batches; ++m) tokens_.push_back(count_tokens(map, m, data));
  }

  std::vector<SiteTraffic> plan() {
    for (int rank = 0; rank < map_.world(); ++rank) plan_rank(place_of(map_, rank));
    return ledger_.take();
  }

 private:
  bool backward() const { return run_.gradients || run_.steps > 0; }

  void plan_rank(const RankPlace& place) {
    const Mesh& mesh = map_.mesh();
    const RankSends once(ledger_, place.rank, 1, backward());
    const int count = std::max(1, run_.steps);
    const RankSends passes(ledger_, place.rank, count, backward());
    const RankSends in_layers(ledger_, place.rank, count, backward(), map_.flags().recompute);
    const GroupPlace data{"dp.fsdp.cp", token_ranks(mesh), token_rank(mesh, place.rank)};
    const int inner = mesh.expert_group();
    const GroupPlace model{"fsdp.cp.tp", inner, place.rank % inner};

    // Valid labels of every document and micro-batch, before the first pass.
    once.all_reduce(data, "loss.counts", map_.batch().documents() + map_.batch().micro_batches());
    const std::int64_t micro_batches = map_.batch().micro_batches();
    for (std::int64_t m = 0; m < micro_batches; ++m) {
      const TokenCounts& tokens = tokens_[data_rank(mesh, place.rank) * micro_batches + m];
      loss_weights(once, place, tokens);
      micro_batch(passes, in_layers, place, tokens);
    }
    // The value of every policy, in the first pass only.
    once.all_reduce(data, "loss.values", static_cast<std::int64_t>(kLossPolicies.size()));
    if (!backward()) return;
    parameters_.reduce_gradients(passes, place);
    passes.all_reduce(model, "gradient_norm", 1);
  }

  void micro_batch(const RankSends& sends, const RankSends& in_layers, const RankPlace& place,
                   const TokenCounts& tokens) {
    const ModelConfig& c = map_.config();
    const std::int64_t held = tokens.residual[place.cp.index];
    parameters_.gather_unit(sends, place, "embed");
    leave_block(sends, place, "embed_tokens", held);
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string layer = "layers." + std::to_string(i);
      const std::string mixer = layer + (c.full_attention[i] ? ".self_attn" : ".linear_attn");
      parameters_.gather_unit(in_layers, place, layer);
      enter_block(in_layers, place, mixer, held);
      if (c.full_attention[i])
        attention_sites(in_layers, place, layer, tokens);
      else
        delta_rule_sites(in_layers, place, layer, tokens);
      leave_block(in_layers, place, mixer + (c.full_attention[i] ? ".o_proj" : ".out_proj"), held);
      enter_block(in_layers, place, layer + ".mlp", held);
      leave_block(in_layers, place, layer + (c.is_moe() ? ".mlp.experts" : ".mlp.down_proj"), held);
    }
    parameters_.gather_unit(sends, place, "head");
    head_sites(sends, place, held);
    if (run_.loss_form == "replicated") {
      const std::int64_t all = tokens_of_uly(place, tokens);
      sends.all_gather(place.uly, "loss.logprobs", held);
      sends.reduce_scatter(place.uly, "loss.logprobs", all, held, Direction::backward);
    }
  }

  // Replicated over uly, the loss needs every policy's weight of the group's tokens; the same in every pass.
  void loss_weights(const RankSends& once, const RankPlace& place, const TokenCounts& tokens) {
    if (run_.loss_form != "replicated") return;
    const auto policies = static_cast<std::int64_t>(kLossPolicies.size());
    once.all_gather(place.uly, "loss.weights", policies * tokens.residual[place.cp.index]);
  }

  std::int64_t tokens_of_uly(const RankPlace& place, const TokenCounts& tokens) const {
    std::int64_t n = 0;
    for (std::int64_t u = 0; u < place.uly.size; ++u)
      n += tokens.residual[place.ring.index * place.uly.size + u];
    return n;
  }

  const LayoutMap& map_;
  const CommunicationRun run_;
  const ParameterTraffic parameters_;
  std::vector<TokenCounts> tokens_;  // data rank * micro-batches + micro-batch
  SiteLedger ledger_;
};

}  // namespace

bool communication_is_planned(const Mesh& mesh) {
  return mesh.pp == 1 && mesh.ep == 1 && mesh.expert_tp() == mesh.tp;
}

std::vector<SiteTraffic> communication_plan(const LayoutMap& map, const CommunicationRun& run) {
  if (!communication_is_planned(map.mesh()))
    throw InputError("mesh " + map.mesh().text() + ": the communication of pp, ep and etp is not planned");
  return Planner(map, run).plan();
}

}  // namespace meshparity::layout
