// Context parallelism, what travels between ranks: halos, states, heads and gradients that arrive damaged, in
// the wrong order, or not at all; and counts and gradients divided by the wrong number of ranks.
#include <limits>

#include "impl/blocks/primitives.h"
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

// The shard's loss is a number of its own where it holds no label: 0 / 0.
class NanWithoutLabels : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    if (site == "loss.counts") empty_ = x.sum().item<double>() == 0;
    const bool poisoned = site == "loss.values" && empty_;
    return PassOn::all_reduce(
        group, poisoned ? at::full_like(x, std::numeric_limits<double>::quiet_NaN()) : x, site);
  }

 private:
  bool empty_ = false;
};

// Counts whose sum over data ranks goes through `change(sum, ranks)`.
auto counted(std::function<at::Tensor(const at::Tensor& own, const at::Tensor& sum, double ranks)> change) {
  return [=](impl::Seams& seams) {
    seams.normaliser = [=](impl::Normaliser& normaliser) {
      normaliser.sum_over_data_ranks = [=, right = normaliser.sum_over_data_ranks](const at::Tensor& own) {
        const double ranks = right(at::ones({}, own.options())).item<double>();
        return change(own, right(own), ranks);
      };
    };
  };
}

const std::vector<std::string> kRingAndUlysses = {"--model tiny-dense --batch rows --mesh ring2",
                                                  "--model tiny-moe --batch single --mesh uly3"};

}  // namespace

Fault conv1d_cp_no_halo() {
  return {
      "conv1d-cp-no-halo",
      "the convolution sees zeros before the first token of every shard instead of the previous rank's last",
      "NVIDIA/Megatron-LM#2988",
      "logits",
      "logits",
      "*GatedDeltaNet of layer 0*",
      {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch packed-odd --mesh uly3"},
      damaged("*.halo*", [](const at::Tensor& x, const impl::Group&) { return at::zeros_like(x); })};
}

Fault cp_state_order_reversed() {
  return {"cp-state-order-reversed",
          "the states of earlier ranks are folded without the decay of the ranks between",
          "constructed from fla-org/flash-linear-attention#691",
          "logits",
          "logits",
          "*GatedDeltaNet of layer 0*",
          {"--model tiny-dense --batch single --mesh ring3", "--model tiny-moe --batch single --mesh uly3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.pass_states = [right = p.pass_states](impl::Collectives& collectives,
                                                      const impl::Group& group, const at::Tensor& extended,
                                                      const impl::StateTables& tables, std::int64_t heads,
                                                      std::int64_t key_dim, const impl::Site& site) {
                const std::int64_t wide = extended.size(1) / heads;
                at::Tensor keep =
                    at::ones({extended.size(0), heads, wide}, extended.options().requires_grad(false));
                at::Tensor maps = keep.slice(2, wide - key_dim);
                maps.zero_().index_fill_(0, tables.own_in_extended, 1);
                return right(collectives, group, extended * keep.view(extended.sizes()), tables, heads,
                             key_dim, site);
              };
            };
          },
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-dense --batch rows --mesh uly2"}};
}

Fault fla_cp_bwd_gate_offset() {
  return {"fla-cp-bwd-gate-offset",
          "the gradient of the state sent to earlier ranks is read at the wrong head",
          "fla-org/flash-linear-attention#1115",
          "grads",
          "model.layers.*.linear_attn.*",
          "backward pass wrong from *linear_attn*",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch single --mesh ring3"},
          damaged("*.states:backward", [](const at::Tensor& x, const impl::Group&) {
            return x.roll(x.size(1) / 2, 1).contiguous();
          })};
}

Fault a2a_head_seq_order_swapped() {
  return {
      "a2a-head-seq-order-swapped",
      "the all-to-all back from heads to tokens is put together as (rank, token) instead of (token, rank)",
      "deepspeedai/DeepSpeed#7331",
      "logits",
      "logits",
      "* of layer * computes something else",
      {"--model tiny-dense --batch rows --mesh uly2",
       "--model tiny-moe --batch single --mesh uly3 --gdn heads"},
      damaged("*.ulysses_out", [](const at::Tensor& x, const impl::Group& group) {
        const std::int64_t ranks = group.size(), n = x.size(0) / ranks;
        return x.view({n, ranks, x.size(1)}).transpose(0, 1).reshape(x.sizes());
      })};
}

