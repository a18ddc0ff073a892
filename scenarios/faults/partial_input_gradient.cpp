// Experts cut over tp consume a replicated input: its gradient is a partial sum on every rank and is not
// reduced.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

// Leaves out the backward reduction of matching sites.
class SkipInputReduction : public PassOn {
 public:
  SkipInputReduction(std::shared_ptr<impl::Collectives> inner, std::string glob)
      : PassOn(std::move(inner)), glob_(std::move(glob)) {}
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    const at::Tensor sum = inner().all_reduce(group, x, site);  // every rank still takes part
    return glob_match(glob_, site) ? x : sum;
  }

 private:
  std::string glob_;
};

}  // namespace

Fault moe_tp_input_grad_partial() {
  return {"moe-tp-input-grad-partial",
          "input gradient of tensor-sharded experts is partial and not summed over tp",
          "pytorch/torchtitan#1805",
          "grads",
          "model.layers.*.post_attention_layernorm.weight",
          "input-gradient all-reduce over tp missing at layers.*.mlp",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh tp3"},
          [](impl::Seams& seams) {
            seams.collectives = wrap_collectives<SkipInputReduction>(std::string("*.mlp:backward"));
          }};
}

Fault partial_input_grad_attention() {
  return {
      "from-to-local-partial-grad",
      "input gradient of the column-parallel attention projections declared replicated where it is partial",
      "pytorch/pytorch#172932",
      "grads",
      "model.layers.*.input_layernorm.weight",
      "input-gradient all-reduce over tp missing at layers.*.self_attn",
      {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh dp2.tp3"},
      [](impl::Seams& seams) {
        seams.collectives = wrap_collectives<SkipInputReduction>(std::string("*.self_attn:backward"));
      }};
}

}  // namespace meshparity::faults
