// run_rank: builds this rank's objects, offers each to its seam, runs the steps, emits records.
#include "impl/train/program.h"

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include "harness/types/error.h"
#include "impl/parallel/data.h"
#include "impl/parallel/pipeline.h"
#include "impl/train/groups.h"
#include "impl/train/loss.h"
#include "impl/train/loss_terms.h"
#include "impl/train/micro_batch.h"
#include "impl/train/optimizer.h"
#include "impl/train/router_terms.h"

namespace meshparity::impl {
namespace {

template <class T>
void offer(const std::function<void(T&)>& hook, T& object) {
  if (hook) hook(object);
}

class RankProgram {
 public:
  RankProgram(const RankInputs& inputs, Engine& engine, const Seams& seams, RankOutput& out)
      : inputs_(inputs), out_(out), loss_(parse_loss(inputs.loss)) {
    plan_ = make_plan(inputs.config, inputs.mesh, inputs.flags, engine.rank());
    if (seams.plan) seams.plan(plan_, inputs.mesh);
    collectives_ = make_collectives(&out.communication, inputs.ordered_reductions);
    if (seams.collectives) collectives_ = seams.collectives(collectives_);
    groups_ = make_groups(engine, plan_, loss_.sum().of_router());
    stages_ = stages_of(inputs.mesh, inputs.flags, inputs.config.num_hidden_layers, plan_.at.pp);
    primitives_ = default_primitives();
    offer(seams.primitives, primitives_);
    DtypePolicy dtypes;
    offer(seams.dtypes, dtypes);
    parameters_ = std::make_unique<ShardedParameters>(plan_, *inputs.weights, options(), dtypes, collectives_,
                                                      groups_.fsdp, groups_.experts);
    optimizer_ = make_adamw(*parameters_, inputs.train, collectives_, groups_.model);
    offer(seams.optimizer, optimizer_);

    TokenLayout layout = make_token_layout(inputs.batch, inputs.mesh, inputs.flags, engine.rank());
    if (seams.layout) seams.layout(layout, inputs.mesh, engine.rank());
    normaliser_ = Normaliser::count(layout, inputs.batch.documents(), inputs.train.num_tokens);
    normaliser_.sum_over_data_ranks = [this](const at::Tensor& counts) {
      return collectives_->all_reduce(*groups_.data, counts.to(inputs_.device), "loss.counts").to(at::kCPU);
    };
    if (loss_.sum().of_router()) normaliser_.routers = inputs.config.num_hidden_layers;
    wrap_runner_ = seams.pipeline;
    gradient_groups_ = {groups_.tp, groups_.kv_replicas, groups_.replicas, groups_.expert_replicas,
                        groups_.tied};
    offer(seams.gradient_groups, gradient_groups_);
    offer(seams.normaliser, normaliser_);
    normaliser_.globalise();
    sequence_ = layout.sequence;
    build_micro_batches(layout, seams);
  }

  void run() {
    const int passes = std::max(1, inputs_.steps);
    const bool backward = inputs_.gradients || inputs_.steps > 0;
    if (inputs_.trace) record_all("trace/weights/", parameters_->values());
    for (int step = 1; step <= passes; ++step) {
      const bool first = step == 1;
      optimizer_.zero_gradients();
      const std::string trace = "trace/step" + std::to_string(step) + "/";
      run_micro_batches(first, backward,
                        first ? (inputs_.activations ? "activations/" : "")
                              : (inputs_.trace ? trace + "activations/" : ""));
      if (!backward) break;
      reduce_gradients(*parameters_, *collectives_, gradient_groups_);
      const bool emit = first && inputs_.gradients;
      if (emit) record_all("grads/", parameters_->gradients());
      if (!first && inputs_.trace) record_all(trace + "grads/", parameters_->gradients());
      if (!emit && inputs_.steps == 0) break;
      const at::Tensor norm = optimizer_.gradient_norm();
      if (emit) record("grad_norm", norm);
      if (inputs_.steps == 0) break;
      optimizer_.step(optimizer_.clip_scale(norm.item<double>()));
      record_all("step" + std::to_string(step) + "/weights/", parameters_->values());
    }
    out_.parameter_bytes = static_cast<std::int64_t>(parameters_->values().nbytes());
    for (const auto& e : parameters_->entries()) out_.stored_shapes[e.row->name] = e.shape;
    out_.gathered_shapes = parameters_->gathered_shapes();
  }

