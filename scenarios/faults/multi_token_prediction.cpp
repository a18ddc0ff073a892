// Multi-token prediction: its loss divided by another count than its own, and its part of the embedding's
// gradient lost on the way through a pipeline.
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

// Another weight of the loss's tokens; the main loss keeps its own. `weight` is given what is right.
auto weighted_mtp(std::function<double(const impl::Normaliser& counts, double right)> weight) {
  return [weight = std::move(weight)](impl::Seams& seams) {
    seams.plan = note_rank;
    seams.normaliser = [weight](impl::Normaliser& normaliser) {
      normaliser.weight = [weight, right = normaliser.weight](
                              const impl::Normaliser& counts, const std::string& term,
                              std::int64_t micro_batch, std::int64_t document) {
        const double value = right(counts, term, micro_batch, document);
        return term == "mtp" ? weight(counts, value) : value;
      };
    };
  };
}

// What the gradient of the next tokens' embeddings brings to the first stage is dropped there.
class NextEmbeddingsUnsynced : public PassOn {
 public:
  using PassOn::PassOn;
  void recv(const impl::Group& group, at::Tensor& x, int from, const impl::Site& site) override {
    PassOn::recv(group, x, from, site);
    const ThisRank& rank = this_rank();
    const bool of_first_stage = rank.at.pp == 0 && site.starts_with("stages.0.");
    if (of_first_stage && x.dim() == 2 && x.size(1) == 2 * rank.hidden) x.slice(1, rank.hidden).zero_();
  }
};

}  // namespace

Fault mtp_loss_div_cp() {
  return {"mtp-loss-div-cp",
          "the loss of multi-token prediction is averaged over the context ranks, whose gradients are summed",
          "NVIDIA/Megatron-LM#3959",
          "loss",
          "loss/mtp",
          "loss mtp *",
          {"--model tiny-vl --batch rows --mesh ring2 --loss 'token_mean+0.1*mtp'",
           "--model tiny-vl-moe --batch rows --mesh uly3 --loss 'token_mean+0.1*mtp'"},
          weighted_mtp([](const impl::Normaliser&, double right) { return right / this_rank().mesh.cp(); }),
          {"--model tiny-vl --batch rows --mesh dp2.tp2 --loss 'token_mean+0.1*mtp'"}};
}

Fault mtp_loss_main_token_count() {
  return {"mtp-loss-main-token-count",
          "the loss of multi-token prediction is divided by the labels of the main loss, of which every "
          "document has one more",
          "NVIDIA/Megatron-LM#3159",
          "loss",
          "loss/mtp",
          "loss mtp divided by the labels of the main loss",
          {"--model tiny-vl --batch rows --mesh dp1 --loss 'token_mean+0.1*mtp'",
           "--model tiny-vl-moe --batch rows --mesh fsdp2.ep2 --loss 'token_mean+0.1*mtp'"},
          weighted_mtp([](const impl::Normaliser& counts, double right) {
            return counts.tokens() > 0 ? 1 / counts.tokens() : right;
          }),
          {"--model tiny-vl --batch rows --mesh dp1"}};
}

Fault mtp_loss_not_averaged() {
  return {"mtp-loss-not-averaged",
          "the loss of multi-token prediction is summed over tokens and not divided",
          "NVIDIA/Megatron-LM#1532",
          "loss",
          "loss/mtp",
          "loss mtp not divided by its count of labels",
          {"--model tiny-vl --batch rows --mesh tp2 --loss 'token_mean+0.1*mtp'",
           "--model tiny-vl-moe --batch rows --mesh pp2 --loss 'token_mean+0.1*mtp'"},
          weighted_mtp([](const impl::Normaliser&, double) { return 1.0; }),
          {"--model tiny-vl --batch rows --mesh tp2"}};
}

Fault mtp_embed_replica_unsynced() {
  return {"mtp-embed-replica-unsynced",
          "the gradient of the embeddings that multi-token prediction reads on the last stage never joins "
          "that of the first stage's table",
          "NVIDIA-NeMo/Megatron-Bridge#5380",
          "grads",
          "model.embed_tokens.weight",
          "gradient of the next tokens' embeddings lost on the pipeline",
          {"--model tiny-vl --batch rows --mesh pp2 --loss 'token_mean+0.1*mtp'",
           "--model tiny-vl-moe --batch rows --mesh pp3.tp2 --loss 'token_mean+0.1*mtp'"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.collectives = wrap_collectives<NextEmbeddingsUnsynced>();
          },
          // One stage has one table; the main loss alone sends no such gradient.
          {"--model tiny-vl --batch rows --mesh tp2 --loss 'token_mean+0.1*mtp'",
           "--model tiny-vl --batch rows --mesh pp2"}};
}

}  // namespace meshparity::faults
