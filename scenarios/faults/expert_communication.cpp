// Expert parallelism: rows that go to the experts and come back, the gradients that should come back with
// them, and the ranks over which expert gradients are summed.
#include <algorithm>
#include <numeric>

#include "impl/blocks/primitives.h"
#include "impl/parallel/data.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

using impl::Tensors;

// Experts [T, k] that were routed last on this rank.
at::Tensor& last_routed() {
  thread_local at::Tensor experts;
  return experts;
}

// x in forward, `factor` times its gradient in backward.
at::Tensor times_in_backward(const at::Tensor& x, double factor) {
  at::Tensor y;
  {
    const impl::BelowAutograd guard;
    y = impl::shared_view(x);
  }
  return impl::attach("times_in_backward", {x}, {y},
                      [factor](const Tensors& grads) { return Tensors{grads[0] * factor}; })[0];
}

// The first rows of x, or x and rows of zeros behind it: a buffer of another size.
at::Tensor with_rows(const at::Tensor& x, std::int64_t rows) {
  if (rows <= x.size(0)) return x.slice(0, 0, rows).contiguous();
  return at::cat({x, at::zeros({rows - x.size(0), x.size(1)}, x.options())});
}

class SwappedSplits : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_to_all(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& send,
                        const std::vector<std::int64_t>& recv, const impl::Site& site) override {
    if (group.size() == 1 || !glob_match("*.mlp.experts.combine*", site))
      return PassOn::all_to_all(group, x, send, recv, site);
    const std::int64_t due = std::accumulate(recv.begin(), recv.end(), std::int64_t{0});
    return with_rows(PassOn::all_to_all(group, with_rows(x, due), recv, send, site), due);
  }
};

}  // namespace

Fault router_probs_nondiff_gather() {
  return {
      "router-probs-nondiff-gather",
      "the routing weights reach the combine of expert parallelism through a collective without gradient: "
      "the router is detached from the loss",
      "NVIDIA-NeMo/Automodel#2995",
      "grads",
      "model.layers.*.mlp.gate.weight",
      "gradient never arrived",
      {"--model tiny-moe --batch rows --mesh uly2.ep2", "--model tiny-moe --batch rows --mesh fsdp2.ep2"},
      [](impl::Seams& seams) {
        seams.primitives = [](impl::Primitives& p) {
          p.combine = [right = p.combine](const at::Tensor& pairs, const at::Tensor& weights) {
            return right(pairs, weights.detach());
          };
        };
      },
      // All experts at home: nothing is gathered.
      {"--model tiny-moe --batch rows --mesh dp2"}};
}

Fault ep_router_grad_wrong_kernel() {
  return {
      "ep-router-grad-wrong-kernel",
      "the routing weights of experts on other ranks are masked in backward: the router's gradient misses "
      "every remote expert",
      "huggingface/transformers#48687",
      "grads",
      "model.layers.*.mlp.gate.weight",
      "backward pass wrong from model.layers.4.mlp.gate.weight on",
      {"--model tiny-moe --batch rows --mesh uly2.ep2", "--model tiny-moe --batch rows --mesh fsdp3.ep3"},
      [](impl::Seams& seams) {
        seams.plan = note_rank;
        seams.primitives = [](impl::Primitives& p) {
          p.route = [right = p.route](const at::Tensor& logits, std::int64_t k) {
            impl::Routing routing = right(logits, k);
            last_routed() = routing.experts;
            return routing;
          };
          p.combine = [right = p.combine](const at::Tensor& pairs, const at::Tensor& weights) {
            const Range held = this_rank().experts;
            const at::Tensor local = last_routed().ge(held.begin).logical_and(last_routed().lt(held.end));
            return right(pairs, at::where(local, weights, weights.detach()));
          };
        };
      },
      {"--model tiny-moe --batch rows --mesh tp2"}};
}