 private:
  at::TensorOptions options() const {
    return at::TensorOptions().dtype(inputs_.dtype).device(inputs_.device);
  }

  bool replicated_loss() const { return inputs_.loss_form == "replicated" && inputs_.mesh.uly > 1; }
  // Over how many ranks the same loss is evaluated.
  int loss_copies() const { return replicated_loss() ? inputs_.mesh.uly : 1; }

  void record(std::string key, const at::Tensor& value) {
    out_.records.push_back({std::move(key), value.to(at::kCPU)});
  }

  // Every parameter's part of a flat buffer, copied once.
  void record_all(const std::string& prefix, const at::Tensor& flat) {
    const at::Tensor copy = flat.is_cpu() ? flat.clone() : flat.to(at::kCPU);
    for (const auto& e : parameters_->entries())
      record(prefix + e.row->name, ShardedParameters::part(copy, e));
  }

  void build_micro_batches(const TokenLayout& layout, const Seams& seams) {
    const MicroBatchMaker maker{inputs_.config, inputs_.mesh, inputs_.flags, plan_,
                                options(),      sequence_,    seams.context, seams.packing};
    for (std::size_t m = 0; m < layout.micro_batches.size(); ++m) {
      const MicroBatchTokens& tokens = layout.micro_batches[m];
      const auto number = static_cast<std::int64_t>(m);
      MicroBatch made = maker.make(tokens, number);
      made.input.log_sums = loss_.log_sums();
      made.loss_rows =
          loss_.rows(normaliser_, inputs_.batch, tokens, number, inputs_.dtype).to(inputs_.device);
      if (replicated_loss())
        made.loss_rows =
            collectives_->all_gather(*groups_.uly, made.loss_rows, made.context.uly_sizes, 1, "loss.weights");
      micro_batches_.push_back(std::move(made));
    }
  }

  BlockContext context_of(const MicroBatch& micro_batch) {
    BlockContext context{inputs_.config, primitives_, {}, {}, &micro_batch.packed, {}, nullptr};
    context.tp = {collectives_.get(), groups_.tp, sequence_, micro_batch.residual_sizes};
    context.expert = {collectives_.get(), groups_.ep, inputs_.mesh.expert_tokens_cut()};
    context.context = {collectives_.get(),
                       groups_.ring,
                       groups_.uly,
                       groups_.cp,
                       {inputs_.mesh.ring, inputs_.mesh.uly},
                       inputs_.flags.gdn,
                       inputs_.flags.attn,
                       &micro_batch.context};
    return context;
  }

  // A micro-batch between its forward and its backward on one stage.
  struct InFlight {
    std::unique_ptr<BlockContext> context;  // recomputation runs in it again
    at::Tensor input;                       // leaf; undefined on the first stage
    // The stream handed on; on the last stage what the loss is computed from: the logprobs that count, and
    // where it needs them the logits' log-sum-exp.
    Tensors outputs;
  };
  // What one run over all micro-batches collects, micro-batch after micro-batch.
  struct Pass {
    bool emit = false, backward = false;
    std::string activation_path;
    std::map<std::pair<int, int>, InFlight> in_flight;  // by chunk and micro-batch
    std::vector<at::Tensor> logits, logprobs;
    std::vector<std::string> activation_order;
    std::map<std::string, std::vector<at::Tensor>> activations;
    at::Tensor losses;
  };

  // Forward and backward of every micro-batch in the schedule's order; gradients accumulate in the
  // parameters. Records what step 1 must show, and activations below `activation_path` unless that is empty.
  void run_micro_batches(bool emit, bool backward, const std::string& activation_path) {
    Pass pass;
    pass.emit = emit, pass.backward = backward, pass.activation_path = activation_path;
    pass.losses = at::zeros({static_cast<std::int64_t>(loss_.sum().reported().size())}, options());
    const auto schedule =
        pipeline_schedule(inputs_.mesh, inputs_.flags, plan_.at.pp, static_cast<int>(micro_batches_.size()));
    out_.most_in_flight = most_in_flight(schedule);
    PipelineRunner runner{[&](const PipelineAction& action) {
      const auto key = std::pair(action.chunk, action.micro_batch);
      const PipelineStage& stage = stages_[action.chunk];
      if (action.forward) {
        InFlight now = forward(stage, action.micro_batch, pass);
        if (backward) pass.in_flight.emplace(key, std::move(now));
      } else if (backward) {
        backpropagate(stage, action.micro_batch, pass.in_flight.at(key));
        pass.in_flight.erase(key);
      }
    }};
    offer(wrap_runner_, runner);
    for (const PipelineAction& action : schedule) runner.run(action);
    collectives_->finish_sends();
    for (const auto& name : pass.activation_order)
      record(activation_path + name, at::cat(pass.activations.at(name)));
    if (emit) record_results(pass);
  }