Fault gdn_alog_dtbias_grad_replicated() {
  return {"gdn-alog-dtbias-grad-replicated",
          "A_log and dt_bias are replicated but each rank's gradient holds only its heads and is not summed "
          "over cp",
          "constructed; requirement in pytorch/pytorch#197487",
          "grads",
          "model.layers.*.linear_attn.*",
          "gradient all-reduce over uly missing",
          {"--model tiny-dense --batch rows --mesh uly2 --gdn heads",
           "--model tiny-moe --batch single --mesh uly3 --gdn heads"},
          [](impl::Seams& seams) {
            seams.plan = [](impl::Plan& plan, const Mesh&) {
              for (auto& row : plan.rows)
                if (row.name.ends_with("A_log") || row.name.ends_with("dt_bias")) row.sum_over_dp = false;
            };
          }};
}

Fault cp_local_token_count() {
  return {"cp-local-token-count",
          "every shard divides by its own count of labels and gradients are averaged over the context ranks",
          "NVIDIA/Megatron-LM#7513",
          "loss",
          "denominators/token_mean",
          "label count not summed over data ranks*",
          kRingAndUlysses,
          counted([](const at::Tensor& own, const at::Tensor&, double ranks) { return own * ranks; })};
}

Fault sp_count_overdivided() {
  return {"sp-count-overdivided",
          "the count of labels, already summed over the context ranks, is divided by their number",
          "huggingface/transformers#46775",
          "loss",
          "denominators/token_mean",
          "multiplied by *",
          kRingAndUlysses,
          counted([](const at::Tensor&, const at::Tensor& sum, double ranks) { return sum / ranks; })};
}

Fault cp_loss_extra_scale() {
  return {"cp-loss-extra-scale",
          "the loss is multiplied by the number of context ranks although gradients are summed",
          "NVIDIA/Megatron-LM#673",
          "loss",
          "loss/token_mean",
          "loss times a constant factor *",
          kRingAndUlysses,
          [](impl::Seams& seams) {
            seams.normaliser = [](impl::Normaliser& normaliser) {
              const auto ranks = std::make_shared<double>(1);
              normaliser.sum_over_data_ranks =
                  [=, right = normaliser.sum_over_data_ranks](const at::Tensor& own) {
                    *ranks = right(at::ones({}, own.options())).item<double>();
                    return right(own);
                  };
              normaliser.weight = [=, right = normaliser.weight](
                                      const impl::Normaliser& counts, const std::string& policy,
                                      std::int64_t micro_batch, std::int64_t document) {
                return *ranks * right(counts, policy, micro_batch, document);
              };
            };
          }};
}

Fault cp_correction_factor_dp_only() {
  return {"cp-correction-factor-dp-only",
          "gradients are averaged over the context ranks, the correction for it counts data ranks only",
          "NovaSky-AI/SkyRL#1420",
          "grads",
          "model.layers.*",
          "*averaged over *",
          kRingAndUlysses,
          damaged("gradients.dp",
                  [](const at::Tensor& x, const impl::Group& group) { return x / group.size(); })};
}

Fault sp_grad_divided_by_full_world() {
  return {
      "sp-grad-divided-by-full-world",
      "the gradient all-reduce divides by the size of the whole group instead of the data ranks'",
      "deepspeedai/DeepSpeed#5555",
      "grads",
      "model.layers.*",
      "all gradients divided by world",
      {"--model tiny-dense --batch rows --mesh dp2.uly2", "--model tiny-moe --batch rows --mesh dp2.uly3"},
      damaged("gradients.*dp",
              [](const at::Tensor& x, const impl::Group& group) { return x / group.size(); })};
}

Fault fully_masked_shard_nan() {
  return {"fully-masked-shard-nan",
          "a shard without any label divides its loss by zero",
          "NVIDIA/Megatron-LM#1764",
          "loss",
          "loss/token_mean",
          "not finite",
          {"--model tiny-dense --batch single --mesh ring8", "--model tiny-moe --batch single --mesh ring8"},
          [](impl::Seams& seams) { seams.collectives = wrap_collectives<NanWithoutLabels>(); }};
}

}  // namespace meshparity::faults
