// run_rollout: takes the weights over, then runs the schedule of this rank's sequences, and emits records.
#include "impl/rollout/program.h"

#include <optional>

#include "harness/types/error.h"
#include "impl/blocks/decoder.h"
#include "impl/blocks/vision.h"
#include "impl/parallel/index_tensor.h"
#include "impl/parallel/pipeline.h"
#include "impl/rollout/cache.h"
#include "impl/rollout/sampling.h"
#include "impl/rollout/take_weights.h"
#include "impl/train/groups.h"

namespace meshparity::impl {
namespace {

// One layer's mixers during one pass.
class LayerMixer final : public CachedMixer {
 public:
  using Router = std::function<Routing(const at::Tensor& scores, Range tokens, const Site& site)>;
  LayerMixer(RolloutCaches& caches, const PassTables& tables, std::int64_t layer, Router router)
      : caches_(caches), tables_(tables), layer_(layer), router_(std::move(router)) {}
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) override {
    return caches_.attend(tables_, layer_, q, k, v);
  }
  at::Tensor recur(const DeltaNetInputs& in, std::int64_t qk_width) override {
    return caches_.recur(tables_, layer_, in, qk_width);
  }
  Routing route(const at::Tensor& scores, Range tokens, const Site& site) override {
    return router_(scores, tokens, site);
  }

 private:
  RolloutCaches& caches_;
  const PassTables& tables_;
  const std::int64_t layer_;
  const Router router_;
};

class RolloutProgram {
 public:
  RolloutProgram(const RolloutInputs& inputs, Engine& engine, const Seams& seams, RankOutput& out)
      : inputs_(inputs),
        config_(inputs.train.config),
        rank_(engine.rank()),
        out_(out),
        edit_(plain_rollout(config_, inputs.mesh, inputs.spec, engine.rank())),
        batch_(rollout_batch(inputs.train.batch)) {
    if (seams.rollout) seams.rollout(edit_);
    collectives_ = make_collectives(&out.communication, inputs.train.ordered_reductions);
    if (seams.collectives) collectives_ = seams.collectives(collectives_);
    primitives_ = default_primitives();
    if (seams.primitives) seams.primitives(primitives_);
    plans_ = plans_of(config_, inputs.mesh, {}, seams);
    const bool positioned = !batch_.images.empty() || !batch_.videos.empty();
    if (positioned && batch_.position_ids.empty()) batch_.position_ids = rope_index(batch_, config_);
  }

  // Every rank of the engine calls it.
  void take_weights(Engine& engine, const Seams& seams) {
    parameters_ = impl::take_weights(inputs_, engine, seams, plans_, edit_, collectives_, out_);
  }

  bool taking_part() const { return rank_ < inputs_.mesh.world(); }

  void run(Engine& engine) {
    const Plan& plan = plans_[rank_];
    groups_ = make_groups(engine, plan, false);
    stage_ = stages_of(inputs_.mesh, {}, config_.num_hidden_layers, plan.at.pp)[0];
    const TokenLayout layout = make_token_layout(batch_, inputs_.mesh, {}, rank_);
    tokens_ = layout.micro_batches.at(0);
    packing_.dtype = inputs_.train.dtype, packing_.device = inputs_.train.device;
    find_sequences(layout);
    gather_weights();
    for (std::int64_t i = stage_.layers.begin; config_.is_moe() && i < stage_.layers.end; ++i)
      routes_[i] = at::zeros({tokens_.tokens(), config_.num_experts_per_tok}, options().dtype(at::kLong));
    if (stage_.last) logits_ = at::zeros({tokens_.tokens(), plan.vocabulary().size()}, options());
    if (stage_.first && config_.has_vision()) find_features(layout);
    run_schedule();
    collectives_->finish_sends();
    record_results();
  }

 private:
  at::TensorOptions options() const {
    return at::TensorOptions().dtype(inputs_.train.dtype).device(inputs_.train.device);
  }

  void record(std::string key, const at::Tensor& value) {
    out_.records.push_back({std::move(key), value.detach().to(at::kCPU).clone()});
  }