  void record_results(const Pass& pass) {
    if (stages_.back().last) {
      record("logits", at::cat(pass.logits));
      record("logprobs", at::cat(pass.logprobs));
    }
    const at::Tensor losses = collectives_->all_reduce(*groups_.everyone, pass.losses, "loss.values");
    const std::vector<std::string> terms = loss_.sum().reported();
    for (std::size_t i = 0; i < terms.size(); ++i) {
      record("loss/" + terms[i], losses[static_cast<std::int64_t>(i)].clone());
      record("denominators/" + terms[i], normaliser_.denominator(terms[i]));
    }
  }

  RouterTerms router_terms() const {
    return {loss_.sum(), normaliser_, inputs_.config.num_experts,
            inputs_.mesh.expert_tokens_cut() ? 1 : inputs_.mesh.tp};
  }

  // On the last stage, where the sums of all layers are.
  void complete_router_loss(RouterLoss& loss, int m, Pass& pass) {
    const at::Tensor totals = collectives_->all_reduce(*groups_.routers, loss.sums, "loss.routers");
    router_terms().complete(loss, m, totals);
    // All ranks know the values; one of those whose losses are added up says them.
    if (pass.emit && groups_.data->rank() == 0) router_terms().add_values(loss, m, totals, pass.losses);
  }

  InFlight forward(const PipelineStage& stage, int m, Pass& pass) {
    const MicroBatch& micro_batch = micro_batches_[m];
    const at::AutoGradMode mode(pass.backward);
    InFlight now;
    now.context = std::make_unique<BlockContext>(context_of(micro_batch));
    const auto router = now.context->router =
        router_terms().of_micro_batch(m, micro_batch.counted_by_routers, options());
    ActivationHook hook;
    if (!pass.activation_path.empty())
      hook = [&](const std::string& name, const at::Tensor& value) {
        auto& parts = pass.activations[name];
        if (parts.empty()) pass.activation_order.push_back(name);
        parts.push_back(without_padding(value.detach(), micro_batch.residual_real));
      };
    std::optional<UnitWeights> embedding;
    at::Tensor x;
    if (stage.first) {
      embedding = parameters_->gather("embed");
      x = decoder_embed(*now.context, *embedding, micro_batch.input, hook);
    } else {
      x = at::empty({micro_batch.residual_sizes[plan_.at.tp], inputs_.config.hidden_size}, options());
      receive_activation(*collectives_, groups_.pipeline, stage.number, m, x);
      if (router) receive_router_sums(*collectives_, groups_.pipeline, stage.number, m, router->sums);
      now.input = x.requires_grad_(pass.backward);
    }
    x = decoder_layers(*now.context, *parameters_, stage.layers, x, inputs_.flags.recompute, hook);
    if (stage.last) {
      now.outputs = head(micro_batch, *now.context, embedding, x, hook, pass);
      if (router) complete_router_loss(*router, m, pass);
    } else {
      send_activation(*collectives_, groups_.pipeline, stage.number, m, x.detach());
      if (router) send_router_sums(*collectives_, groups_.pipeline, stage.number, m, router->sums);
      now.outputs = {x};
    }
    return now;
  }

