// run_rank: builds this rank's objects, offers each to its seam, runs the steps, emits records.
#include "impl/train/program.h"

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include "harness/types/error.h"
#include "impl/blocks/mtp.h"
#include "impl/blocks/vision.h"
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
    parameters_ = std::make_unique<ShardedParameters>(plan_, weights_of(inputs), options(), dtypes,
                                                      collectives_, groups_.fsdp, groups_.experts);
    optimizer_ = make_adamw(*parameters_, inputs.train, collectives_, groups_.model);
    offer(seams.optimizer, optimizer_);

    if (has_images() && inputs.batch.position_ids.empty()) {
      positioned_ = inputs.batch;
      positioned_->position_ids = rope_index(inputs.batch, inputs.config);
    }
    TokenLayout layout = make_token_layout(positioned_ ? *positioned_ : inputs.batch, inputs.mesh,
                                           inputs.flags, engine.rank());
    if (seams.layout) seams.layout(layout, inputs.mesh, engine.rank());
    normaliser_ = Normaliser::count(layout, inputs.batch.documents(), inputs.train.num_tokens);
    normaliser_.sum_over_data_ranks = [this](const at::Tensor& counts) {
      return collectives_->all_reduce(*groups_.data, counts.to(inputs_.device), "loss.counts").to(at::kCPU);
    };
    normaliser_.counts_next_labels = loss_.next_logprobs();
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
      if (emit) record_all("grads/", parameters_->gradients(), inputs_.steps > 0);
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

  bool has_images() const { return !inputs_.batch.images.empty() || !inputs_.batch.videos.empty(); }
  bool replicated_loss() const { return inputs_.loss_form == "replicated" && inputs_.mesh.uly > 1; }
  // Over how many ranks the same loss is evaluated.
  int loss_copies() const { return replicated_loss() ? inputs_.mesh.uly : 1; }

  void record(std::string key, const at::Tensor& value) {
    out_.records.push_back({std::move(key), value.to(at::kCPU)});
  }

  // Every parameter's part of a flat buffer, copied once where the buffer will change.
  void record_all(const std::string& prefix, const at::Tensor& flat, bool changes = true) {
    const at::Tensor copy = !flat.is_cpu() ? flat.to(at::kCPU) : changes ? flat.clone() : flat;
    for (const auto& e : parameters_->entries())
      record(prefix + e.row->name, ShardedParameters::part(copy, e));
  }

  void build_micro_batches(const TokenLayout& layout, const Seams& seams) {
    const MicroBatchMaker maker{inputs_.config,
                                inputs_.mesh,
                                inputs_.flags,
                                plan_,
                                options(),
                                sequence_,
                                loss_.next_logprobs() ? layout.batch : nullptr,
                                seams.context,
                                seams.packing};
    if (inputs_.config.has_vision() && stages_.front().first) {
      PackingOptions packing;
      packing.dtype = inputs_.dtype, packing.device = inputs_.device;
      images_ =
          make_images(*layout.batch, inputs_.config, inputs_.mesh, inputs_.flags, plan_.at, layout, packing);
    }
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
    at::Tensor stream;                      // handed on; undefined on the last stage
    TokenValues values;                     // on the last stage: what the loss is computed from
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
    ActivationHook hook, vision_hook;
    if (!pass.activation_path.empty()) {
      const auto note = [&pass](const std::string& name, const at::Tensor& value) {
        auto& parts = pass.activations[name];
        if (parts.empty()) pass.activation_order.push_back(name);
        parts.push_back(value.detach());
      };
      // Of a batch without images there is nothing to show.
      if (has_images()) vision_hook = note;
      hook = [&micro_batch, note](const std::string& name, const at::Tensor& value) {
        note(name, without_padding(value, micro_batch.residual_real));
      };
    }
    std::optional<UnitWeights> embedding;
    at::Tensor x, next;  // next: the next tokens' embeddings, where the loss needs them
    const std::int64_t hidden = inputs_.config.hidden_size;
    if (stage.first) {
      embedding = parameters_->gather("embed");
      const bool vision = inputs_.config.has_vision();
      x = decoder_embed(*now.context, *embedding, micro_batch.input, vision ? nullptr : hook);
      if (loss_.next_logprobs()) next = mtp_embed(*now.context, *embedding, micro_batch.input);
      if (vision) {
        place_images(*now.context, *parameters_, *groups_.cp, images_[m], vision_hook, x, next);
        if (hook) hook("embed", x);
      }
    } else {
      // Next tokens' embeddings travel behind the stream, and their gradients return with it: the last stage
      // needs no table of its own, tied or not.
      const std::int64_t width = loss_.next_logprobs() ? 2 * hidden : hidden;
      now.input = at::empty({micro_batch.residual_sizes[plan_.at.tp], width}, options());
      receive_activation(*collectives_, groups_.pipeline, stage.number, m, now.input);
      if (router) receive_router_sums(*collectives_, groups_.pipeline, stage.number, m, router->sums);
      x = now.input.requires_grad_(pass.backward);
      if (loss_.next_logprobs()) next = x.slice(1, hidden), x = x.slice(1, 0, hidden).contiguous();
    }
    x = decoder_layers(*now.context, *parameters_, stage.layers, x, inputs_.flags.recompute, hook);
    if (stage.last) {
      now.values = head(micro_batch, *now.context, embedding, x, next, hook, pass);
      if (router) complete_router_loss(*router, m, pass);
    } else {
      now.stream = next.defined() ? at::cat({x, next}, 1) : x;
      send_activation(*collectives_, groups_.pipeline, stage.number, m, now.stream.detach());
      if (router) send_router_sums(*collectives_, groups_.pipeline, stage.number, m, router->sums);
    }
    return now;
  }

  // What the loss of this rank is computed from. `embedding`: where this stage has gathered it.
  TokenValues head(const MicroBatch& micro_batch, const BlockContext& context,
                   std::optional<UnitWeights>& embedding, const at::Tensor& x, const at::Tensor& next,
                   const ActivationHook& hook, Pass& pass) {
    const bool tied = inputs_.config.tie_word_embeddings;
    const UnitWeights last = parameters_->gather("head");
    if (tied && !embedding) embedding = parameters_->gather("embed");
    const UnitWeights& table = tied ? *embedding : last;
    const DecoderOutput top = decoder_head(context, last, table, micro_batch.input, x, hook);
    const HeadOutput& out = top.head;
    // Replicated: every uly rank evaluates the loss of the group's tokens, and each counts for its share.
    const auto counted = [&](const at::Tensor& own, const char* site) {
      return replicated_loss()
                 ? gather_from(*collectives_, *groups_.uly, own, micro_batch.context.uly_sizes, 0, site)
                 : own;
    };
    TokenValues values;
    values.logprobs = counted(out.logprobs, "loss.logprobs");
    if (loss_.log_sums()) values.log_sums = counted(out.log_sums, "loss.log_sums");
    if (next.defined())
      values.next_logprobs = counted(
          mtp_head(context, *parameters_, table, micro_batch.input, top.hidden, next, inputs_.flags.recompute)
              .logprobs,
          "loss.next_logprobs");
    if (pass.emit) {
      const at::NoGradGuard guard;
      pass.logits.push_back(without_padding(out.logits.detach(), micro_batch.real));
      pass.logprobs.push_back(without_padding(out.logprobs.detach(), micro_batch.real));
      pass.losses.add_(loss_.values(micro_batch.loss_rows, values) / loss_copies());
    }
    return values;
  }

  // A rank without tokens goes through the graph as well: its collectives are the others' too.
  void backpropagate(const PipelineStage& stage, int m, const InFlight& now) {
    const auto& router = now.context->router;
    Tensors outputs, gradients;
    if (stage.last) {
      const at::NoGradGuard guard;
      const TokenValues by = loss_.gradients(micro_batches_[m].loss_rows, now.values);
      for (const auto part : {&TokenValues::logprobs, &TokenValues::log_sums, &TokenValues::next_logprobs})
        if ((by.*part).defined())
          outputs.push_back(now.values.*part), gradients.push_back(by.*part / loss_copies());
    } else {
      outputs = {now.stream};
      gradients = {at::empty_like(now.stream, at::MemoryFormat::Contiguous)};
      receive_gradient(*collectives_, groups_.pipeline, stage.number, m, gradients[0]);
      if (router) {
        router->shares = at::empty({inputs_.config.num_experts}, options());
        receive_router_shares(*collectives_, groups_.pipeline, stage.number, m, router->shares);
      }
    }
    torch::autograd::backward(outputs, gradients);
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
  std::vector<MicroBatchImages> images_;  // of a model with a tower, on the first stage
  std::optional<Batch> positioned_;  // the batch with the positions its images give, where it brings none
};

}  // namespace

WeightSource weights_of(const RankInputs& inputs) {
  if (inputs.weight_source) return inputs.weight_source;
  return [all = inputs.weights](const std::string& name) {
    const auto found = all->find(name);
    return found == all->end() ? at::Tensor() : found->second;
  };
}

RankOutput run_rank(const RankInputs& inputs, Engine& engine, const Seams& seams) {
  if (!inputs.weights && !inputs.weight_source) throw RunError("run_rank: no weights");
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
