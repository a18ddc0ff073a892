// The run from its first collective to its last: counts, then passes over the micro-batches, unit by unit,
// then what closes a pass.
#include "harness/layout/communication_plan.h"

#include <algorithm>

#include "harness/layout/communication_sites.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::layout {
namespace {

class Planner {
 public:
  Planner(const LayoutMap& map, const CommunicationRun& run)
      : map_(map),
        run_(run),
        loss_(parse_loss(run.loss)),
        parameters_(map),
        experts_(map, run.routes, passes(), run.even_routes),
        ledger_(map.world()) {
    if (run.loss_form != "sharded" && run.loss_form != "replicated")
      throw InputError("loss form '" + run.loss_form + "' is unknown");
    const std::int64_t micro_batches = map.batch().micro_batches();
    for (int data = 0; data < data_ranks(map.mesh()); ++data)
      for (std::int64_t m = 0; m < micro_batches; ++m) tokens_.push_back(count_tokens(map, m, data));
  }

  std::vector<SiteTraffic> plan() {
    for (const int rank : run_.ranks) plan_rank(place_of(map_, rank));
    for (int rank = 0; rank < map_.world() && run_.ranks.empty(); ++rank) plan_rank(place_of(map_, rank));
    return ledger_.take();
  }

 private:
  int passes() const { return std::max(1, run_.steps); }
  bool backward() const { return run_.gradients || run_.steps > 0; }

  void plan_rank(const RankPlace& place) {
    const Mesh& mesh = map_.mesh();
    const bool recompute = map_.flags().recompute;
    const RankSends once(ledger_, place.rank, 1, backward());
    const Sends sends{{ledger_, place.rank, passes(), backward()},
                      {ledger_, place.rank, passes(), backward(), recompute},
                      {ledger_, place.rank, 1, backward(), recompute}};
    const GroupPlace data{"dp.fsdp.cp", token_ranks(mesh), token_rank(mesh, place.rank)};
    const auto with_stages = [&](const char* alone, const char* staged, std::int64_t size,
                                 std::int64_t index) {
      return GroupPlace{mesh.pp > 1 ? staged : alone, mesh.pp * size, place.at.pp * size + index};
    };
    const int inner = mesh.expert_group();
    const GroupPlace everyone = with_stages("dp.fsdp.cp", "pp.dp.fsdp.cp", data.size, data.index),
                     model = with_stages("fsdp.cp.tp", "pp.fsdp.cp.tp", inner, place.rank % inner);

    // Valid labels of every document and micro-batch, for multi-token prediction those of next tokens, and
    // for terms of the router tokens of every micro-batch, before the first pass.
    const std::int64_t micro_batches = map_.batch().micro_batches();
    once.all_reduce(
        data, "loss.counts",
        map_.batch().documents() + (loss_.has("mtp") ? 1 : 0) + (loss_.of_router() ? 2 : 1) * micro_batches);
    for (std::int64_t m = 0; m < micro_batches; ++m) {
      const TokenCounts& tokens = tokens_[data_rank(mesh, place.rank) * micro_batches + m];
      loss_weights(once, place, tokens);
      for (const StagePlace& stage : stages_of(map_, place.at.pp))
        stage_of_micro_batch(sends, place, stage, m, tokens);
    }
    // The value of every term, in the first pass only.
    once.all_reduce(everyone, "loss.values", static_cast<std::int64_t>(loss_.reported().size()));
    if (!backward()) return;
    parameters_.reduce_gradients(sends.passes, place);
    sends.passes.all_reduce(model, "gradient_norm", 1);
  }

  // What leaves a rank in every pass, in every pass inside layers, and inside layers in one pass.
  struct Sends {
    RankSends passes, in_layers, in_layers_once;
  };

  void stage_of_micro_batch(const Sends& sends, const RankPlace& place, const StagePlace& stage,
                            std::int64_t m, const TokenCounts& tokens) {
    const std::int64_t held = tokens.residual[place.cp.index];
    if (stage.first) {
      parameters_.gather_unit(sends.passes, place, "embed");
      leave_block(sends.passes, place, "embed_tokens", held);
      if (loss_.has("mtp")) leave_block(sends.passes, place, "mtp.embed_tokens", held);
      if (map_.config().has_vision()) {
        parameters_.gather_unit(sends.passes, place, "visual");
        vision_sites(sends.passes, place, m);
      }
    }
    for (std::int64_t i = stage.layers.begin; i < stage.layers.end; ++i) layer(sends, place, i, m, tokens);
    if (stage.last) {
      parameters_.gather_unit(sends.passes, place, "head");
      // The head of a tied model is the embedding, gathered where the first stage has not done so.
      if (!stage.first && map_.config().tie_word_embeddings)
        parameters_.gather_unit(sends.passes, place, "embed");
      head_sites(sends.passes, place, "lm_head", held);
      if (loss_.has("mtp")) next_token_layer(sends, place, m, tokens);
      replicated_tokens(sends.passes, place, tokens, "loss.logprobs");
      if (loss_.has("lm_z")) replicated_tokens(sends.passes, place, tokens, "loss.log_sums");
      if (loss_.has("mtp")) replicated_tokens(sends.passes, place, tokens, "loss.next_logprobs");
      if (loss_.of_router()) router_totals(sends.passes, place);
    }
    stage_sends(sends.passes, place, stage, m, held, loss_.has("mtp") ? 2 : 1);
    if (loss_.of_router()) router_sends(sends.passes, place, stage, m);
  }

