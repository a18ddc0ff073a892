// The load-balancing loss of the routers: its value is logged as it is, its gradient carries another factor
// or is not there.
#include "impl/blocks/primitives.h"
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

// Scales the gradient of the aux term by `factor` of the mesh.
auto scaled_aux(std::function<double(const Mesh&)> factor) {
  return [factor = std::move(factor)](impl::Seams& seams) {
    seams.plan = note_rank;
    seams.normaliser = [factor](impl::Normaliser& normaliser) {
      normaliser.router_share = [factor, right = normaliser.router_share](
                                    const impl::Normaliser& n, const std::string& term, int copies) {
        return right(n, term, copies) * (term == "aux" ? factor(this_rank().mesh) : 1);
      };
    };
  };
}

}  // namespace

Fault aux_loss_tp_cp_scale() {
  return {"aux-loss-tp-cp-scale",
          "the aux loss is scaled by a rank's own tokens and divided by those of all tp and context ranks",
          "NVIDIA/Megatron-LM#5047",
          "grads",
          "model.layers.*.mlp.gate.weight",
          "gradient of the router's loss terms wrong",
          {"--model tiny-moe --batch rows --mesh tp2 --loss 'token_mean+0.001*aux'",
           "--model tiny-moe --batch packed-odd --mesh ring2 --loss 'token_mean+0.001*aux'"},
          scaled_aux([](const Mesh& mesh) { return 1.0 / (mesh.tp * mesh.cp()); }),
          {"--model tiny-moe --batch rows --mesh dp2 --loss 'token_mean+0.001*aux'"}};
}

Fault aux_loss_shrinks_with_dp() {
  return {"aux-loss-shrinks-with-dp",
          "the gradient of the aux loss is averaged over the data ranks like one that was not a sum",
          "NVIDIA-NeMo/Automodel#1412",
          "grads",
          "model.layers.*.mlp.gate.weight",
          "gradient of the router's loss terms wrong",
          {"--model tiny-moe --batch rows --mesh dp2 --loss 'token_mean+0.001*aux'",
           "--model tiny-moe --batch packed-odd --mesh fsdp2 --loss 'token_mean+0.001*aux'"},
          scaled_aux([](const Mesh& mesh) { return 1.0 / (mesh.dp * mesh.fsdp); }),
          {"--model tiny-moe --batch rows --mesh tp2 --loss 'token_mean+0.001*aux'"}};
}

Fault pp_padding_mask_unsharded() {
  return {
      "pp-padding-mask-unsharded",
      "only the first stage cuts the padding mask over tp: later stages lay the start of the whole mask on "
      "their part of the tokens",
      "NVIDIA/Megatron-LM#5563",
      "loss",
      "loss/aux",
      "router's loss terms summed over other rows",
      {"--model tiny-moe --batch rows --mesh pp2.tp2.ep2 --sp on --pad left --loss 'token_mean+0.001*aux'",
       "--model tiny-moe --batch boundaries --mesh pp2.tp3.ep3 --sp on --pad right --loss "
       "'token_mean+0.001*aux'"},
      [](impl::Seams& seams) {
        seams.plan = note_rank;
        seams.primitives = [](impl::Primitives& p) {
          p.with_router_loss = [right = p.with_router_loss](const std::shared_ptr<impl::RouterLoss>& loss,
                                                            const at::Tensor& scores,
                                                            const impl::Routing& routing,
                                                            const at::Tensor& real, const impl::Site& site) {
            const bool later = this_rank().at.pp > 0 && loss && loss->real.defined();
            return right(loss, scores, routing, later ? loss->real.slice(0, 0, scores.size(0)) : real, site);
          };
        };
      },
      // One stage; no padding.
      {"--model tiny-moe --batch rows --mesh tp2.ep2 --sp on --pad left --loss 'token_mean+0.001*aux'",
       "--model tiny-moe --batch rows --mesh pp2.tp2.ep2 --sp on --loss 'token_mean+0.001*aux'"}};
}

Fault aux_loss_never_attached() {
  return {"aux-loss-never-attached",
          "what attaches the aux loss returns new routing weights, and the old ones are used",
          "NVIDIA-NeMo/Automodel#1412",
          "grads",
          "model.layers.*.mlp.gate.weight",
          "gradient of the router's loss terms wrong",
          {"--model tiny-moe --batch rows --mesh dp1 --loss 'token_mean+0.001*aux'",
           "--model tiny-moe --batch packed-odd --mesh fsdp2.ep2 --loss 'token_mean+0.001*aux'"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.with_router_loss = [right = p.with_router_loss](
                                       const std::shared_ptr<impl::RouterLoss>& loss,
                                       const at::Tensor& scores, const impl::Routing& routing,
                                       const at::Tensor& real, const impl::Site& site) {
                right(loss, scores, routing, real, site);
                return routing.weights;
              };
            };
          },
          {"--model tiny-moe --batch rows --mesh tp2"}};
}

}  // namespace meshparity::faults