  // The sequences of this data rank, one after another in its stream.
  void find_sequences(const TokenLayout& layout) {
    const auto ranks = static_cast<std::int64_t>(data_ranks(inputs_.mesh));
    std::int64_t begin = 0;
    for (std::int64_t d = data_rank(inputs_.mesh, rank_); d < batch_.documents(); d += ranks) {
      const std::int64_t length = batch_.document(d).size();
      sequences_.push_back({begin, length, inputs_.spec.prompt_of(length)});
      begin += length;
    }
    if (begin != tokens_.tokens())
      throw RunError("rollout: rank " + std::to_string(rank_) + " has " + std::to_string(begin) +
                     " tokens, its layout " + std::to_string(layout.micro_batches[0].tokens()));
    if (inputs_.spec.replay) {
      if (!inputs_.routes) throw RunError("rollout: replay=on, but no routes are given");
      for (std::int64_t i = 0; i < config_.num_hidden_layers; ++i)
        given_.push_back(inputs_.routes->at("layers." + std::to_string(i))
                             .index_select(0, at::tensor(tokens_.global, at::kLong)));
    }
    if (inputs_.spec.prefix > 0) find_prefixes();
  }

  void find_prefixes() {
    const std::int64_t n = tokens_.tokens();
    for (const RolloutSequence& s : sequences_) {
      PrefixKey& key = prefix_keys_.emplace_back();
      const std::int64_t end = s.begin + std::min(inputs_.spec.prefix, s.length);
      key.tokens.assign(tokens_.ids.begin() + s.begin, tokens_.ids.begin() + end);
      for (std::int64_t axis = 0; axis < 3; ++axis)
        key.positions.insert(key.positions.end(), tokens_.positions.begin() + axis * n + s.begin,
                             tokens_.positions.begin() + axis * n + end);
      const std::int64_t first = tokens_.global[s.begin];
      if (config_.has_vision()) key.pixels = pixels_behind(batch_, config_, {first, first + end - s.begin});
      for (const at::Tensor& given : given_) {
        const at::Tensor own = given.slice(0, s.begin, end).contiguous();
        const auto* data = own.const_data_ptr<std::int64_t>();
        key.experts.insert(key.experts.end(), data, data + own.numel());
      }
    }
  }

  // No parameter is sharded over fsdp here, so each is at hand for all passes.
  void gather_weights() {
    if (stage_.first || (stage_.last && config_.tie_word_embeddings))
      embedding_ = parameters_->gather("embed");
    for (std::int64_t i = stage_.layers.begin; i < stage_.layers.end; ++i)
      layers_.push_back(parameters_->gather("layers." + std::to_string(i)));
    if (stage_.last) head_ = parameters_->gather("head");
  }

  BlockContext context_of(const PassTables* tables, std::int64_t tokens) {
    BlockContext context{config_, primitives_, {}, {}, tables ? &tables->tokens : nullptr, {}, nullptr};
    context.tp = {collectives_.get(), groups_.tp, false, std::vector<std::int64_t>(inputs_.mesh.tp, tokens)};
    context.expert = {collectives_.get(), groups_.ep, inputs_.mesh.expert_tokens_cut()};
    return context;
  }

  // The features of all images of this data rank, once, so that no cut of the prompts can fall into an image.
  void find_features(const TokenLayout& layout) {
    const MicroBatchImages images =
        make_images(batch_, config_, inputs_.mesh, {}, plans_[rank_].at, layout, packing_).at(0);
    if (images.part.grids.empty()) return;
    features_ = image_features(context_of(nullptr, 0), *parameters_, *groups_.cp, images, nullptr);
    feature_of_ = at::full({tokens_.tokens()}, -1, options().dtype(at::kLong));
    feature_of_.index_copy_(0, images.part.places.rows, images.part.places.features);
  }

