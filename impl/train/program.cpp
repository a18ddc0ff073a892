// run_rank: builds this rank's objects, offers each to its seam, runs the steps, emits records.
#include "impl/train/program.h"

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include "harness/types/cut.h"
#include "harness/types/error.h"
#include "impl/blocks/decoder.h"
#include "impl/parallel/data.h"
#include "impl/parallel/index_tensor.h"
#include "impl/parallel/pipeline.h"
#include "impl/parallel/pipeline_messages.h"
#include "impl/train/loss.h"
#include "impl/train/optimizer.h"

namespace meshparity::impl {
namespace {

struct Groups {
  std::shared_ptr<Group> tp, kv_replicas, fsdp, replicas, expert_replicas, experts, ep, data, model, ring,
      uly, cp, everyone, tied;
  PipelineGroups pipeline;
};

// Every rank asks for its groups in the same order, as engines over processes need.
Groups make_groups(Engine& engine, const Plan& plan) {
  const Mesh& mesh = plan.mesh;
  const RankCoordinate at = plan.at;
  const auto among_all = [&](auto&& choose) {
    std::vector<int> list;
    for (int rank = 0; rank < mesh.world(); ++rank)
      if (choose(coordinate_of(mesh, rank))) list.push_back(rank);
    return list;
  };
  // Of this rank's pipeline stage.
  const auto members = [&](auto&& choose) {
    return among_all([&](const RankCoordinate& c) { return c.pp == at.pp && choose(c); });
  };
  const auto same_tp = [&](const RankCoordinate& c) { return c.tp == at.tp; };
  const auto same_ring = [&](const RankCoordinate& c) { return c.ring == at.ring; };
  const auto same_uly = [&](const RankCoordinate& c) { return c.uly == at.uly; };
  const auto same_cp = [&](const RankCoordinate& c) { return same_ring(c) && same_uly(c); };
  const auto same_data = [&](const RankCoordinate& c) { return c.fsdp == at.fsdp && c.dp == at.dp; };
  const auto same_dp = [&](const RankCoordinate& c) { return c.dp == at.dp; };
  const auto same_data_and_cp = [&](const RankCoordinate& c) { return same_data(c) && same_cp(c); };
  Groups g;
  g.tp = engine.group("tp", members(same_data_and_cp));
  const std::vector<int> replicas = plan.kv_replicas();
  g.kv_replicas = engine.group("tp.kv", members([&](const auto& c) {
                                 return same_data(c) && same_cp(c) &&
                                        std::find(replicas.begin(), replicas.end(), c.tp) != replicas.end();
                               }));
  g.fsdp =
      engine.group("fsdp", members([&](const auto& c) { return same_dp(c) && same_cp(c) && same_tp(c); }));
  // Ranks that hold the same parameters and saw other tokens; all ranks with other tokens.
  g.replicas = engine.group("dp.cp", members([&](const auto& c) { return c.fsdp == at.fsdp && same_tp(c); }));
  g.expert_replicas = g.replicas, g.experts = g.fsdp;
  const ExpertCoordinate own = plan.expert_at;
  const auto same_experts = [&](const RankCoordinate& c) {
    const ExpertCoordinate e = expert_coordinate_of(mesh, c);
    return e.ep == own.ep && e.etp == own.etp;
  };
  if (plan.experts_apart())
    g.experts = engine.group("edp", members([&](const auto& c) { return same_dp(c) && same_experts(c); }));
  // Experts that are sharded are so over all of edp: what remains are the replicas over dp.
  if (mesh.fsdp > 1 && mesh.cp() > 1)
    g.expert_replicas = engine.group(
        "dp", members([&](const auto& c) { return c.fsdp == at.fsdp && same_cp(c) && same_tp(c); }));
  if (mesh.fsdp == 1 && mesh.ep * mesh.expert_tp() != mesh.tp)
    g.expert_replicas = engine.group("dp.edp", members(same_experts));
  g.ep = engine.group("ep", members([&](const auto& c) {
                        const ExpertCoordinate e = expert_coordinate_of(mesh, c);
                        return same_dp(c) && e.edp == own.edp && e.etp == own.etp;
                      }));
  g.data = engine.group("dp.fsdp.cp", members(same_tp));
  // Who sees the losses, and who together hold one copy of the model.
  g.everyone = mesh.pp == 1 ? g.data : engine.group("pp.dp.fsdp.cp", among_all(same_tp));
  g.model = engine.group(mesh.pp == 1 ? "fsdp.cp.tp" : "pp.fsdp.cp.tp", among_all(same_dp));
  g.cp = engine.group("cp", members([&](const auto& c) { return same_data(c) && same_tp(c); }));
  g.ring =
      engine.group("ring", members([&](const auto& c) { return same_data(c) && same_uly(c) && same_tp(c); }));
  g.uly =
      engine.group("uly", members([&](const auto& c) { return same_data(c) && same_ring(c) && same_tp(c); }));
  const auto same_place = [&](const RankCoordinate& c) { return same_data_and_cp(c) && same_tp(c); };
  if (mesh.pp > 1) {
    g.pipeline = make_pipeline_groups(engine, among_all(same_place));
    if (at.pp == 0 || at.pp == mesh.pp - 1)
      g.tied = engine.group("pp.embedding", among_all([&](const RankCoordinate& c) {
                              return same_place(c) && (c.pp == 0 || c.pp == mesh.pp - 1);
                            }));
  }
  return g;
}

// One micro-batch as the model takes it; the same in every step.
struct MicroBatch {
  PackedTokens packed;
  ContextTables context;
  DecoderInput input;
  at::Tensor weights;  // [policies, T] loss weights; of all tokens over uly where the loss is replicated
  std::vector<std::int64_t> residual_sizes;
  // Places of what is not padding, among this rank's tokens and among its part of the residual stream.
  at::Tensor real, residual_real;
};

// What is emitted holds no padding.
at::Tensor without_padding(const at::Tensor& x, const at::Tensor& real) {
  return real.defined() ? x.index_select(0, real) : x;
}

template <class T>
void offer(const std::function<void(T&)>& hook, T& object) {
  if (hook) hook(object);
}

class RankProgram {
 public:
  RankProgram(const RankInputs& inputs, Engine& engine, const Seams& seams, RankOutput& out)
      : inputs_(inputs), out_(out), policy_(policy_index(inputs.loss)) {
    plan_ = make_plan(inputs.config, inputs.mesh, inputs.flags, engine.rank());
    if (seams.plan) seams.plan(plan_, inputs.mesh);
    collectives_ = make_collectives(&out.communication, inputs.ordered_reductions);
    if (seams.collectives) collectives_ = seams.collectives(collectives_);
    groups_ = make_groups(engine, plan_);
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
    edit_context_ = seams.context, edit_packing_ = seams.packing, wrap_runner_ = seams.pipeline;
    gradient_groups_ = {groups_.tp, groups_.kv_replicas, groups_.replicas, groups_.expert_replicas,
                        groups_.tied};
    offer(seams.gradient_groups, gradient_groups_);
    offer(seams.normaliser, normaliser_);
    normaliser_.globalise();
    sequence_ = layout.sequence;
    build_micro_batches(layout);
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

  void build_micro_batches(const TokenLayout& layout) {
    PackingOptions packing;
    packing.dtype = inputs_.dtype;
    packing.device = inputs_.device;
    for (std::size_t m = 0; m < layout.micro_batches.size(); ++m) {
      const MicroBatchTokens& tokens = layout.micro_batches[m];
      MicroBatch micro_batch;
      const Mesh& mesh = inputs_.mesh;
      if (mesh.cp() == 1) {
        micro_batch.packed = pack_tokens(tokens.documents, tokens.positions, inputs_.config, packing);
      } else {
        micro_batch.packed = pack_positions(tokens.positions, inputs_.config, packing);
        micro_batch.context = make_context_tables(tokens.stream, tokens.stream_documents, mesh, inputs_.flags,
                                                  cp_index(mesh, plan_.at), inputs_.config, packing);
        if (edit_context_) {
          ContextEdit edit{micro_batch.context,     tokens.stream,
                           tokens.stream_documents, mesh,
                           inputs_.flags,           cp_index(mesh, plan_.at),
                           inputs_.config,          packing};
          edit_context_(edit);
        }
      }
      PackingEdit edit{micro_batch.packed, tokens, static_cast<std::int64_t>(m), inputs_.config};
      offer(edit_packing_, edit);
      micro_batch.input.ids = index_tensor(tokens.ids, inputs_.device);
      micro_batch.input.labels = index_tensor(tokens.labels, inputs_.device);
      micro_batch.input.vocabulary_begin = plan_.vocabulary().begin;
      micro_batch.weights =
          normaliser_.weights(tokens, static_cast<std::int64_t>(m), inputs_.dtype).to(inputs_.device);
      if (replicated_loss())
        micro_batch.weights = collectives_->all_gather(*groups_.uly, micro_batch.weights,
                                                       micro_batch.context.uly_sizes, 1, "loss.weights");
      micro_batch.residual_sizes = tokens.residual_sizes;
      if (inputs_.flags.pad != "none") {
        const std::vector<std::int64_t> real = tokens.real();
        const Range own = sequence_ ? cut(tokens.tokens(), mesh.tp, plan_.at.tp) : Range{0, tokens.tokens()};
        std::vector<std::int64_t> residual;
        for (const std::int64_t i : real)
          if (i >= own.begin && i < own.end) residual.push_back(i - own.begin);
        micro_batch.real = index_tensor(real, inputs_.device);
        micro_batch.residual_real = index_tensor(residual, inputs_.device);
      }
      micro_batches_.push_back(std::move(micro_batch));
    }
  }

  BlockContext context_of(const MicroBatch& micro_batch) {
    BlockContext context{inputs_.config, primitives_, {}, {}, &micro_batch.packed, {}};
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
    at::Tensor output;                      // the stream handed on; on the last stage the logprobs that count
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
    pass.losses = at::zeros({static_cast<std::int64_t>(kLossPolicies.size())}, options());
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
    for (std::size_t p = 0; p < kLossPolicies.size(); ++p) {
      record(std::string("loss/") + kLossPolicies[p], losses[static_cast<std::int64_t>(p)].clone());
      record(std::string("denominators/") + kLossPolicies[p], normaliser_.denominator(kLossPolicies[p]));
    }
  }

  InFlight forward(const PipelineStage& stage, int m, Pass& pass) {
    const MicroBatch& micro_batch = micro_batches_[m];
    const at::AutoGradMode mode(pass.backward);
    InFlight now;
    now.context = std::make_unique<BlockContext>(context_of(micro_batch));
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
      now.input = x.requires_grad_(pass.backward);
    }
    x = decoder_layers(*now.context, *parameters_, stage.layers, x, inputs_.flags.recompute, hook);
    if (stage.last) {
      now.output = head(micro_batch, *now.context, embedding, x, hook, pass);
    } else {
      send_activation(*collectives_, groups_.pipeline, stage.number, m, x.detach());
      now.output = x;
    }
    return now;
  }

