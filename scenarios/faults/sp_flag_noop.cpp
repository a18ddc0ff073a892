// Sequence parallelism is accepted on the command line and wired nowhere: every rank keeps all tokens, and
// all numbers are right.
#include "impl/parallel/token_layout.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault sp_flag_noop() {
  return {"sp-flag-noop",
          "the sp flag is accepted but not wired: the residual stream is whole on every tp rank",
          "modelscope/ms-swift#10061",
          "placement",
          "sp",
          "sp has no effect",
          {"--model tiny-dense --batch rows --mesh tp2 --sp on",
           "--model tiny-moe --batch packed-odd --mesh tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int) {
              layout.sequence = false;
              for (auto& tokens : layout.micro_batches)
                tokens.residual_sizes.assign(static_cast<std::size_t>(mesh.tp), tokens.tokens());
            };
            seams.plan = [](impl::Plan& plan, const Mesh&) {
              for (auto& row : plan.rows)
                if (glob_match("*layernorm.weight", row.name) || row.name == "model.norm.weight")
                  row.tp_sum = impl::TpSum::none;
            };
          }};
}

}  // namespace meshparity::faults