  void run_schedule() {
    const RolloutSchedule schedule =
        make_rollout_schedule(sequences_, inputs_.spec, [this](std::int64_t kept, std::int64_t asked) {
          return edit_.same_prefix(prefix_keys_[kept], prefix_keys_[asked]);
        });
    caches_ = std::make_unique<RolloutCaches>(config_, primitives_, edit_, stage_.layers.size(),
                                              schedule.slots, schedule.capacity);
    std::vector<std::vector<LayerCache>> prefixes;
    std::vector<std::int64_t> prefix_begin;  // of the one who made it, in the stream
    for (const RolloutStep& step : schedule.steps) {
      const std::int64_t begin = sequences_[step.sequence].begin;
      switch (step.kind) {
        case RolloutStep::Kind::start:
          caches_->start(step.slot);
          break;
        case RolloutStep::Kind::pass:
          run_pass(step.pass);
          break;
        case RolloutStep::Kind::keep:
          prefixes.push_back(caches_->keep(step.slot, inputs_.spec.prefix));
          prefix_begin.push_back(begin);
          break;
        case RolloutStep::Kind::resume:
          caches_->resume(step.slot, inputs_.spec.prefix, prefixes.at(step.prefix));
          copy_outputs(prefix_begin[step.prefix], begin);
          break;
      }
    }
  }

  // What the model says of a prefix's tokens is said once.
  void copy_outputs(std::int64_t from, std::int64_t to) {
    const auto copy = [&](const at::Tensor& x) {
      x.narrow(0, to, inputs_.spec.prefix).copy_(x.narrow(0, from, inputs_.spec.prefix));
    };
    if (logits_.defined()) copy(logits_);
    for (auto& [layer, routes] : routes_) copy(routes);
  }

  void run_pass(const RolloutPass& pass) {
    const PassTables tables = make_pass_tables(pass, sequences_, tokens_.positions, config_, edit_, packing_);
    caches_->begin(pass);
    BlockContext context = context_of(&tables, pass.size());
    const int number = static_cast<int>(pass.number);
    at::Tensor x;
    if (stage_.first) {
      x = embedded(context, tables);
    } else {
      x = at::empty({pass.size(), config_.hidden_size}, options());
      receive_activation(*collectives_, groups_.pipeline, stage_.number, number, x);
    }
    for (std::int64_t i = stage_.layers.begin; i < stage_.layers.end; ++i) {
      const std::int64_t own = i - stage_.layers.begin;
      LayerMixer mixer(*caches_, tables, own, [&, i](const at::Tensor& scores, Range some, const Site& site) {
        return routed(tables, i, scores, some, site);
      });
      context.cached = &mixer;
      x = decoder_layer(context, layers_[own], config_.full_attention[i], x, "layers." + std::to_string(i),
                        nullptr);
    }
    context.cached = nullptr;
    if (!stage_.last) return send_activation(*collectives_, groups_.pipeline, stage_.number, number, x);
    // Nobody asks what follows padding.
    const at::Tensor real = x.index_select(0, tables.real);
    const at::Tensor h = primitives_.rms_norm(real, (*head_)["norm.weight"], config_.rms_norm_eps);
    const at::Tensor& table = head_table(config_, config_.tie_word_embeddings ? *embedding_ : *head_);
    logits_.index_copy_(0, tables.stream,
                        primitives_.head_linear(context.tp.enter(h, "lm_head"), {table})[0]);
  }

  at::Tensor embedded(const BlockContext& context, const PassTables& tables) {
    const at::Tensor ids = at::zeros({tables.pass->size()}, options().dtype(at::kLong));
    const at::Tensor own = index_tensor(tokens_.ids, ids.device()).index_select(0, tables.stream);
    ids.index_copy_(0, tables.real, own);
    const at::Tensor x =
        embed(context, (*embedding_)["embed_tokens.weight"], ids, plans_[rank_].vocabulary().begin);
    if (!features_.defined()) return x;
    const at::Tensor feature = feature_of_.index_select(0, tables.stream);
    const at::Tensor with = feature.ge(0).nonzero().view({-1});
    return primitives_.place_features(x, features_,
                                      {tables.real.index_select(0, with), feature.index_select(0, with)});
  }