Fault edp_group_wrong() {
  return {"edp-group-wrong",
          "expert gradients are summed over the data-parallel ranks of the dense layers, not over those that "
          "hold the same experts",
          "NVIDIA/Megatron-LM#5916",
          "grads",
          "model.layers.*.mlp.experts.*",
          "gradient all-reduce over tp missing|gradients of other experts added",
          {"--model tiny-moe --batch rows --mesh tp2.etp1", "--model tiny-moe --batch rows --mesh uly3.ep3"},
          [](impl::Seams& seams) {
            seams.gradient_groups = [](impl::GradientGroups& groups) {
              groups.expert_replicas = groups.replicas;
            };
          },
          // Where experts are cut as the dense layers are, both groups are the same ranks.
          {"--model tiny-moe --batch rows --mesh dp2.tp2"}};
}

Fault expert_grad_times_ep() {
  return {"expert-grad-times-ep",
          "expert gradients already hold the tokens of all ep ranks, and are averaged over expert-data ranks "
          "as if they held one rank's",
          "pytorch/pytorch#160285",
          "grads",
          "model.layers.*.mlp.experts.*",
          "multiplied by *ep*",
          {"--model tiny-moe --batch rows --mesh ring4.ep2",
           "--model tiny-moe --batch rows --mesh ring2.tp2.ep4"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.primitives = [](impl::Primitives& p) {
              p.experts_ffn = [right = p.experts_ffn](const at::Tensor& x, const impl::Routing& routing,
                                                      const at::Tensor& gate_up, const at::Tensor& down) {
                const double ep = this_rank().mesh.ep;
                return right(x, routing, times_in_backward(gate_up, ep), times_in_backward(down, ep));
              };
            };
          },
          {"--model tiny-moe --batch rows --mesh tp2"}};
}

Fault ep_permute_unstable() {
  return {"ep-permute-unstable",
          "rows of one expert come back in another order than they left: tokens that share an expert are "
          "swapped",
          "constructed",
          "logits",
          "logits",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh uly2.ep2",
           "--model tiny-moe --batch packed-odd --mesh fsdp2.ep2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.expert_routes = [right = p.expert_routes](const impl::ExpertParallel& ep,
                                                          const at::Tensor& experts,
                                                          std::int64_t expert_count, const impl::Site& site) {
                impl::ExpertRoutes routes = right(ep, experts, expert_count, site);
                // Rows lie expert by expert; every expert's are read backwards.
                const at::Tensor chosen = experts.flatten();
                const at::Tensor counts = chosen.bincount({}, expert_count), end = counts.cumsum(0);
                const at::Tensor both = end + (end - counts) - 1;
                routes.row_of_pair = both.index_select(0, chosen) - routes.row_of_pair;
                return routes;
              };
            };
          },
          {"--model tiny-moe --batch rows --mesh tp2"}};
}

Fault ep_uneven_split_swap() {
  return {"ep-uneven-split-swap",
          "the all-to-all back from the experts is given its send and receive counts the wrong way round",
          "constructed",
          "logits",
          "logits",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh uly2.ep2",
           "--model tiny-moe --batch packed-odd --mesh fsdp3.ep3"},
          [](impl::Seams& seams) { seams.collectives = wrap_collectives<SwappedSplits>(); },
          {"--model tiny-moe --batch rows --mesh tp2"}};
}

Fault gradnorm_expert_undercount() {
  return {"gradnorm-expert-undercount",
          "expert gradients are filtered by the ownership of dense tensors: those of tp rank 0 alone enter "
          "the norm",
          "radixark/Megatron-LM#80",
          "grad_norm",
          "grad_norm",
          "gradient norm counts the experts of tp index 0 only",
          {"--model tiny-moe --batch rows --mesh tp2.ep2", "--model tiny-moe --batch rows --mesh tp3.ep3"},
          [](impl::Seams& seams) {
            seams.plan = [](impl::Plan& plan, const Mesh&) {
              for (auto& row : plan.rows)
                if (row.expert && plan.at.tp > 0) row.counts_in_norm = false;
            };
          },
          {"--model tiny-moe --batch rows --mesh dp2"}};
}

}  // namespace meshparity::faults