  // The logprobs that count in the loss of this rank. `embedding`: where this stage has gathered it.
  at::Tensor head(const MicroBatch& micro_batch, const BlockContext& context,
                  std::optional<UnitWeights>& embedding, const at::Tensor& x, const ActivationHook& hook,
                  Pass& pass) {
    const bool tied = inputs_.config.tie_word_embeddings;
    const UnitWeights last = parameters_->gather("head");
    if (tied && !embedding) embedding = parameters_->gather("embed");
    const HeadOutput out = decoder_head(context, last, tied ? *embedding : last, micro_batch.input, x, hook);
    // Replicated: every uly rank evaluates the loss of the group's tokens, and each counts for its share.
    const at::Tensor counted = replicated_loss()
                                   ? gather_from(*collectives_, *groups_.uly, out.logprobs,
                                                 micro_batch.context.uly_sizes, 0, "loss.logprobs")
                                   : out.logprobs;
    if (pass.emit) {
      const at::NoGradGuard guard;
      pass.logits.push_back(without_padding(out.logits.detach(), micro_batch.real));
      pass.logprobs.push_back(without_padding(out.logprobs.detach(), micro_batch.real));
      pass.losses.sub_(at::mv(micro_batch.weights, counted.detach()) / loss_copies());
    }
    return counted;
  }

  // A rank without tokens goes through the graph as well: its collectives are the others' too.
  void backpropagate(const PipelineStage& stage, int m, const InFlight& now) {
    at::Tensor gradient;
    if (stage.last) {
      gradient = micro_batches_[m].weights.select(0, policy_).neg() / loss_copies();
    } else {
      gradient = at::empty_like(now.output, at::MemoryFormat::Contiguous);
      receive_gradient(*collectives_, groups_.pipeline, stage.number, m, gradient);
    }
    torch::autograd::backward({now.output}, {gradient});
    if (!stage.first) send_gradient(*collectives_, groups_.pipeline, stage.number, m, now.input.grad());
  }

  const RankInputs& inputs_;
  RankOutput& out_;
  std::int64_t policy_;
  Plan plan_;
  std::shared_ptr<Collectives> collectives_;
  Groups groups_;
  Primitives primitives_;
  std::unique_ptr<ShardedParameters> parameters_;
  Optimizer optimizer_;
  Normaliser normaliser_;
  std::function<void(ContextEdit&)> edit_context_;
  std::function<void(PackingEdit&)> edit_packing_;
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
  const std::string no = refusal(inputs.mesh, inputs.flags, inputs.config);
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