  // Routes the tokens `some` of the pass in layer `layer` and notes where they went. Padding goes where it
  // likes, or with replay to the first experts.
  Routing routed(const PassTables& tables, std::int64_t layer, const at::Tensor& scores, Range some,
                 const Site& site) {
    const std::int64_t k = config_.num_experts_per_tok, n = tables.pass->size();
    Routing routing = primitives_.route(scores, k);
    if (inputs_.spec.replay) {
      const at::Tensor given = at::arange(k, options().dtype(at::kLong)).unsqueeze(0).repeat({n, 1});
      given.index_copy_(0, tables.real, given_[layer].to(given.device()).index_select(0, tables.stream));
      routing =
          primitives_.route_to(scores, edit_.replayed(given.slice(0, some.begin, some.end), routing.experts));
    }
    const at::Tensor all = inputs_.mesh.expert_tokens_cut()
                               ? collectives_->all_gather(*groups_.tp, routing.experts,
                                                          cut_sizes(n, inputs_.mesh.tp), 0, site + ".routes")
                               : routing.experts;
    routes_.at(layer).index_copy_(0, tables.stream, all.index_select(0, tables.real));
    return routing;
  }

  void record_results() {
    for (const auto& [layer, routes] : routes_)
      record("rollout/routes/layers." + std::to_string(layer), routes);
    if (!stage_.last) return;
    record("rollout/logits", logits_);
    const Plan& plan = plans_[rank_];
    const SampledTokens tokens{*collectives_,
                               *groups_.tp,
                               primitives_,
                               index_tensor(tokens_.labels, logits_.device()),
                               plan.vocabulary().begin,
                               cut_sizes(config_.vocab_size, inputs_.mesh.tp)};
    const SampledLogprobs said = edit_.sample(tokens, logits_, inputs_.spec.temperature, inputs_.spec.top_p);
    record("rollout/logprobs", said.logprobs);
    record("rollout/sampling_logprobs", said.sampling);
    record("rollout/in_support", said.in_support);
  }

  const RolloutInputs& inputs_;
  const ModelConfig& config_;
  const int rank_;
  RankOutput& out_;
  RolloutEdit edit_;
  Batch batch_;  // of sequences, with the positions its images give
  std::shared_ptr<Collectives> collectives_;
  Primitives primitives_;
  std::vector<Plan> plans_;  // of the rollout mesh
  std::unique_ptr<ShardedParameters> parameters_;
  Groups groups_;
  PipelineStage stage_;
  PackingOptions packing_;
  MicroBatchTokens tokens_;  // of this data rank
  std::vector<RolloutSequence> sequences_;
  std::vector<PrefixKey> prefix_keys_;
  std::vector<at::Tensor> given_;  // [layers] with replay: [T, k]
  std::optional<UnitWeights> embedding_, head_;
  std::vector<UnitWeights> layers_;
  at::Tensor features_, feature_of_;  // [F, D]; [T] the row of it that is the token's, or -1
  std::unique_ptr<RolloutCaches> caches_;
  at::Tensor logits_;                          // [T, V_tp]
  std::map<std::int64_t, at::Tensor> routes_;  // by layer, [T, k]
};

}  // namespace

RankOutput run_rollout(const RolloutInputs& inputs, Engine& engine, const Seams& seams) {
  const RankInputs& train = inputs.train;
  if (!train.weights && !train.weight_source) throw RunError("run_rollout: no weights");
  const int ranks = std::max(train.mesh.world(), inputs.mesh.world());
  if (ranks != engine.world())
    throw RunError("meshes " + train.mesh.text() + " and " + inputs.mesh.text() + " need " +
                   std::to_string(ranks) + " ranks, the engine has " + std::to_string(engine.world()));
  std::string no = refusal(train.mesh, train.flags, train.config);
  if (no.empty()) no = rollout_refusal(inputs.mesh, inputs.spec, train.config);
  if (!no.empty()) throw InputError(no);
  const at::NoGradGuard guard;
  RankOutput out;
  RolloutProgram program(inputs, engine, seams, out);
  program.take_weights(engine, seams);
  if (program.taking_part()) program.run(engine);
  return out;
}

}  // namespace meshparity::impl
