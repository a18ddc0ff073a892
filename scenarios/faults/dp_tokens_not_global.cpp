// Every data rank divides by its own token count and gradients are averaged: the mean of per-rank means.
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault dp_tokens_not_global() {
  return {
      "dp-tokens-not-global",
      "token counts are not summed over data ranks: the loss is the mean of per-rank means",
      "huggingface/transformers#34242",
      "loss",
      "denominators/token_mean",
      "label count not summed over data ranks*",
      {"--model tiny-dense --batch rows --mesh dp2", "--model tiny-moe --batch packed-odd --mesh fsdp2.tp2"},
      [](impl::Seams& seams) {
        seams.normaliser = [](impl::Normaliser& normaliser) {
          normaliser.sum_over_data_ranks = [right =
                                                normaliser.sum_over_data_ranks](const at::Tensor& counts) {
            const at::Tensor ranks = right(at::ones_like(counts));
            return counts * ranks;
          };
        };
      }};
}

}  // namespace meshparity::faults
