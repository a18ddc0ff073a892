// Rollout: what tokens are told and what is said of them: positions, experts, temperature, top-p.
#include "impl/blocks/primitives.h"
#include "impl/rollout/sampling.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/rollout_edit.h"

namespace meshparity::faults {
namespace {

using impl::RolloutEdit;
using impl::RolloutPass;

// The experts that a router would choose whose logits are rounded to bfloat16.
at::Tensor drifted_experts(const at::Tensor& logits, std::int64_t k) {
  return std::get<1>(logits.to(at::kBFloat16).to(logits.scalar_type()).topk(k, 1));
}

}  // namespace

Fault decode_position_counts_padding() {
  return {"decode-position-counts-padding",
          "positions of decoded tokens count the padding in front of the prompt",
          "constructed",
          "rollout",
          "rollout/log*",
          "what decoding finds in the caches, or where it stands",
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh dp1 --rollout pad=left",
           "--model tiny-moe --batch packed-odd --mesh fsdp2 --rollout-mesh dp2 --rollout pad=left"},
          edit_rollout([](RolloutEdit& edit) {
            edit.positions = [](const RolloutPass& pass, std::vector<std::int64_t> positions) {
              const std::size_t rows = pass.rows.size();
              for (std::size_t i = 0; pass.decode && i < positions.size(); ++i)
                positions[i] += pass.rows[i % rows].padding_cached;
              return positions;
            };
          }),
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh dp1"}};
}

Fault logprob_divided_not_logits() {
  return {"logprob-divided-not-logits",
          "the log-probability is divided by the temperature, and not the logits",
          "PrimeIntellect-ai/prime-rl#697",
          "rollout",
          "rollout/*logprobs",
          "log-probabilities of another temperature",
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2 --rollout temperature=0.7",
           "--model tiny-moe --batch single --mesh fsdp2 --rollout-mesh dp1 --rollout temperature=1.5"},
          edit_rollout([](RolloutEdit& edit) {
            edit.sample = [right = edit.sample](const impl::SampledTokens& tokens, const at::Tensor& logits,
                                                double temperature, double top_p) {
              impl::SampledLogprobs said = right(tokens, logits, 1, top_p);
              said.logprobs = said.logprobs / temperature, said.sampling = said.sampling / temperature;
              return said;
            };
          }),
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2"}};
}

Fault topp_renorm() {
  return {"topp-renorm",
          "log-probabilities of all tokens are those of the top-p set: higher by the log of its probability",
          "vllm-project/vllm#42259",
          "rollout",
          "rollout/logprobs",
          "log-probabilities renormalised over the top-p set",
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2 --rollout top_p=0.8",
           "--model tiny-moe --batch single --mesh fsdp2 --rollout-mesh dp1 --rollout top_p=0.9"},
          edit_rollout([](RolloutEdit& edit) {
            edit.sample = [right = edit.sample](const impl::SampledTokens& tokens, const at::Tensor& logits,
                                                double temperature, double top_p) {
              impl::SampledLogprobs said = right(tokens, logits, temperature, top_p);
              said.logprobs = at::where(said.in_support.ne(0), said.sampling, said.logprobs);
              return said;
            };
          }),
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2"}};
}

Fault router_mismatch_baseline() {
  return {"router-mismatch-baseline",
          "replay is asked for and the rollout routes for itself, by logits rounded to bfloat16",
          "NVIDIA/Megatron-LM#4256",
          "rollout",
          "rollout/routes/layers.*",
          "replayed routes not taken",
          {"--model tiny-moe --batch rows --mesh fsdp2.ep2 --rollout-mesh tp2.ep2 --rollout replay=on",
           "--model tiny-moe --batch boundaries --mesh dp1 --rollout-mesh dp2 --rollout replay=on"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.route = [route_to = p.route_to](const at::Tensor& logits, std::int64_t k) {
                return route_to(logits, drifted_experts(logits, k));
              };
            };
            seams.rollout = [](RolloutEdit& edit) {
              edit.replayed = [](const at::Tensor&, const at::Tensor& routed) { return routed; };
            };
          }};
}

Fault r3_misaligned() {
  return {"r3-misaligned",
          "replayed routes are shifted by one token",
          "NovaSky-AI/SkyRL#1908",
          "rollout",
          "rollout/routes/layers.*",
          "replayed routes *",
          {"--model tiny-moe --batch rows --mesh fsdp2.ep2 --rollout-mesh tp2.ep2 --rollout replay=on",
           "--model tiny-moe --batch packed-odd --mesh dp1 --rollout-mesh dp2 --rollout replay=on:pad=left"},
          edit_rollout([](RolloutEdit& edit) {
            edit.replayed = [](const at::Tensor& given, const at::Tensor&) { return given.roll(1, 0); };
          }),
          {"--model tiny-moe --batch rows --mesh fsdp2.ep2 --rollout-mesh tp2.ep2"}};
}

Fault r3_scores_from_topk_zeroed() {
  return {"r3-scores-from-topk-zeroed",
          "the weights of replayed experts are read from probabilities that are zero outside the rollout's "
          "own top-k, "
          "which rounding of its logits to bfloat16 moves",
          "ISEEKYAN/Megatron-LM#79",
          "rollout",
          "rollout/log*",
          "prefill",
          {"--model tiny-moe --batch rows --mesh fsdp2.ep2 --rollout-mesh tp2.ep2 --rollout replay=on",
           "--model tiny-moe --batch rows --mesh dp1 --rollout-mesh dp2 --rollout replay=on"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.route_to = [](const at::Tensor& logits, const at::Tensor& experts) {
                const at::Tensor all = at::softmax(logits, 1);
                const at::Tensor own = drifted_experts(logits, experts.size(1));
                const at::Tensor kept = at::zeros_like(all).scatter(1, own, all.gather(1, own));
                const at::Tensor weights = kept.gather(1, experts);
                return impl::Routing{weights / weights.sum(1, true), experts};
              };
            };
          },
          // The router's own experts have all their weights.
          {"--model tiny-moe --batch rows --mesh fsdp2.ep2 --rollout-mesh tp2.ep2"}};
}

}  // namespace meshparity::faults