  void layer(const Sends& sends, const RankPlace& place, std::int64_t i, std::int64_t m,
             const TokenCounts& tokens) {
    const ModelConfig& c = map_.config();
    const std::string layer = "layers." + std::to_string(i);
    parameters_.gather_unit(sends.in_layers, place, layer);
    decoder_layer(sends, place, layer, i, c.full_attention[i], m, tokens);
  }

  // Multi-token prediction: one more layer, and the head again.
  void next_token_layer(const Sends& sends, const RankPlace& place, std::int64_t m,
                        const TokenCounts& tokens) {
    parameters_.gather_unit(sends.in_layers, place, "mtp");
    decoder_layer(sends, place, "mtp.layers.0", map_.config().num_hidden_layers, /*full_attention=*/true, m,
                  tokens);
    head_sites(sends.passes, place, "mtp.lm_head", tokens.residual[place.cp.index]);
  }

  // `i`: the layer whose routes its experts have; the one behind the model's own is that of the next token.
  void decoder_layer(const Sends& sends, const RankPlace& place, const std::string& layer, std::int64_t i,
                     bool full_attention, std::int64_t m, const TokenCounts& tokens) {
    const ModelConfig& c = map_.config();
    const std::int64_t held = tokens.residual[place.cp.index];
    const std::string mixer = layer + (full_attention ? ".self_attn" : ".linear_attn");
    enter_block(sends.in_layers, place, mixer, held);
    if (full_attention)
      attention_sites(sends.in_layers, place, layer, tokens);
    else
      delta_rule_sites(sends.in_layers, place, layer, tokens);
    leave_block(sends.in_layers, place, mixer + (full_attention ? ".o_proj" : ".out_proj"), held);
    if (c.is_moe()) {
      experts_.block(sends.in_layers, sends.in_layers_once, place, layer, i, m, held);
      return;
    }
    enter_block(sends.in_layers, place, layer + ".mlp", held);
    leave_block(sends.in_layers, place, layer + ".mlp.down_proj", held);
  }

  // One number of every token of the Ulysses group, where each of its ranks evaluates the loss.
  void replicated_tokens(const RankSends& sends, const RankPlace& place, const TokenCounts& tokens,
                         const char* site) const {
    if (run_.loss_form != "replicated") return;
    const std::int64_t held = tokens.residual[place.cp.index];
    sends.all_gather(place.uly, site, held);
    sends.reduce_scatter(place.uly, site, tokens_of_uly(place, tokens), held, Direction::backward);
  }

  // Per expert the rows that chose it and the sum of its probabilities, and the sum of squares, over all
  // ranks that see other tokens: with experts that are whole beside tp every tp rank routes a part.
  void router_totals(const RankSends& sends, const RankPlace& place) const {
    const Mesh& mesh = map_.mesh();
    const int stage = mesh.world() / mesh.pp;
    const GroupPlace tokens{"dp.fsdp.cp", token_ranks(mesh), token_rank(mesh, place.rank)},
        all{"dp.fsdp.cp.tp", stage, place.rank % stage};
    sends.all_reduce(mesh.expert_tokens_cut() ? all : tokens, "loss.routers",
                     2 * map_.config().num_experts + 1);
  }

  // Replicated over uly, the loss needs every weight of the group's tokens, and for policy gradients the
  // advantages and old logprobs; the same in every pass.
  void loss_weights(const RankSends& once, const RankPlace& place, const TokenCounts& tokens) {
    if (run_.loss_form != "replicated") return;
    const std::int64_t rows = static_cast<std::int64_t>(kLossPolicies.size()) + (loss_.has("lm_z") ? 1 : 0) +
                              (loss_.has("mtp") ? 1 : 0) + (loss_.has("policy_gradient") ? 3 : 0);
    once.all_gather(place.uly, "loss.weights", rows * tokens.residual[place.cp.index]);
  }

  std::int64_t tokens_of_uly(const RankPlace& place, const TokenCounts& tokens) const {
    std::int64_t n = 0;
    for (std::int64_t u = 0; u < place.uly.size; ++u)
      n += tokens.residual[place.ring.index * place.uly.size + u];
    return n;
  }

  const LayoutMap& map_;
  const CommunicationRun run_;
  const LossSum loss_;
  const ParameterTraffic parameters_;
  const ExpertTraffic experts_;
  std::vector<TokenCounts> tokens_;  // data rank * micro-batches + micro-batch
  SiteLedger ledger_;
};

}  // namespace

std::vector<SiteTraffic> communication_plan(const LayoutMap& map, const CommunicationRun& run) {
  return Planner(map, run).plan();
}

}  // namespace meshparity::layout
