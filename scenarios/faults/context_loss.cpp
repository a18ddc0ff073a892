// Context parallelism and the loss: counts, divisors and gradients that belong to a shard where the whole
// batch's are due, or the reverse. What is logged and what is differentiated part in some of them.
#include "scenarios/faults/label_counts.h"

namespace meshparity::faults {
namespace {

bool has_context(const Mesh& mesh) {
  return mesh.cp() > 1;
}

// The loss of all tokens of the group, divided by this rank's own count of labels.
class OwnDivisor : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_gather(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    at::Tensor all = PassOn::all_gather(group, x, sizes, dim, site);
    if (site != "loss.weights" || group.size() == 1) return all;
    at::Tensor token_mean = all.select(0, impl::policy_index("token_mean"));
    token_mean.masked_fill_(token_mean.ne(0), label_counts().own > 0 ? 1 / label_counts().own : 0);
    return all;
  }
};

}  // namespace

Fault ulysses_replicated_loss_local_tokens() {
  return {"ulysses-replicated-loss-local-tokens",
          "the loss is gathered over the Ulysses group but divided by the shard's own count of labels",
          "modelscope/twinkle#138",
          "loss",
          "denominators/token_mean",
          "label count not summed over data ranks*",
          {"--model tiny-dense --batch rows --mesh uly2 --loss-form replicated",
           "--model tiny-moe --batch single --mesh uly3 --loss-form replicated"},
          [](impl::Seams& seams) {
            seams.collectives = wrap_collectives<OwnDivisor>();
            seams.normaliser = [](impl::Normaliser& normaliser) {
              note_counts(normaliser);
              normaliser.sum_over_data_ranks = [](const at::Tensor& own) { return own; };
            };
          }};
}

Fault ulysses_gradnorm_drift() {
  return {"ulysses-gradnorm-drift",
          "gradients are divided by the shard's own count of labels and those of GatedDeltaNet's heads are "
          "not sent back over the Ulysses group, at an equal loss",
          "modelscope/twinkle#127",
          "grad_norm",
          "grad_norm",
          "backward pass wrong from lm_head.weight on",
          {"--model tiny-dense --batch rows --mesh uly2 --gdn heads",
           "--model tiny-moe --batch single --mesh uly3 --gdn heads"},
          [](impl::Seams& seams) {
            scaled_gradient([](const LabelCounts& n) { return n.own > 0 ? n.all / (n.ranks * n.own) : 0; },
                            has_context)(seams);
            damaged("*.linear_attn.ulysses_in:backward", [](const at::Tensor& x, const impl::Group& group) {
              const std::int64_t rows = x.size(0) / group.size(), begin = group.rank() * rows;
              at::Tensor own = at::zeros_like(x);
              own.slice(0, begin, begin + rows).copy_(x.slice(0, begin, begin + rows));
              return own;
            })(seams);
          }};
}

Fault cp_3tuple_contract() {
  return {"cp-3tuple-contract",
          "the loss returns no count of labels with context parallelism: gradients are those of the sum",
          "verl-project/verl#6609",
          "grads",
          "model.layers.*",
          "all gradients multiplied by valid labels",
          {"--model tiny-dense --batch rows --mesh ring2", "--model tiny-moe --batch single --mesh uly3"},
          scaled_gradient([](const LabelCounts& n) { return n.all; }, has_context),
          {"--model tiny-dense --batch rows --mesh dp2"}};
}

Fault ulysses_accum_normalise() {
  return {"ulysses-accum-normalise",
          "sequence parallelism raises the number of accumulated micro-batches, their mean keeps the old "
          "divisor",
          "verl-project/verl#2857",
          "loss",
          "loss/micro_batch_mean",
          "loss micro_batch_mean multiplied by uly",
          {"--model tiny-dense --batch rows --mesh uly2 --loss micro_batch_mean",
           "--model tiny-dense --batch rows --mesh uly4 --loss micro_batch_mean"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.normaliser = [](impl::Normaliser& normaliser) {
              normaliser.weight = [right = normaliser.weight](const impl::Normaliser& n,
                                                              const std::string& policy, std::int64_t m,
                                                              std::int64_t d) {
                const double old = policy == "micro_batch_mean" ? this_rank().mesh.uly : 1;
                return old * right(n, policy, m, d);
              };
            };
          },
          {"--model tiny-dense --batch rows --mesh dp2 --loss micro_batch_mean"}};
}

}  // namespace meshparity::faults