  // What the loss of this rank is computed from. `embedding`: where this stage has gathered it.
  Tensors head(const MicroBatch& micro_batch, const BlockContext& context,
               std::optional<UnitWeights>& embedding, const at::Tensor& x, const ActivationHook& hook,
               Pass& pass) {
    const bool tied = inputs_.config.tie_word_embeddings;
    const UnitWeights last = parameters_->gather("head");
    if (tied && !embedding) embedding = parameters_->gather("embed");
    const HeadOutput out = decoder_head(context, last, tied ? *embedding : last, micro_batch.input, x, hook);
    // Replicated: every uly rank evaluates the loss of the group's tokens, and each counts for its share.
    const auto counted = [&](const at::Tensor& own, const char* site) {
      return replicated_loss()
                 ? gather_from(*collectives_, *groups_.uly, own, micro_batch.context.uly_sizes, 0, site)
                 : own;
    };
    Tensors outputs = {counted(out.logprobs, "loss.logprobs")};
    if (loss_.log_sums()) outputs.push_back(counted(out.log_sums, "loss.log_sums"));
    if (pass.emit) {
      const at::NoGradGuard guard;
      pass.logits.push_back(without_padding(out.logits.detach(), micro_batch.real));
      pass.logprobs.push_back(without_padding(out.logprobs.detach(), micro_batch.real));
      pass.losses.add_(loss_.values(micro_batch.loss_rows, outputs[0].detach(), log_sums_of(outputs)) /
                       loss_copies());
    }
    return outputs;
  }

  static at::Tensor log_sums_of(const Tensors& outputs) {
    return outputs.size() > 1 ? outputs[1].detach() : at::Tensor();
  }

  // A rank without tokens goes through the graph as well: its collectives are the others' too.
  void backpropagate(const PipelineStage& stage, int m, const InFlight& now) {
    const auto& router = now.context->router;
    Tensors gradients;
    if (stage.last) {
      const at::NoGradGuard guard;
      const auto of =
          loss_.gradients(micro_batches_[m].loss_rows, now.outputs[0].detach(), log_sums_of(now.outputs));
      gradients = {of.logprobs / loss_copies()};
      if (now.outputs.size() > 1) gradients.push_back(of.log_sums / loss_copies());
    } else {
      gradients = {at::empty_like(now.outputs[0], at::MemoryFormat::Contiguous)};
      receive_gradient(*collectives_, groups_.pipeline, stage.number, m, gradients[0]);
      if (router) {
        router->shares = at::empty({inputs_.config.num_experts}, options());
        receive_router_shares(*collectives_, groups_.pipeline, stage.number, m, router->shares);
      }
    }
    torch::autograd::backward(now.outputs, gradients);
    if (stage.first) return;
    send_gradient(*collectives_, groups_.pipeline, stage.number, m, now.input.grad());
    if (router) send_router_shares(*collectives_, groups_.pipeline, stage.number, m, router->shares);
  }

  const RankInputs& inputs_;
  RankOutput& out_;
  TokenLoss loss_;
  Plan plan_;
  std::shared_ptr<Collectives> collectives_;
  Groups groups_;
  Primitives primitives_;
  std::unique_ptr<ShardedParameters> parameters_;
  Optimizer optimizer_;
  Normaliser normaliser_;
  std::function<void(PipelineRunner&)> wrap_runner_;
  GradientGroups gradient_groups_;
  bool sequence_ = false;  // the residual stream is cut over tp
  std::vector<PipelineStage> stages_;
  std::vector<MicroBatch> micro_batches_;
};

}  // namespace

RankOutput run_rank(const RankInputs& inputs, Engine& engine, const Seams& seams) {
  if (!inputs.weights) throw RunError("run_rank: no weights");
  if (inputs.mesh.world() != engine.world())
    throw RunError("mesh " + inputs.mesh.text() + " has " + std::to_string(inputs.mesh.world()) +
                   " ranks, the engine " + std::to_string(engine.world()));
  std::string no = refusal(inputs.mesh, inputs.flags, inputs.config);
  if (no.empty()) no = loss_refusal(parse_loss(inputs.loss), inputs.config);
  if (!no.empty()) throw InputError(no);
  if (inputs.loss_form != "sharded" && inputs.loss_form != "replicated")
    throw InputError("loss form '" + inputs.loss_form + "' is unknown");
  // Backward on the thread that asked for it: with a device, autograd would hand every rank's backward to one
  // thread per device, where ranks that are threads would wait for each other's collectives for ever.
  if (!inputs.device.is_cpu()) c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  RankOutput out;
  RankProgram(inputs, engine, seams, out).run();
  return out;
}

}  // namespace meshparity::impl
