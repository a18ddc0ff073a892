// Right gradients, wrong step: buffers not cleared, clipping that differs between replicas, steps counted per
// micro-batch, parameters written without their master copy, idle experts left out.
#include "impl/parallel/token_layout.h"
#include "impl/train/optimizer.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {

Fault grad_buffer_dirty_after_gather() {
  return {"grad-buffer-dirty-after-gather",
          "the gradient buffer receives the gathered parameters after a step and is not cleared",
          "NVIDIA/Megatron-LM#4609",
          "weights",
          "step2/model.layers.*",
          "gradient buffer not cleared: it still holds parameters",
          {"--model tiny-dense --batch rows --mesh fsdp2", "--model tiny-moe --batch rows --mesh fsdp3"},
          [](impl::Seams& seams) {
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.zero_gradients = [right = optimizer.zero_gradients, parameters = optimizer.parameters,
                                          steps = optimizer.steps] {
                right();
                at::Tensor gradients = parameters->gradients();
                if (*steps > 0) gradients.copy_(parameters->values());
              };
            };
          }};
}

Fault clip_norms_desync() {
  return {
      "clip-bf16-ln-desync",
      "gradients of replicated norm weights are clipped on tp rank 0 only, so replicas part once clipping "
      "acts",
      "deepspeedai/DeepSpeed#1801",
      "replicas",
      "weights",
      "replicas part in step 1*",
      {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch rows --mesh fsdp2.tp3"},
      [](impl::Seams& seams) {
        seams.plan = note_rank;
        seams.optimizer = [](impl::Optimizer& optimizer) {
          optimizer.step = [right = optimizer.step, parameters = optimizer.parameters](double scale) {
            if (this_rank().at.tp > 0)
              for (const auto& e : parameters->entries())
                if (e.row->tp_dim < 0 && glob_match("*norm.weight", e.row->name))
                  parameters->gradients().slice(0, e.offset, e.offset + e.numel).div_(scale);
            right(scale);
          };
        };
      }};
}

Fault clip_coefficient_uncapped() {
  return {
      "clip-coefficient-uncapped",
      "the clipping coefficient is not held at 1, so gradients below the limit are scaled up to it",
      "constructed",
      "weights",
      "step1/model.layers.*",
      "clipping coefficient not held at 1",
      {"--model tiny-dense --batch boundaries --mesh fsdp2.tp2 --steps 3",
       "--model tiny-moe --batch boundaries --mesh ring2.ep2 --steps 3"},
      [](impl::Seams& seams) {
        seams.optimizer = [](impl::Optimizer& optimizer) {
          constexpr double kFarAbove = 1e200;  // what is clipped for sure tells the limit
          const double limit = optimizer.clip_scale(kFarAbove) * kFarAbove;
          optimizer.clip_scale = [limit](double norm) { return limit / (norm + 1e-6); };
        };
      },
      // Above the limit the cap does nothing.
      {"--model tiny-dense --batch rows --mesh fsdp2.tp2", "--model tiny-moe --batch rows --mesh ring2.ep2"}};
}

Fault step_count_per_rank() {
  return {"step-count-per-rank",
          "Adam's step is advanced once per micro-batch, so the bias correction is that of a later step",
          "constructed",
          "weights",
          "step1/model.layers.*",
          "bias correction of step 3 in step 1",
          {"--model tiny-dense --batch rows --mesh dp2", "--model tiny-moe --batch rows --mesh tp2"},
          [](impl::Seams& seams) {
            seams.layout = note_batch;
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.step = [right = optimizer.step, steps = optimizer.steps](double scale) {
                *steps += this_rank().micro_batches - 1;
                right(scale);
              };
            };
          }};
}

Fault master_weight_not_refreshed() {
  return {"master-weight-not-refreshed",
          "the step starts from a master copy that never received the previous update",
          "TTrace, arXiv 2506.09280",
          "weights",
          "step2/model.layers.*",
          "update applied to the weights of an earlier step",
          {"--model tiny-dense --batch rows --mesh fsdp2", "--model tiny-moe --batch rows --mesh tp2"},
          [](impl::Seams& seams) {
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.step = [right = optimizer.step, parameters = optimizer.parameters,
                                master = at::Tensor()](double scale) mutable {
                at::Tensor values = parameters->values();
                const at::NoGradGuard guard;
                if (master.defined())
                  values.copy_(master);
                else
                  master = values.clone();
                right(scale);
              };
            };
          }};
}

Fault moe_param_sync_zeros() {
  return {"moe-param-sync-zeros",
          "the dense optimizer's parameter sync clears the shared buffer before the experts' optimizer has "
          "written its shards",
          "NVIDIA/Megatron-LM#4769",
          "weights",
          "step1/model.layers.*.mlp.experts.*",
          "all zero",
          {"--model tiny-moe --batch rows --mesh uly2.ep2", "--model tiny-moe --batch rows --mesh fsdp2.ep2"},
          [](impl::Seams& seams) {
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.step = [right = optimizer.step, parameters = optimizer.parameters](double scale) {
                right(scale);
                const at::NoGradGuard guard;
                for (const auto& e : parameters->entries())
                  if (e.row->expert) impl::ShardedParameters::part(parameters->values(), e).zero_();
              };
            };
          },
          // One optimizer alone.
          {"--model tiny-dense --batch rows --mesh fsdp2"}};
}

Fault idle_expert_not_stepped() {
  return {"ep-idle-expert-grad-none",
          "an expert without tokens has no gradient and the optimizer leaves it out: no decay, no momentum",
          "NVIDIA-NeMo/Automodel#2995",
          "weights",
          "step1/model.layers.*.mlp.experts.*",
          "part of the weights not updated in step 1",
          {"--model tiny-moe --batch rows --mesh dp1", "--model tiny-moe --batch rows --mesh fsdp2.tp2"},
          [](impl::Seams& seams) {
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.step = [right = optimizer.step, parameters = optimizer.parameters](double scale) {
                using Parameters = impl::ShardedParameters;
                const at::NoGradGuard guard;
                const at::Tensor before = parameters->values().clone();
                right(scale);
                for (const auto& e : parameters->entries()) {
                  if (!e.row->expert) continue;
                  const at::Tensor gradient = Parameters::part(parameters->gradients(), e);
                  at::Tensor after = Parameters::part(parameters->values(), e);
                  for (std::int64_t i = 0; i < gradient.size(0); ++i)
                    if (gradient[i].count_nonzero().item<std::int64_t>() == 0)
                      after[i].copy_(Parameters::part(before, e)[i]);
                }
              };
            };
          }};
}

}  // namespace meshparity::faults
